#pragma once
#include <cstdint>

namespace cnnfast {

// Rows of n values: y[r][i] = act(a[r * a_step + i] op b[r * b_step + i]), or b[r * b_step] for every i.
struct BinaryRows {
  const float* a;
  const float* b;
  float* y;  // rows next to each other, y_step apart
  int64_t rows, n;
  int64_t a_step, b_step, y_step;
  bool b_scalar;  // one value of b per row
  int activation;
  float slope;
};

struct PointwiseKernels {
  void (*activate)(int kind, float slope, const float* x, float* y, int64_t n);
  void (*add)(const BinaryRows*);
  void (*mul)(const BinaryRows*);
};

}  // namespace cnnfast
