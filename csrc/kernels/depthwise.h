#pragma once
#include <cstdint>

namespace cnnfast {

// Convolution of one picture by groups of few channels, as many in as out.
struct DepthwiseImage {
  const float* x;         // h x w pixels of c channels
  int64_t fold, ring;     // rows from fold on lie `ring` rows before their place; 0 and 0 for a plain picture
  const float* weights;   // kh x kw x group x c
  float* y;               // p x q pixels of c channels
  const float* bias;      // c values or null
  const float* residual;  // as y, or null
  const float* zero;      // a vector of zeros, read instead of padding
  int64_t h, w, c, p, q;
  int64_t group;  // channels: 1, 2, 4 or 8, which divide the vector length
  int64_t kh, kw, sh, sw, dh, dw, pt, pl;
  int activation;
  float slope;
  // Padding may be left out of the sums: false where a weight is not finite, for 0 * inf is NaN.
  bool skip_padding;
};

struct DepthwiseKernels {
  // Output rows p0 .. p1 and channels c0 .. c1; c0 is a multiple of the vector length, and the last
  // channels must come with a whole vector before them, which they may overlap.
  void (*band)(const DepthwiseImage*, int64_t p0, int64_t p1, int64_t c0, int64_t c1);
  bool (*all_finite)(const float* weights, int64_t count);
};

}  // namespace cnnfast
