#pragma once
#include <cstdint>

namespace cnnfast {

// Weighted sums along one axis: output i = sum over k < count[i] of weights[i * taps + k] x[start[i] + k].
struct ResampleTable {
  const int64_t* start;
  const int32_t* count;
  const float* weights;
  int64_t taps;
};

// A contiguous matrix of `columns` floats per row.
struct ConcatPart {
  const float* x;
  int64_t columns;
};

struct ResampleKernels {
  // `rows` runs of `count` floats; run r goes from x + r * x_step to y + r * y_step.
  void (*copy_runs)(float* y, int64_t y_step, const float* x, int64_t x_step, int64_t count, int64_t rows);
  // y[i * c + k] = x[i * step + k] for i in 0..n-1, k in 0..c-1; step 0 repeats one pixel.
  void (*copy_pixels)(float* y, const float* x, int64_t step, int64_t c, int64_t n);
  void (*fill)(float* y, float value, int64_t count);
  // y[i] = sum over r of weights[r] * rows[r][i].
  void (*blend_rows)(float* y, const float* const* rows, const float* weights, int64_t n, int64_t count);
  // n pixels of c channels by the table. x may be read up to `readable` floats.
  void (*blend_pixels)(float* y, const float* x, int64_t readable, const ResampleTable* table, int64_t c,
                       int64_t n);
  // y = row 0 of every part, row 1 of every part, ... `past_cache`: y is larger than the caches, so it is
  // written without being read first.
  void (*join_rows)(float* y, const ConcatPart* parts, int64_t count, int64_t rows, bool past_cache);
  // y[i * c + k] = x[start[i] * c + k].
  void (*pick_pixels)(float* y, const float* x, int64_t readable, const int64_t* start, int64_t c, int64_t n);
};

}  // namespace cnnfast
