#pragma once
#include <cstdint>

namespace cnnfast {

struct ResampleKernels {
  // `rows` runs of `count` floats; run r goes from x + r * x_step to y + r * y_step.
  void (*copy_runs)(float* y, int64_t y_step, const float* x, int64_t x_step, int64_t count, int64_t rows);
  // y[i * c + k] = x[i * step + k] for i in 0..n-1, k in 0..c-1; step 0 repeats one pixel.
  void (*copy_pixels)(float* y, const float* x, int64_t step, int64_t c, int64_t n);
  void (*fill)(float* y, float value, int64_t count);
};

}  // namespace cnnfast
