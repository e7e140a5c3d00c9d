// Pooling of regions of interest: geometry of the bins, regions or their rows over threads. The geometry
// is computed in the order of the NumPy definition, so both see the same bins and samples.
#include "cpu/roi.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/threads.h"
#include "kernels/table.h"

namespace cnnfast {
namespace {

// First and last pixel of bin `i` of `bins` between two rounded coordinates, held inside the image.
struct Span {
  double start;
  float bin;
  int64_t size;

  Span(float low, float high, float scale, int64_t bins, int64_t size)
      : start(std::round(low * scale)), size(size) {
    const double length = std::max(std::round(high * scale) - start + 1.0, 1.0);
    bin = static_cast<float>(length) / static_cast<float>(bins);
  }
  int64_t clamp(double place) const {
    return static_cast<int64_t>(std::min(std::max(place, 0.0), static_cast<double>(size)));
  }
  int64_t begin(int64_t i) const { return clamp(std::floor(static_cast<float>(i) * bin) + start); }
  int64_t end(int64_t i) const { return clamp(std::ceil(static_cast<float>(i + 1) * bin) + start); }
};

// Bilinear samples along one side of a region.
struct Samples {
  float start, bin;
  int64_t count;  // per bin
  int64_t size;   // pixels of the image along this side

  Samples(float low, float high, float scale, bool aligned, int64_t bins, int64_t samples, int64_t size)
      : size(size) {
    const float offset = aligned ? 0.5f : 0.0f;
    start = low * scale - offset;
    float length = (high * scale - offset) - start;
    if (!aligned) length = std::max(length, 1.0f);
    bin = length / static_cast<float>(bins);
    count = samples > 0 ? samples : std::max<int64_t>(0, static_cast<int64_t>(std::ceil(bin)));
  }

  // Appends the pixels that the samples of bin `i` read, with their weights.
  void append(int64_t i, std::vector<int32_t>& pixel, std::vector<float>& weight) const {
    const size_t first = pixel.size();
    const double share = 1.0 / static_cast<double>(count);
    const double base = start + static_cast<double>(i) * bin;
    auto add = [&](int64_t place, double w) {
      if (w == 0) return;  // what counts for nothing is not read, so a NaN there does no harm
      // Samples move on steadily: the pixel is one of the last two, or new.
      for (size_t back = pixel.size(); back > first && back + 2 > pixel.size(); --back)
        if (pixel[back - 1] == place) {
          weight[back - 1] += static_cast<float>(w * share);
          return;
        }
      pixel.push_back(static_cast<int32_t>(place));
      weight.push_back(static_cast<float>(w * share));
    };
    for (int64_t s = 0; s < count; ++s) {
      double y = base + (static_cast<double>(s) + 0.5) * bin / static_cast<double>(count);
      if (y > static_cast<double>(size) && bin > 0) break;
      if (y < -1.0 || y > static_cast<double>(size)) continue;
      y = std::max(y, 0.0);
      const auto low = static_cast<int64_t>(y);
      if (low >= size - 1) {
        add(size - 1, 1.0);
        continue;
      }
      const double part = y - static_cast<double>(low);
      add(low, 1.0 - part);
      add(low + 1, part);
    }
  }
};

// Calls rows(region, first bin row, last bin row): whole regions where there are many, else single rows.
template <class F>
void for_regions(const RoiSpec& s, double nanoseconds_per_value, F&& rows) {
  const double work = static_cast<double>(s.k * s.p * s.q) * static_cast<double>(s.c) * nanoseconds_per_value;
  const int threads = threads_for(work);
  const bool whole = s.k >= 4 * threads || threads == 1;
  parallel_for(whole ? s.k : s.k * s.p, threads, [&](int64_t task) {
    if (whole)
      rows(task, int64_t{0}, s.p);
    else
      rows(task / s.p, task % s.p, task % s.p + 1);
  });
}

}  // namespace

void roi_pool(const RoiSpec& s, const float* x, const float* boxes, float* y) {
  if (s.k * s.p * s.q * s.c == 0) return;
  for_regions(s, 0.5, [&](int64_t k, int64_t first, int64_t last) {
    const float* box = boxes + 5 * k;
    const Span vertical(box[2], box[4], s.scale, s.p, s.h), horizontal(box[1], box[3], s.scale, s.q, s.w);
    std::vector<int64_t> columns(static_cast<size_t>(2 * s.q));
    for (int64_t j = 0; j < s.q; ++j) {
      columns[static_cast<size_t>(j)] = horizontal.begin(j);
      columns[static_cast<size_t>(s.q + j)] = horizontal.end(j);
    }
    RoiPoolRow row{x + static_cast<int64_t>(box[0]) * s.h * s.w * s.c,
                   nullptr,
                   s.w,
                   s.c,
                   s.q,
                   0,
                   0,
                   columns.data(),
                   columns.data() + s.q};
    for (int64_t i = first; i < last; ++i) {
      row.y = y + (k * s.p + i) * s.q * s.c;
      row.top = vertical.begin(i);
      row.bottom = vertical.end(i);
      kernels().roi.pool_row(&row);
    }
  });
}

void roi_align(const RoiSpec& s, const float* x, const float* boxes, int64_t samples, bool aligned,
               float* y) {
  if (s.k * s.p * s.q * s.c == 0) return;
  for_regions(s, 1.0, [&](int64_t k, int64_t first, int64_t last) {
    const float* box = boxes + 5 * k;
    const Samples vertical(box[2], box[4], s.scale, aligned, s.p, samples, s.h);
    const Samples horizontal(box[1], box[3], s.scale, aligned, s.q, samples, s.w);
    std::vector<int64_t> start(static_cast<size_t>(s.q + 1), 0);
    std::vector<int32_t> row_pixels, column_pixels;
    std::vector<float> row_weights, column_weights;
    for (int64_t j = 0; j < s.q; ++j) {
      horizontal.append(j, column_pixels, column_weights);
      start[static_cast<size_t>(j + 1)] = static_cast<int64_t>(column_pixels.size());
    }
    for (int64_t i = first; i < last; ++i) {
      row_pixels.clear();
      row_weights.clear();
      vertical.append(i, row_pixels, row_weights);
      const RoiAlignRow row{x + static_cast<int64_t>(box[0]) * s.h * s.w * s.c,
                            y + (k * s.p + i) * s.q * s.c,
                            s.w,
                            s.c,
                            s.q,
                            static_cast<int64_t>(row_pixels.size()),
                            row_pixels.data(),
                            row_weights.data(),
                            start.data(),
                            column_pixels.data(),
                            column_weights.data()};
      kernels().roi.align_row(&row);
    }
  });
}

}  // namespace cnnfast
