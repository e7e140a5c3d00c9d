#pragma once
#include <cstdint>

namespace cnnfast {

// Rows of n values: y = act((x - mean) * factor + shift), each parameter with n values.
struct AffineRows {
  const float* x;
  float* y;
  const float *mean, *factor, *shift;
  int64_t rows, n;
  int activation;  // kNone, kRelu or kRelu6
};

// Pixels of c channels: y = x / (k + alpha * sum of squares of the channels from c - before to c +
// after)^beta.
struct ResponseRows {
  const float* x;
  float* y;
  int64_t rows, c, before, after;  // before, after below c
  float k, alpha;
  double beta;
  float* squares;  // response_scratch(rows, c, before, after) floats
};

// One softmax for every column of `columns` values: k rows, `step` apart.
struct SoftmaxColumns {
  const float* x;
  float* y;
  int64_t k, step, columns;
  bool log;
};

struct NormKernels {
  void (*affine)(const AffineRows*);
  int64_t (*response_scratch)(int64_t rows, int64_t c, int64_t before, int64_t after);
  void (*response)(const ResponseRows*);
  void (*softmax_rows)(const float* x, float* y, int64_t rows, int64_t k, bool log);
  void (*softmax_columns)(const SoftmaxColumns*);
};

}  // namespace cnnfast
