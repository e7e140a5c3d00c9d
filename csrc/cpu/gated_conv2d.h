#pragma once
#include "cpu/conv2d.h"

namespace cnnfast {

// 1x1 convolution, stride 1, of a picture whose channels are multiplied by gates (n x c, a set per picture).
void gated_conv2d(const Conv2dSpec& spec, const float* x, const float* gates, const PackedMatrix& w,
                  const Epilogue& epilogue, float* y);

}  // namespace cnnfast
