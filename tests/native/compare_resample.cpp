// Moving pixels: copies must be exact and touch nothing else. Blends differ by the rounding of their sums.
#include "harness.h"

CNNFAST_EXPECT_KERNELS(ResampleKernels, void (*copy_runs)(); void (*copy_pixels)(); void (*fill)();
                       void (*blend_rows)(); void (*blend_pixels)(); void (*join_rows)();
                       void (*pick_pixels)();)

namespace compare {
namespace {

void compare_blends(const KernelTable& base, const KernelTable& level, Guard guard, Report& report) {
  Random random(6);
  for (int64_t count : {1, 3, 4, 7, 8, 15, 16, 17, 33, 129})
    for (int64_t n : {1, 2, 5}) {
      std::vector<Floats> rows;
      std::vector<const float*> pointers;
      for (int64_t r = 0; r < n; ++r) rows.push_back(random.floats(count, guard));
      for (const Floats& row : rows) pointers.push_back(row.data());
      const Floats weights = random.floats(n, guard);
      Floats expected(count, guard), got(count, guard);
      base.resample.blend_rows(expected.data(), pointers.data(), weights.data(), n, count);
      level.resample.blend_rows(got.data(), pointers.data(), weights.data(), n, count);
      // Values and weights are at most 1; each sum rounds twice per term without FMA.
      const std::vector<double> bounds(static_cast<size_t>(count),
                                       2.0 * static_cast<double>(n) * static_cast<double>(n) * kUnit);
      report.same("blend_rows", expected.data(), got.data(), count, &bounds);
    }

  for (int64_t c : {1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 40})
    for (int64_t taps : {1, 2, 3, 7})
      for (int64_t n : {1, 4, 7, 19}) {
        const int64_t width = 23, readable = width * c;
        const Floats x = random.floats(readable, guard);
        std::vector<int64_t> start;
        std::vector<int32_t> counts;
        Floats weights = random.floats(n * taps, guard);
        for (int64_t i = 0; i < n; ++i) {
          counts.push_back(static_cast<int32_t>(1 + random.below(taps)));
          // Ascending, and the last output reads up to the end of x.
          start.push_back((width - taps) * i / (n > 1 ? n - 1 : 1) + (taps - counts.back()));
          for (int64_t k = counts.back(); k < taps; ++k) weights.data()[i * taps + k] = 0;
        }
        const cnnfast::ResampleTable table{start.data(), counts.data(), weights.data(), taps};
        Floats expected(n * c, guard), got(n * c, guard);
        base.resample.blend_pixels(expected.data(), x.data(), readable, &table, c, n);
        level.resample.blend_pixels(got.data(), x.data(), readable, &table, c, n);
        const std::vector<double> bounds(static_cast<size_t>(n * c),
                                         2.0 * static_cast<double>(taps) * static_cast<double>(taps) * kUnit);
        report.same("blend_pixels", expected.data(), got.data(), n * c, &bounds);

        base.resample.pick_pixels(expected.data(), x.data(), readable, start.data(), c, n);
        level.resample.pick_pixels(got.data(), x.data(), readable, start.data(), c, n);
        report.same("pick_pixels", expected.data(), got.data(), n * c);
      }
}

}  // namespace

void compare_resample(const KernelTable& base, const KernelTable& level, Guard guard, Report& report) {
  compare_blends(base, level, guard, report);
  Random random(5);
  for (int64_t count : {1, 3, 4, 7, 8, 15, 16, 17, 31, 33, 64, 129, 600})
    for (int64_t rows : {1, 4}) {
      const int64_t x_step = count + 3, y_step = count + 1, floats = (rows - 1) * y_step + count;
      const Floats x = random.floats((rows - 1) * x_step + count, guard);
      Floats expected = filled(floats, guard, 7.0f), got = filled(floats, guard, 7.0f);
      base.resample.copy_runs(expected.data(), y_step, x.data(), x_step, count, rows);
      level.resample.copy_runs(got.data(), y_step, x.data(), x_step, count, rows);
      report.same("copy_runs", expected.data(), got.data(), floats);

      for (int64_t step : {int64_t{0}, count, 2 * count}) {
        const int64_t n = 5;
        const Floats from = random.floats((n - 1) * step + count, guard);
        Floats wanted(n * count, guard), made(n * count, guard);
        base.resample.copy_pixels(wanted.data(), from.data(), step, count, n);
        level.resample.copy_pixels(made.data(), from.data(), step, count, n);
        report.same("copy_pixels", wanted.data(), made.data(), n * count);
      }

      for (bool past_cache : {false, true}) {
        const Floats second = random.floats(rows * 3, guard);
        const Floats first = random.floats(rows * count, guard);
        const cnnfast::ConcatPart parts[2] = {{first.data(), count}, {second.data(), 3}};
        Floats wanted(rows * (count + 3), guard), made(rows * (count + 3), guard);
        base.resample.join_rows(wanted.data(), parts, 2, rows, false);
        level.resample.join_rows(made.data(), parts, 2, rows, past_cache);
        report.same("join_rows", wanted.data(), made.data(), rows * (count + 3));
      }

      Floats filled_by[2] = {Floats(count, guard), Floats(count, guard)};
      base.resample.fill(filled_by[0].data(), -2.5f, count);
      level.resample.fill(filled_by[1].data(), -2.5f, count);
      report.same("fill", filled_by[0].data(), filled_by[1].data(), count);
    }
}

}  // namespace compare
