#pragma once
#include <cstdint>

namespace cnnfast {

// One output row of a pooling.
struct PoolRow {
  // `rows` >= 1 input rows that lie in the picture, each w pixels of c channels.
  const float* const* x;
  int64_t rows;
  float* y;  // q pixels of c channels
  int64_t w, c, q;
  int64_t ldx, ldy;  // floats from pixel to pixel, at least c
  int64_t kw, sw, dw, pl;
  // Averages: y = sum / (divisor * divisors[q]).
  double divisor;
  const double* divisors;
  // Positions: where to write them, and the index of the first pixel of each row.
  int64_t* positions;
  const int64_t* row_start;
};

struct PoolKernels {
  void (*max_row)(const PoolRow*);
  void (*average_row)(const PoolRow*);
  void (*position_row)(const PoolRow*);  // maximum and where it is
  // y[i] = max or sum over the rows of x[r][i].
  void (*merge_rows_max)(float* y, const float* const* x, int64_t rows, int64_t count);
  void (*merge_rows_sum)(float* y, const float* const* x, int64_t rows, int64_t count);
  // y[k] = max or sum over n >= 1 pixels of x[i * step + k], k in 0..c-1.
  void (*reduce_max)(float* y, const float* x, int64_t step, int64_t c, int64_t n);
  void (*reduce_sum)(float* y, const float* x, int64_t step, int64_t c, int64_t n);
};

}  // namespace cnnfast
