// Pooling of regions of interest: geometry of the bins, regions or their rows over threads. The geometry
// is computed in the order of the NumPy definition, so both see the same bins and samples. Gradients of
// regions that overlap add up in one order: there the channels are split over threads.
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

// Pixels that the samples of all bins along one side read, with their weights.
struct SideSamples {
  std::vector<int64_t> start{0};  // bin i takes start[i] .. start[i + 1]
  std::vector<int32_t> pixel;
  std::vector<float> weight;

  SideSamples(const Samples& samples, int64_t bins) {
    for (int64_t i = 0; i < bins; ++i) {
      samples.append(i, pixel, weight);
      start.push_back(static_cast<int64_t>(pixel.size()));
    }
  }
};

// add(first channel, last channel) for blocks of channels of dx, which is zero before.
template <class F>
void by_channels(const RoiSpec& s, int64_t n, double nanoseconds_per_value, float* dx, F&& add) {
  constexpr int64_t kLine = 16, kFilled = 1 << 16;  // floats
  const int64_t values = n * s.h * s.w * s.c;
  parallel_for((values + kFilled - 1) / kFilled, threads_for(static_cast<double>(values) * 0.1),
               [&](int64_t task) {
                 std::fill(dx + task * kFilled, dx + std::min(values, (task + 1) * kFilled), 0.0f);
               });
  if (values == 0) return;
  const double work = static_cast<double>(s.k * s.p * s.q) * static_cast<double>(s.c) * nanoseconds_per_value;
  const int threads = threads_for(work);
  const int64_t lines = (s.c + kLine - 1) / kLine;
  const int64_t blocks = threads == 1 ? 1 : std::min<int64_t>(lines, 4 * threads);
  parallel_for(blocks, threads, [&](int64_t task) {
    add(task * lines / blocks * kLine, std::min(s.c, (task + 1) * lines / blocks * kLine));
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

void roi_pool_grad(const RoiSpec& s, int64_t n, const float* x, const float* boxes, const float* g,
                   float* dx) {
  by_channels(s, n, 4.0, dx, [&](int64_t c0, int64_t c1) {
    const int64_t channels = c1 - c0;
    std::vector<float> best(static_cast<size_t>(channels));
    std::vector<int64_t> where(static_cast<size_t>(channels));
    for (int64_t k = 0; k < s.k; ++k) {
      const float* box = boxes + 5 * k;
      const Span vertical(box[2], box[4], s.scale, s.p, s.h), horizontal(box[1], box[3], s.scale, s.q, s.w);
      const int64_t image = static_cast<int64_t>(box[0]) * s.h * s.w * s.c + c0;
      for (int64_t i = 0; i < s.p; ++i)
        for (int64_t j = 0; j < s.q; ++j) {
          const int64_t left = horizontal.begin(j), right = horizontal.end(j);
          bool first = true;
          for (int64_t row = vertical.begin(i); row < vertical.end(i); ++row)
            for (int64_t column = left; column < right; ++column) {
              const int64_t at = image + (row * s.w + column) * s.c;
              for (int64_t c = 0; c < channels; ++c) {
                // Larger, or the first NaN.
                const bool replace = first || (!(x[at + c] <= best[c]) && best[c] == best[c]);
                best[c] = replace ? x[at + c] : best[c];
                where[c] = replace ? at : where[c];
              }
              first = false;
            }
          if (first) continue;  // a bin without pixels
          const float* from = g + ((k * s.p + i) * s.q + j) * s.c + c0;
          for (int64_t c = 0; c < channels; ++c) dx[where[c] + c] += from[c];
        }
    }
  });
}

void roi_align_grad(const RoiSpec& s, int64_t n, const float* boxes, const float* g, int64_t samples,
                    bool aligned, float* dx) {
  by_channels(s, n, 2.0, dx, [&](int64_t c0, int64_t c1) {
    for (int64_t k = 0; k < s.k; ++k) {
      const float* box = boxes + 5 * k;
      const SideSamples rows(Samples(box[2], box[4], s.scale, aligned, s.p, samples, s.h), s.p);
      const SideSamples columns(Samples(box[1], box[3], s.scale, aligned, s.q, samples, s.w), s.q);
      float* image = dx + static_cast<int64_t>(box[0]) * s.h * s.w * s.c + c0;
      for (int64_t i = 0; i < s.p; ++i)
        for (int64_t j = 0; j < s.q; ++j) {
          const float* from = g + ((k * s.p + i) * s.q + j) * s.c + c0;
          for (int64_t r = rows.start[i]; r < rows.start[i + 1]; ++r)
            for (int64_t t = columns.start[j]; t < columns.start[j + 1]; ++t)
              kernels().optim.add_scaled(rows.weight[r] * columns.weight[t],
                                         image + (rows.pixel[r] * s.w + columns.pixel[t]) * s.c, from,
                                         c1 - c0);
        }
    }
  });
}

}  // namespace cnnfast
