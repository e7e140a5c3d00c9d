// Gradients of convolution and dense layers; `spec` is that of the convolution itself.
#pragma once
#include "core/spec.h"

namespace cnnfast {

// g n x p x q x o, w HWIO -> dx n x h x w x c.
void conv2d_grad_input(const Conv2dSpec& spec, const float* g, const float* w, float* dx);

}  // namespace cnnfast
