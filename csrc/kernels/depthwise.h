#pragma once
#include <cstdint>

namespace cnnfast {

// One output row of a depthwise convolution.
struct DepthwiseRow {
  const float* const* x;  // kh input rows, each w pixels of c channels; rows in the padding are zeros
  const float* weights;   // kh x kw x c
  float* y;               // q pixels of c channels
  const float* bias;      // c values or null
  const float* residual;  // as y, or null
  int64_t w, c, q;
  int64_t kh, kw, sw, dw, pl;
  int activation;
  float slope;
};

struct DepthwiseKernels {
  void (*row)(const DepthwiseRow*);
};

}  // namespace cnnfast
