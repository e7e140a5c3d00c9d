#pragma once
#include "cpu/conv2d.h"

namespace cnnfast {

// A convolution before or after the depthwise one; `weights` null where there is none. 1x1, or, before it,
// any that conv2d_lines takes.
struct BlockConv {
  const Conv2dSpec& spec;
  const PackedMatrix* weights;
  Epilogue epilogue;
  int64_t ld;  // floats from pixel to pixel outside of the block: of what it reads, or of what it writes
};

// Depthwise convolution (one kernel per channel), with a convolution before it, after it, or both: the rows
// between them stay in the second-level cache. `finite`: w holds neither infinity nor NaN.
void depthwise_block(const Conv2dSpec& depthwise, const float* x, const BlockConv& expand, const float* w,
                     bool finite, const Epilogue& epilogue, const BlockConv& project, float* y);

}  // namespace cnnfast
