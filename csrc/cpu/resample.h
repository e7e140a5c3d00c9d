// Padding, joining and resizing of pictures, NHWC.
#pragma once
#include <cstdint>

namespace cnnfast {

enum PadMode : int { kPadZeros = 0, kPadReflect = 1, kPadReplicate = 2, kPadCircular = 3 };

struct Pad2dSpec {
  int64_t n, h, w, c;
  int64_t top, bottom, left, right;
  int mode;
  float value;
};

void pad2d(const Pad2dSpec& s, const float* x, float* y);

}  // namespace cnnfast
