#pragma once
#include <cstdint>

namespace cnnfast {

// One output row of a pooling, backwards: its gradient is added to the input rows, or written to them where
// windows lie apart.
struct PoolGradRow {
  const float* const* x;  // `rows` input rows that lie in the picture, w pixels; for maxima
  float* const* dx;       // as x
  int64_t rows;
  const float* g;  // q pixels
  int64_t w, q;
  int64_t c, ld;  // channels, and floats from pixel to pixel
  int64_t kw, sw, dw, pl;
  bool apart;
  // Averages: each tap gets g / (divisor * divisors[q]).
  double divisor;
  const double* divisors;
};

struct PoolGradKernels {
  void (*max_row)(const PoolGradRow*);
  void (*average_row)(const PoolGradRow*);
};

}  // namespace cnnfast
