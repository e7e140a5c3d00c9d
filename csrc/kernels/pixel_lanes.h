// The table of the convolution with few output channels, for each instruction level.
#pragma once
#include "core/epilogue.h"
#include <cstdint>

namespace cnnfast {

// Lines of a picture as planes, so that neighbouring pixels lie side by side: channel k of pixel
// i * stride + s - left is at to[line * to_step + (k * stride + s) * plane + i], zero outside the picture.
struct PixelPlanes {
  const float* x;
  int64_t lines, line_step;
  int64_t w, c, ldx;  // of a line; floats from pixel to pixel
  int64_t left, stride;
  float* to;
  int64_t to_step, plane;
};

// Output rows, summed over kernel rows, then the values under a kernel row.
struct PixelRows {
  const float* const* lines;  // lines[p * kh + i]: planes of what kernel row i reads for row p of the sums
  int64_t kh, values;
  const int64_t* at;  // value t under a kernel row begins here in a line; whole vectors are read
  const float* w;     // kh x values x o
  const float* bias;  // or null
  int activation;
  float slope;
  int64_t rows, q, o;  // of the sums, o at most kPixelOutputs
  bool pools;          // y holds the maxima of windows of 2x2 pixels; rows and q are even
  float* y;
  int64_t ldy, row_step;  // floats from pixel to pixel, from row to row
};

constexpr int kPixelOutputs = 8;

struct PixelKernels {
  void (*planes)(const PixelPlanes*);
  void (*rows)(const PixelRows*);
};

}  // namespace cnnfast
