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

// Its gradient: forward.y is what it is written to, `shared` as forward.squares.
struct ResponseGradRows {
  ResponseRows forward;
  const float* g;
  float* shared;
};

// One softmax for every column of `columns` values: k rows, `step` apart.
struct SoftmaxColumns {
  const float* x;
  float* y;
  int64_t k, step, columns;
  bool log;
};

// As SoftmaxColumns; y is the result.
struct SoftmaxGradColumns {
  const float *g, *y;
  float* dx;
  int64_t k, step, columns;
  bool log;
};

struct NormKernels {
  void (*affine)(const AffineRows*);
  int64_t (*response_scratch)(int64_t rows, int64_t c, int64_t before, int64_t after);
  void (*response)(const ResponseRows*);
  void (*response_grad)(const ResponseGradRows*);
  void (*softmax_rows)(const float* x, float* y, int64_t rows, int64_t k, bool log);
  void (*softmax_columns)(const SoftmaxColumns*);
  void (*softmax_grad_rows)(const float* g, const float* y, float* dx, int64_t rows, int64_t k, bool log);
  void (*softmax_grad_columns)(const SoftmaxGradColumns*);
};

}  // namespace cnnfast
