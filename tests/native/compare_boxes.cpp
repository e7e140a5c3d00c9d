// Box overlaps, non-maximum suppression, regions of interest. No FMA in boxes: every level must find
// the same bits and keep the same boxes.
#include <algorithm>

#include "harness.h"

CNNFAST_EXPECT_KERNELS(BoxKernels, void (*iou_row)(); int64_t (*nms_list)(); int64_t (*nms_grid)();
                       int64_t (*nms_first)(); int64_t (*soft_nms_round)(); void (*angles)();)
CNNFAST_EXPECT_KERNELS(RoiKernels, void (*pool_row)(); void (*align_row)();)

namespace compare {
namespace {

constexpr int kColumns = cnnfast::kArea + 1;

// Boxes in a crowd; some empty, some turned inside out, some equal.
Floats crowd(int64_t n, Guard guard, Random& random) {
  Floats boxes(4 * n, guard);
  for (int64_t i = 0; i < n; ++i) {
    float* b = boxes.data() + 4 * i;
    if (i > 2 && random.below(8) == 0) {
      std::copy(b - 8, b - 4, b);
      continue;
    }
    b[0] = random.uniform(0, 60), b[1] = random.uniform(0, 60);
    b[2] = b[0] + random.uniform(2, 30), b[3] = b[1] + random.uniform(2, 30);
    if (random.below(10) == 0) b[2] = b[0];
    if (random.below(10) == 0) std::swap(b[1], b[3]);
  }
  return boxes;
}

float area_of(const float* b) {
  const float w = b[2] - b[0], h = b[3] - b[1];
  return w > 0 && h > 0 ? w * h : 0.0f;
}

void values_of(const float* b, float* values, int64_t step) {
  for (int k = 0; k < 4; ++k) values[k * step] = b[k];
  values[cnnfast::kArea * step] = area_of(b);
  values[cnnfast::kLowX * step] = std::min(b[0], b[2]);
  values[cnnfast::kLowY * step] = std::min(b[1], b[3]);
  values[cnnfast::kHighX * step] = std::max(b[0], b[2]);
  values[cnnfast::kHighY * step] = std::max(b[1], b[3]);
  values[cnnfast::kAngle * step] = std::atan2(std::max(b[2] - b[0], 0.0f), std::max(b[3] - b[1], 0.0f));
}

void compare_iou(const KernelTable& base, const KernelTable& level, int64_t m, Guard guard, Random& random,
                 Report& report) {
  const Floats boxes = crowd(m, guard, random), others = crowd(5, guard, random);
  const int64_t step = m + cnnfast::kBoxPadding;
  Floats table = filled(cnnfast::kBoxColumns * step, guard, 0.0f);
  const float* columns[cnnfast::kBoxColumns];
  for (int k = 0; k < cnnfast::kBoxColumns; ++k) columns[k] = table.data() + k * step;
  for (int64_t j = 0; j < m; ++j) values_of(boxes.data() + 4 * j, table.data() + j, step);
  for (int64_t i = 0; i < 5; ++i)
    for (int kind : {cnnfast::kIou, cnnfast::kGiou, cnnfast::kDiou, cnnfast::kCiou}) {
      float a[cnnfast::kBoxColumns];
      values_of(others.data() + 4 * i, a, 1);
      Floats expected(m, guard), got(m, guard);
      base.boxes.iou_row(columns, a, m, kind, expected.data());
      level.boxes.iou_row(columns, a, m, kind, got.data());
      report.same("iou_row", expected.data(), got.data(), m);
    }
}

void compare_angles(const KernelTable& base, const KernelTable& level, int64_t n, Guard guard, Random& random,
                    Report& report) {
  const Floats boxes = crowd(n, guard, random);
  const int64_t step = n + cnnfast::kBoxPadding;
  Floats tables[2] = {filled(cnnfast::kBoxColumns * step, guard, 0.0f),
                      filled(cnnfast::kBoxColumns * step, guard, 0.0f)};
  const KernelTable* kernels[2] = {&base, &level};
  for (int t = 0; t < 2; ++t) {
    float* columns[cnnfast::kBoxColumns];
    for (int k = 0; k < cnnfast::kBoxColumns; ++k) columns[k] = tables[t].data() + k * step;
    for (int64_t i = 0; i < n; ++i) values_of(boxes.data() + 4 * i, tables[t].data() + i, step);
    kernels[t]->boxes.angles(columns, n);
  }
  report.same("angles", tables[0].data() + cnnfast::kAngle * step, tables[1].data() + cnnfast::kAngle * step,
              n);
}

struct Suppressed {
  std::vector<int64_t> kept, first;
};

int64_t cell_of(double place, double scale, int64_t cells) {
  const double cell = place * scale;
  return cell <= 0 ? 0 : cell >= static_cast<double>(cells - 1) ? cells - 1 : static_cast<int64_t>(cell);
}

Suppressed suppress(const KernelTable& table, const Floats& boxes, float threshold, bool grid, Guard guard) {
  const int64_t n = boxes.size() / 4, width = n + cnnfast::kBoxPadding, cells = 3;
  Array<uint64_t> keys(n, guard);
  for (int64_t i = 0; i < n; ++i) keys[i] = static_cast<uint64_t>(i) << 32 | static_cast<uint64_t>(i);
  Floats columns = filled(kColumns * width, guard, grid ? 0.0f : NAN);
  Array<int64_t> kept(n, guard);
  Array<int32_t> start(cells * cells + 1, guard), count(cells * cells, guard);
  cnnfast::NmsJob job{};
  job.boxes = boxes.data();
  job.keys = keys.data();
  job.threshold = threshold;
  for (int k = 0; k < kColumns; ++k) job.columns[k] = columns.data() + k * width;
  job.kept = kept.data();
  const double scale = static_cast<double>(cells) / 90;
  for (int64_t i = 0; i < n; ++i) {
    const float* b = boxes.data() + 4 * i;
    if (!(b[2] > b[0] && b[3] > b[1])) continue;
    const int64_t row = cell_of(0.5 * (static_cast<double>(b[1]) + b[3]), scale, cells);
    ++start[row * cells + cell_of(0.5 * (static_cast<double>(b[0]) + b[2]), scale, cells) + 1];
  }
  for (int64_t c = 0; c < cells * cells; ++c) start[c + 1] += start[c];
  job.grid = {start.data(),
              count.data(),
              cells,
              cells,
              0,
              0,
              scale,
              scale,
              std::max(1.0 - threshold, 0.5 * (1.0 / threshold - 1.0)) + 1e-4};
  // In two pieces, as long lists are cut.
  const auto scan = grid ? table.boxes.nms_grid : table.boxes.nms_list;
  scan(&job, 0, n / 2);
  scan(&job, n / 2, n);
  Suppressed result;
  result.kept.assign(kept.data(), kept.data() + job.kept_count);
  if (!grid)
    for (int64_t i = 0; i < n; ++i) result.first.push_back(table.boxes.nms_first(&job, boxes.data() + 4 * i));
  return result;
}

void compare_soft(const KernelTable& base, const KernelTable& level, int64_t n, bool gaussian, Guard guard,
                  Random& random, Report& report) {
  const Floats boxes = crowd(n, guard, random);
  const int64_t width = n + cnnfast::kBoxPadding;
  Floats columns = filled(kColumns * width, guard, 0.0f);
  Floats scores[2] = {filled(width, guard, NAN), filled(width, guard, NAN)};
  for (int64_t i = 0; i < n; ++i) {
    float values[cnnfast::kBoxColumns];
    values_of(boxes.data() + 4 * i, values, 1);
    for (int k = 0; k < kColumns; ++k) columns[k * width + i] = values[k];
    scores[0][i] = scores[1][i] = random.below(5) ? random.uniform(0, 1) : 0.5f;
  }
  int64_t places[2] = {0, 0};
  const KernelTable* tables[2] = {&base, &level};
  for (int64_t round = 0; round < n && places[0] >= 0; ++round) {
    int64_t live[2];
    for (int t = 0; t < 2; ++t) {
      cnnfast::SoftNmsJob job{};
      for (int k = 0; k < kColumns; ++k) {
        job.columns[k] = columns.data() + k * width;
        job.chosen[k] = columns[k * width + places[t]];
      }
      scores[t][places[t]] = NAN;
      job.score = scores[t].data();
      job.n = n;
      job.gaussian = gaussian;
      job.threshold = 0.3f, job.sigma = 0.5f, job.score_threshold = 0.05f;
      places[t] = tables[t]->boxes.soft_nms_round(&job);
      live[t] = job.live;
    }
    report.same_integers("soft_nms place", &places[0], &places[1], 1);
    report.same_integers("soft_nms live", &live[0], &live[1], 1);
    report.same("soft_nms scores", scores[0].data(), scores[1].data(), n);
    if (places[0] != places[1]) return;
  }
}

}  // namespace

void compare_boxes(const KernelTable& base, const KernelTable& level, Guard guard, Report& report) {
  Random random(7);
  for (int64_t n : {1, 3, 4, 8, 15, 16, 17, 33, 70, 200}) {
    compare_iou(base, level, n, guard, random, report);
    compare_angles(base, level, n, guard, random, report);
    for (float threshold : {0.2f, 0.5f, 0.7f})
      for (bool grid : {false, true}) {
        const Floats boxes = crowd(n, guard, random);
        const Suppressed expected = suppress(base, boxes, threshold, grid, guard);
        const Suppressed got = suppress(level, boxes, threshold, grid, guard);
        const auto kept = static_cast<int64_t>(expected.kept.size()),
                   came = static_cast<int64_t>(got.kept.size());
        report.same_integers("kept boxes", &kept, &came, 1);
        if (kept == came) report.same_integers("kept", expected.kept.data(), got.kept.data(), kept);
        report.same_integers("nms_first", expected.first.data(), got.first.data(),
                             static_cast<int64_t>(got.first.size()));
      }
    for (bool gaussian : {false, true}) compare_soft(base, level, n, gaussian, guard, random, report);
  }
}

void compare_roi(const KernelTable& base, const KernelTable& level, Guard guard, Report& report) {
  Random random(8);
  const int64_t h = 5, w = 6, bins = 3;
  for (int64_t c : {1, 3, 4, 7, 8, 15, 16, 17, 33, 64, 70, 130}) {
    const Floats image = random.floats(h * w * c, guard);
    if (c % 2) image[c] = NAN;
    // The last bin is empty; the others reach the corners of the image.
    Array<int64_t> left(bins, guard), right(bins, guard);
    left[0] = 0, right[0] = 4, left[1] = 3, right[1] = w, left[2] = right[2] = w;
    for (int64_t top : {0, 3, 5}) {
      Floats expected(bins * c, guard), got(bins * c, guard);
      cnnfast::RoiPoolRow row{image.data(), expected.data(), w, c, bins, top, h, left.data(), right.data()};
      base.roi.pool_row(&row);
      row.y = got.data();
      level.roi.pool_row(&row);
      report.same("roi_pool", expected.data(), got.data(), bins * c);
    }
    const int64_t rows = 3, taps = 5;
    Array<int32_t> rows_read(rows, guard), columns_read(taps, guard);
    Array<int64_t> start(bins + 1, guard);
    rows_read[0] = 0, rows_read[1] = 1, rows_read[2] = h - 1;
    for (int64_t j = 0; j < taps; ++j) columns_read[j] = static_cast<int32_t>(j == 4 ? w - 1 : j);
    start[1] = 2, start[2] = start[3] = taps;
    const Floats row_weights = random.floats(rows, guard, 0, 1),
                 column_weights = random.floats(taps, guard, 0, 1);
    const Floats plain = random.floats(h * w * c, guard);
    Floats expected(bins * c, guard), got(bins * c, guard);
    cnnfast::RoiAlignRow row{plain.data(),
                             expected.data(),
                             w,
                             c,
                             bins,
                             rows,
                             rows_read.data(),
                             row_weights.data(),
                             start.data(),
                             columns_read.data(),
                             column_weights.data()};
    base.roi.align_row(&row);
    row.y = got.data();
    level.roi.align_row(&row);
    // At most nine products below 1, summed with or without FMA.
    const std::vector<double> bounds(static_cast<size_t>(bins * c), 2 * 9 * 9 * kUnit);
    report.same("roi_align", expected.data(), got.data(), bins * c, &bounds);
  }
}

}  // namespace compare
