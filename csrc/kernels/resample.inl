// Moving pixels. copy_runs and copy_pixels: whole vectors, the last one overlapping its neighbour, so
// that a short run costs a load and a store instead of a call; long runs go to memcpy.
#pragma once
#include <string.h>

#include "kernels/resample.h"
#include "kernels/simd.h"

namespace {

CNNFAST_INLINE void copy_run(float* y, const float* x, int64_t count) {
  if (count < VL) {
    for (int64_t i = 0; i < count; ++i) y[i] = x[i];
    return;
  }
  if (count > 32 * VL) {
    memcpy(y, x, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  const vf last = load(x + count - VL);
  for (int64_t i = 0; i + VL < count; i += VL) store(y + i, load(x + i));
  store(y + count - VL, last);
}

static void copy_runs(float* y, int64_t y_step, const float* x, int64_t x_step, int64_t count, int64_t rows) {
  for (int64_t r = 0; r < rows; ++r) copy_run(y + r * y_step, x + r * x_step, count);
}

static void copy_pixels(float* y, const float* x, int64_t step, int64_t c, int64_t n) {
  for (int64_t i = 0; i < n; ++i) copy_run(y + i * c, x + i * step, c);
}

static void fill_run(float* y, float value, int64_t count) {
  int64_t i = 0;
  for (; i + VL <= count; i += VL) store(y + i, splat(value));
  for (; i < count; ++i) y[i] = value;
}

constexpr cnnfast::ResampleKernels resample_kernels() { return {copy_runs, copy_pixels, fill_run}; }

}  // namespace
