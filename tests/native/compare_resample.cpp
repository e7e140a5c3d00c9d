// Moving pixels: copies must be exact and touch nothing else.
#include "harness.h"

CNNFAST_EXPECT_KERNELS(ResampleKernels, void (*copy_runs)(); void (*copy_pixels)(); void (*fill)();)

namespace compare {

void compare_resample(const KernelTable& base, const KernelTable& level, Guard guard, Report& report) {
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

      Floats filled_by[2] = {Floats(count, guard), Floats(count, guard)};
      base.resample.fill(filled_by[0].data(), -2.5f, count);
      level.resample.fill(filled_by[1].data(), -2.5f, count);
      report.same("fill", filled_by[0].data(), filled_by[1].data(), count);
    }
}

}  // namespace compare
