#pragma once
#include <cstdint>

namespace cnnfast {

// One line of output pixels under kernel row i of a depthwise convolution of c channels.
struct DepthwiseGradLine {
  const float* x;  // the input line
  const float* g;  // q pixels
};

// dw[j][k] = sum over lines and pixels q of x[q * sw + j * dw - pl][k] * g[q][k], k in 0 .. channels.
struct DepthwiseGradWeight {
  const DepthwiseGradLine* lines;
  int64_t line_count;
  int64_t w, q, c;  // columns of x and g; floats from pixel to pixel
  int64_t kw, sw, dw, pl;
  int64_t channels;
  float* y;  // kw rows of c
};

struct DepthwiseGradKernels {
  void (*weight)(const DepthwiseGradWeight*);
  // y[k] = sum over taps of g[tap][k] * w[tap][k], k in 0 .. channels.
  void (*input)(const float* const* g, const float* const* w, int64_t taps, int64_t channels, float* y);
};

}  // namespace cnnfast
