#pragma once
#include "cpu/conv2d.h"

namespace cnnfast {

// A 1x1 convolution of every pixel of a block; `weights` null where there is none.
struct BlockPointwise {
  const PackedMatrix* weights;
  Epilogue epilogue;
  int64_t ld;  // floats from pixel to pixel outside of the block: of what it reads, or of what it writes
};

// Depthwise convolution (one kernel per channel), with a 1x1 convolution before it, after it, or both: the
// rows between them stay in the second-level cache. `finite`: w holds neither infinity nor NaN.
void depthwise_block(const Conv2dSpec& depthwise, const float* x, const BlockPointwise& expand,
                     const float* w, bool finite, const Epilogue& epilogue, const BlockPointwise& project,
                     float* y);

}  // namespace cnnfast
