// Overlaps of boxes and non-maximum suppression: sorting, the choice between list and grid, threads.
#include "cpu/boxes.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/arena.h"
#include "core/threads.h"
#include "kernels/table.h"

namespace cnnfast {
namespace {

bool has_nan(const float* box) {
  return std::isnan(box[0]) || std::isnan(box[1]) || std::isnan(box[2]) || std::isnan(box[3]);
}

// Values of one box, `step` floats apart; see BoxColumn. The angle comes later.
void box_values(const float* box, int kind, float* values, int64_t step) {
  const float w = box[2] - box[0], h = box[3] - box[1];
  for (int k = 0; k < 4; ++k) values[k * step] = box[k];
  values[kArea * step] = w > 0 && h > 0 ? w * h : 0.0f;
  if (kind == kIou) return;
  values[kLowX * step] = std::min(box[0], box[2]);
  values[kLowY * step] = std::min(box[1], box[3]);
  values[kHighX * step] = std::max(box[0], box[2]);
  values[kHighY * step] = std::max(box[1], box[3]);
}

// --- order of scores -------------------------------------------------------------------------------

// Grows as the score falls; equal scores, the two zeros included, have equal keys.
uint64_t score_key(float score, int64_t number) {
  const float s = score + 0.0f;
  uint32_t bits;
  std::memcpy(&bits, &s, sizeof bits);
  const uint32_t rising = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(~rising) << 32 | static_cast<uint32_t>(number);
}

// Stable radix sort by the upper 32 bits. Digits that are the same in all keys cost nothing.
template <int Bits>
uint64_t* radix_sort(uint64_t* keys, uint64_t* spare, int64_t n) {
  constexpr int kPasses = (32 + Bits - 1) / Bits;
  constexpr uint32_t kDigits = 1u << Bits;
  uint32_t count[kPasses][kDigits] = {};
  for (int64_t i = 0; i < n; ++i)
    for (int p = 0; p < kPasses; ++p) ++count[p][keys[i] >> (32 + p * Bits) & (kDigits - 1)];
  for (int p = 0; p < kPasses; ++p) {
    const int shift = 32 + p * Bits;
    if (count[p][keys[0] >> shift & (kDigits - 1)] == n) continue;
    uint32_t place = 0;
    for (uint32_t d = 0; d < kDigits; ++d) {
      const uint32_t here = count[p][d];
      count[p][d] = place;
      place += here;
    }
    for (int64_t i = 0; i < n; ++i) spare[count[p][keys[i] >> shift & (kDigits - 1)]++] = keys[i];
    std::swap(keys, spare);
  }
  return keys;
}

// Sorts n keys that stand in order of their numbers; the result is in `keys` or in `spare`.
uint64_t* sort_keys(uint64_t* keys, uint64_t* spare, int64_t n) {
  if (n < 64) {
    std::sort(keys, keys + n);  // numbers are part of the keys, so this is stable
    return keys;
  }
  return n < 4096 ? radix_sort<8>(keys, spare, n) : radix_sort<11>(keys, spare, n);
}

// --- memory of one call ----------------------------------------------------------------------------

int64_t padded(int64_t n) { return n + kBoxPadding; }

// A list of boxes in columns; see BoxColumn.
struct Columns {
  Columns(int64_t n, const float* boxes, int kind)
      : n(n),
        columns(kind == kIou ? kArea + 1 : kBoxColumns),
        boxes(boxes),
        buffer(static_cast<size_t>(columns * padded(n)) * sizeof(float)) {
    for (int c = 0; c < columns; ++c) {
      column[c] = buffer.floats() + c * padded(n);
      std::memset(column[c] + n, 0, kBoxPadding * sizeof(float));
    }
    for (int64_t i = 0; i < n; ++i) {
      box_values(boxes + 4 * i, kind, buffer.floats() + i, padded(n));
      any_nan |= has_nan(boxes + 4 * i);
    }
    if (kind == kCiou) kernels().boxes.angles(column, n);
  }

  int64_t n;
  int columns;
  const float* boxes;
  Buffer buffer;
  float* column[kBoxColumns] = {};
  bool any_nan = false;
};

// Keys, their spare room and the columns of the kept boxes in one buffer.
struct Workspace {
  explicit Workspace(int64_t n, int64_t lists = 1)
      : width(n + lists * kBoxPadding),
        buffer(static_cast<size_t>(2 * n) * sizeof(uint64_t) +
               static_cast<size_t>((kArea + 1) * width) * sizeof(float)),
        keys(buffer.as<uint64_t>()),
        spare(keys + n) {
    auto* column = reinterpret_cast<float*>(spare + n);
    for (int k = 0; k <= kArea; ++k) columns[k] = column + k * width;
  }

  NmsJob job(const float* boxes, const uint64_t* sorted, float threshold, int64_t offset,
             int64_t* kept) const {
    NmsJob j{};
    j.boxes = boxes;
    j.keys = sorted;
    j.threshold = threshold;
    for (int k = 0; k <= kArea; ++k) j.columns[k] = columns[k] + offset;
    j.kept = kept;
    return j;
  }

  int64_t width;
  Buffer buffer;
  uint64_t *keys, *spare;
  float* columns[kArea + 1];
};

// Keys of all boxes without NaN; boxes and scores with one are dropped here.
int64_t make_keys(int64_t n, const float* boxes, const float* scores, uint64_t* keys) {
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) {
    keys[count] = score_key(scores[i], i);
    count += !(has_nan(boxes + 4 * i) || std::isnan(scores[i]));
  }
  return count;
}

// --- grid ------------------------------------------------------------------------------------------

constexpr int64_t kListed = 256;  // kept boxes from which on a grid is quicker than one list
constexpr int64_t kPerCell = 24;  // boxes per cell aimed at

// IoU > t bounds how far apart two centres are. With sides a and b the shorter is above t times the
// longer, and the overlap above t times the longer is at most (a + b) / 2 - distance; so
//   distance < (a + b) / 2 - t max(a, b) <= b max(1 - t, (1 / t - 1) / 2).
// A ten-thousandth more covers the rounding of the float32 areas, which must be far from overflow and
// underflow for that; the grid is not used otherwise.
struct Grid {
  Buffer buffer;
  NmsGrid view{};

  // False where a plain list is the better choice.
  bool plan(int64_t n, const float* boxes, const uint64_t* keys, float threshold) {
    if (threshold < 0.1f) return false;
    double x0 = HUGE_VAL, y0 = HUGE_VAL, x1 = -HUGE_VAL, y1 = -HUGE_VAL, width = 0, height = 0;
    float least = HUGE_VALF, most = 0;
    int64_t used = 0;
    for (int64_t i = 0; i < n; ++i) {
      const float* box = boxes + 4 * static_cast<int64_t>(static_cast<uint32_t>(keys[i]));
      const float w = box[2] - box[0], h = box[3] - box[1];
      if (!(w > 0 && h > 0)) continue;
      least = std::min(least, std::min(w, h));
      most = std::max(most, std::max(w, h));
      const double cx = 0.5 * (static_cast<double>(box[0]) + box[2]);
      const double cy = 0.5 * (static_cast<double>(box[1]) + box[3]);
      x0 = std::min(x0, cx), x1 = std::max(x1, cx);
      y0 = std::min(y0, cy), y1 = std::max(y1, cy);
      width += w, height += h;
      ++used;
    }
    if (least < 1e-15f || most > 1e15f) return false;
    const double reach = std::max(1.0 - threshold, 0.5 * (1.0 / threshold - 1.0)) + 1e-4;
    // Extents in units of the mean reach; cells are not made smaller than that.
    const double nx = (x1 - x0) / (reach * width / static_cast<double>(used));
    const double ny = (y1 - y0) / (reach * height / static_cast<double>(used));
    const double cells = static_cast<double>(used) / kPerCell;
    const double shrink = std::min(1.0, std::sqrt(cells / std::max(1.0, nx * ny)));
    view.nx = static_cast<int64_t>(std::min(std::max(1.0, nx * shrink), cells));
    view.ny =
        static_cast<int64_t>(std::min(std::max(1.0, ny * shrink), cells / static_cast<double>(view.nx)));
    view.ny = std::max<int64_t>(1, view.ny);
    if (view.nx * view.ny < 4) return false;
    view.x0 = x0, view.y0 = y0;
    view.x_scale = x1 > x0 ? static_cast<double>(view.nx) / (x1 - x0) : 0.0;
    view.y_scale = y1 > y0 ? static_cast<double>(view.ny) / (y1 - y0) : 0.0;
    view.reach = reach;
    if (!std::isfinite(view.x_scale) || !std::isfinite(view.y_scale)) return false;
    count_cells(n, boxes, keys);
    return true;
  }

  // Moves the list of kept boxes, at most kListed, into the cells.
  void take(NmsJob* job, int64_t width) {
    float box[kArea + 1][kListed];
    const int64_t listed = job->listed;
    for (int k = 0; k <= kArea; ++k) {
      std::copy(job->columns[k], job->columns[k] + listed, box[k]);
      std::memset(job->columns[k], 0, static_cast<size_t>(width) * sizeof(float));
    }
    for (int64_t i = 0; i < listed; ++i) {
      const int64_t c = cell_of(box[kX1][i], box[kY1][i], box[kX2][i], box[kY2][i]);
      const int64_t at = view.start[c] + view.count[c]++;
      for (int k = 0; k <= kArea; ++k) job->columns[k][at] = box[k][i];
    }
    job->grid = view;
  }

 private:
  // Every cell gets places for all the boxes whose centres it holds.
  void count_cells(int64_t n, const float* boxes, const uint64_t* keys) {
    const int64_t cells = view.nx * view.ny;
    buffer = Buffer(static_cast<size_t>(2 * cells + 2) * sizeof(int32_t));
    auto* start = buffer.as<int32_t>();
    std::memset(start, 0, static_cast<size_t>(2 * cells + 2) * sizeof(int32_t));
    for (int64_t i = 0; i < n; ++i) {
      const float* box = boxes + 4 * static_cast<int64_t>(static_cast<uint32_t>(keys[i]));
      if (!(box[2] > box[0] && box[3] > box[1])) continue;
      ++start[cell_of(box[0], box[1], box[2], box[3]) + 1];
    }
    for (int64_t c = 0; c < cells; ++c) start[c + 1] += start[c];
    view.start = start;
    view.count = start + cells + 1;
  }

  int64_t cell_of(double x1, double y1, double x2, double y2) const {
    return cell(0.5 * (y1 + y2), view.y0, view.y_scale, view.ny) * view.nx +
           cell(0.5 * (x1 + x2), view.x0, view.x_scale, view.nx);
  }
  // The same steps as the kernel's.
  static int64_t cell(double place, double origin, double scale, int64_t cells) {
    const double c = (place - origin) * scale;
    return c <= 0 ? 0 : c >= static_cast<double>(cells - 1) ? cells - 1 : static_cast<int64_t>(c);
  }
};

// Boxes keys[0..n) against each other. The work is cut in pieces so that a long call notices Ctrl-C.
int64_t suppress(int64_t n, NmsJob job, int64_t width) {
  const BoxKernels& k = kernels().boxes;
  Grid grid;
  auto scan = k.nms_list;
  constexpr int64_t kPiece = 4096;
  job.listed_limit = kListed;
  parallel_for((n + kPiece - 1) / kPiece, 1, [&](int64_t piece) {
    const int64_t end = std::min(n, (piece + 1) * kPiece);
    int64_t next = scan(&job, piece * kPiece, end);
    if (next < end || job.listed == job.listed_limit) {
      // Many boxes stay: from here on look at the near ones only, if that can be done.
      job.listed_limit = 0;
      if (n - next > kListed && grid.plan(n, job.boxes, job.keys, job.threshold)) {
        grid.take(&job, width);
        scan = k.nms_grid;
      }
      if (next < end) scan(&job, next, end);
    }
  });
  return job.kept_count;
}

}  // namespace

void box_iou(int64_t n, int64_t m, const float* a, const float* b, int kind, float* out) {
  if (n == 0 || m == 0) return;
  // A single column would leave most lanes empty: fill rows of the transposed table instead.
  const bool turned = m < kBoxPadding && n > m;
  const Columns row_boxes(turned ? m : n, turned ? b : a, kind),
      wide_boxes(turned ? n : m, turned ? a : b, kind);
  const int64_t rows = row_boxes.n, wide = wide_boxes.n;
  Buffer transposed;
  if (turned) transposed = Buffer(static_cast<size_t>(rows * wide) * sizeof(float));
  float* table = turned ? transposed.floats() : out;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const double each = kind == kIou ? 0.4 : 1.2;
  const int threads = threads_for(each * static_cast<double>(rows) * static_cast<double>(wide));
  const int64_t block = std::max<int64_t>(1, 16384 / wide);
  parallel_for((rows + block - 1) / block, threads, [&](int64_t task) {
    for (int64_t i = task * block; i < std::min(rows, (task + 1) * block); ++i) {
      float* row = table + i * wide;
      float values[kBoxColumns] = {};
      for (int c = 0; c < row_boxes.columns; ++c) values[c] = row_boxes.column[c][i];
      if (row_boxes.any_nan && has_nan(values)) {
        std::fill(row, row + wide, nan);
        continue;
      }
      kernels().boxes.iou_row(wide_boxes.column, values, wide, kind, row);
      if (wide_boxes.any_nan)
        for (int64_t j = 0; j < wide; ++j)
          if (has_nan(wide_boxes.boxes + 4 * j)) row[j] = nan;
    }
  });
  if (turned)
    for (int64_t j = 0; j < wide; ++j)
      for (int64_t i = 0; i < rows; ++i) out[j * rows + i] = table[i * wide + j];
}

int64_t nms(int64_t n, const float* boxes, const float* scores, float threshold, int64_t* kept) {
  if (n == 0) return 0;
  Workspace work(n);
  const int64_t valid = make_keys(n, boxes, scores, work.keys);
  if (valid == 0) return 0;
  const uint64_t* sorted = sort_keys(work.keys, work.spare, valid);
  return suppress(valid, work.job(boxes, sorted, threshold, 0, kept), work.width);
}

int64_t batched_nms(int64_t n, const float* boxes, const float* scores, const int64_t* classes,
                    float threshold, int64_t* kept) {
  if (n == 0) return 0;
  Buffer buffer(static_cast<size_t>(2 * n + 1) * sizeof(int64_t) + static_cast<size_t>(n));
  auto* starts = buffer.as<int64_t>();  // of the classes' runs of keys
  auto* survivors = starts + n + 1;     // kept numbers, class by class
  auto* flag = reinterpret_cast<unsigned char*>(survivors + n);

  Buffer key_buffer(static_cast<size_t>(3 * n) * sizeof(uint64_t));
  auto* keys = key_buffer.as<uint64_t>();
  const int64_t valid = make_keys(n, boxes, scores, keys);
  if (valid == 0) return 0;
  const uint64_t* sorted = sort_keys(keys, keys + n, valid);
  auto* runs = keys + 2 * n;  // keys by class, in each class by score
  std::copy(sorted, sorted + valid, runs);
  auto class_of = [&](uint64_t key) { return classes[static_cast<uint32_t>(key)]; };
  int64_t least = class_of(runs[0]), most = least;
  for (int64_t i = 0; i < valid; ++i) {
    least = std::min(least, class_of(runs[i]));
    most = std::max(most, class_of(runs[i]));
  }
  int64_t count = 0;
  const uint64_t range = static_cast<uint64_t>(most) - static_cast<uint64_t>(least);
  if (range < 4096 || range < static_cast<uint64_t>(valid)) {
    // Counting sort: keeps the order within a class.
    Buffer places(static_cast<size_t>(range + 2) * sizeof(int64_t));
    auto* place = places.as<int64_t>();
    std::memset(place, 0, static_cast<size_t>(range + 2) * sizeof(int64_t));
    for (int64_t i = 0; i < valid; ++i) ++place[class_of(sorted[i]) - least + 1];
    for (uint64_t c = 0; c <= range; ++c) {
      if (place[c + 1]) starts[count++] = place[c];
      place[c + 1] += place[c];
    }
    for (int64_t i = 0; i < valid; ++i) runs[place[class_of(sorted[i]) - least]++] = sorted[i];
  } else {
    std::stable_sort(runs, runs + valid, [&](uint64_t p, uint64_t q) { return class_of(p) < class_of(q); });
    for (int64_t i = 0; i < valid; ++i)
      if (i == 0 || class_of(runs[i]) != class_of(runs[i - 1])) starts[count++] = i;
  }
  starts[count] = valid;

  Workspace work(valid, count);
  std::memset(flag, 0, static_cast<size_t>(n));
  const double nanoseconds = static_cast<double>(valid) *
                             std::min(60.0, 0.3 * static_cast<double>(valid) / static_cast<double>(count));
  parallel_for(count, threads_for(nanoseconds), [&](int64_t c) {
    const int64_t begin = starts[c], size = starts[c + 1] - begin;
    // Each run has columns of its own, padded.
    const NmsJob job = work.job(boxes, runs + begin, threshold, begin + c * kBoxPadding, survivors + begin);
    const int64_t survived = suppress(size, job, padded(size));
    for (int64_t i = 0; i < survived; ++i) flag[survivors[begin + i]] = 1;
  });
  int64_t total = 0;
  for (int64_t i = 0; i < valid; ++i) {
    const auto number = static_cast<uint32_t>(sorted[i]);
    if (flag[number]) kept[total++] = number;
  }
  return total;
}

int64_t soft_nms(int64_t n, const float* boxes, const float* scores, const SoftNms& parameters, int64_t* kept,
                 float* kept_scores) {
  if (n == 0) return 0;
  const int64_t width = padded(n);
  Buffer buffer(static_cast<size_t>((kArea + 2) * width + n) * sizeof(float));
  SoftNmsJob job{};
  for (int k = 0; k <= kArea; ++k) job.columns[k] = buffer.floats() + k * width;
  job.score = buffer.floats() + (kArea + 1) * width;
  auto* number = reinterpret_cast<int32_t*>(job.score + width);
  job.gaussian = parameters.gaussian;
  job.threshold = parameters.threshold;
  job.sigma = parameters.sigma;
  job.score_threshold = parameters.score_threshold;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  int64_t size = 0;
  auto end_columns = [&] {
    for (int64_t i = size; i < size + kBoxPadding; ++i) {
      for (int k = 0; k <= kArea; ++k) job.columns[k][i] = 0.0f;
      job.score[i] = nan;
    }
    job.n = size;
  };
  for (int64_t i = 0; i < n; ++i) {
    if (has_nan(boxes + 4 * i) || !(scores[i] >= parameters.score_threshold)) continue;
    box_values(boxes + 4 * i, kIou, job.columns[0] + size, width);
    job.score[size] = scores[i];
    number[size++] = static_cast<int32_t>(i);
  }
  end_columns();
  int64_t count = 0;
  const auto round = kernels().boxes.soft_nms_round;
  // Nothing overlaps the empty box that is "chosen" first: that round only finds the best score.
  int64_t best = round(&job);
  constexpr int64_t kPiece = 64;
  parallel_for((n + kPiece - 1) / kPiece, 1, [&](int64_t) {
    for (int64_t i = 0; i < kPiece && best >= 0; ++i) {
      kept[count] = number[best];
      kept_scores[count++] = job.score[best];
      for (int k = 0; k <= kArea; ++k) job.chosen[k] = job.columns[k][best];
      job.score[best] = nan;
      if (size > 64 && job.live < size / 2) {
        int64_t to = 0;
        for (int64_t from = 0; from < size; ++from) {
          if (std::isnan(job.score[from])) continue;
          for (int k = 0; k <= kArea; ++k) job.columns[k][to] = job.columns[k][from];
          job.score[to] = job.score[from];
          number[to++] = number[from];
        }
        size = to;
        end_columns();
      }
      best = round(&job);
    }
  });
  return count;
}

int64_t weighted_nms(int64_t n, const float* boxes, const float* scores, float threshold, int64_t* kept,
                     float* kept_boxes) {
  if (n == 0) return 0;
  Workspace work(n);
  const int64_t valid = make_keys(n, boxes, scores, work.keys);
  if (valid == 0) return 0;
  const uint64_t* sorted = sort_keys(work.keys, work.spare, valid);
  NmsJob job = work.job(boxes, sorted, threshold, 0, kept);
  // Five sums and a count of members for each kept box; owner[i] is the kept box of list place i.
  Buffer sums(static_cast<size_t>(6 * valid) * sizeof(double) + static_cast<size_t>(valid) * sizeof(int64_t));
  auto* sum = sums.as<double>();
  auto* owner = reinterpret_cast<int64_t*>(sum + 6 * valid);
  const BoxKernels& k = kernels().boxes;
  constexpr int64_t kPiece = 4096;
  parallel_for((valid + kPiece - 1) / kPiece, 1, [&](int64_t piece) {
    for (int64_t i = piece * kPiece; i < std::min(valid, (piece + 1) * kPiece); ++i) {
      const auto number = static_cast<int64_t>(static_cast<uint32_t>(sorted[i]));
      const float* box = boxes + 4 * number;
      const int64_t place = k.nms_first(&job, box);
      int64_t cluster;
      if (place >= 0) {
        cluster = owner[place];
      } else {
        const int64_t listed = job.listed;
        cluster = job.kept_count;
        k.nms_list(&job, i, i + 1);  // nothing suppresses it: appended
        if (job.listed > listed) owner[listed] = cluster;
        std::fill(sum + 6 * cluster, sum + 6 * cluster + 6, 0.0);
      }
      double* s = sum + 6 * cluster;
      const double score = scores[number];
      for (int c = 0; c < 4; ++c) s[c] += score * static_cast<double>(box[c]);
      s[4] += score;
      s[5] += 1;
    }
  });
  for (int64_t i = 0; i < job.kept_count; ++i) {
    const double* s = sum + 6 * i;
    const float* own = boxes + 4 * kept[i];
    // A box alone stays as it is; so does one whose weights have no positive finite sum.
    const bool mean = s[5] > 1 && s[4] > 0 && std::isfinite(s[4]);
    for (int c = 0; c < 4; ++c) kept_boxes[4 * i + c] = mean ? static_cast<float>(s[c] / s[4]) : own[c];
  }
  return job.kept_count;
}

}  // namespace cnnfast
