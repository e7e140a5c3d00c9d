// Padding, joining and resizing of pictures, NHWC.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels/resample.h"

namespace cnnfast {

enum PadMode : int { kPadZeros = 0, kPadReflect = 1, kPadReplicate = 2, kPadCircular = 3 };

struct Pad2dSpec {
  int64_t n, h, w, c;
  int64_t top, bottom, left, right;
  int mode;
  float value;
};

void pad2d(const Pad2dSpec& s, const float* x, float* y);
// dx n x h x w x c: every pixel has the sum of g over all places where it was written.
void pad2d_grad(const Pad2dSpec& s, const float* g, float* dx);

// Arrays as matrices of the same number of rows, put side by side.
void concat(const std::vector<ConcatPart>& parts, int64_t rows, float* y);

// What each position along one axis of a resized picture is made of; made once per pair of sizes.
struct ResizeAxis {
  int64_t size;   // of the input
  int64_t taps;   // weights per output, the unused ones being zero
  bool picks;     // one tap of weight 1 each
  bool identity;  // the output is the input
  std::vector<int64_t> start;
  std::vector<int32_t> count;
  std::vector<float> weights;

  int64_t outputs() const { return static_cast<int64_t>(start.size()); }
};

// columns_first: blend along rows before blending down columns.
void resize(int64_t n, int64_t c, const ResizeAxis& vertical, const ResizeAxis& horizontal,
            bool columns_first, const float* x, float* y);

}  // namespace cnnfast
