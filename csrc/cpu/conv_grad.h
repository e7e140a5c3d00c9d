// Gradients of convolution and dense layers; `spec` is that of the convolution itself.
#pragma once
#include "core/spec.h"

namespace cnnfast {

// g n x p x q x o, w HWIO -> dx n x h x w x c. `winograd`: 3x3 and 5x5 kernels of stride 1 may take that,
// where it is expected to be quicker; the choice depends on the layer alone.
void conv2d_grad_input(const Conv2dSpec& spec, const float* g, const float* w, bool winograd, float* dx);
// x n x h x w x c, g n x p x q x o -> dw HWIO. `winograd`: likewise, by the shape alone.
void conv2d_grad_weight(const Conv2dSpec& spec, const float* x, const float* g, bool winograd, float* dw);
// The same where every channel has one kernel (groups = c = o).
void depthwise_grad_input(const Conv2dSpec& spec, const float* g, const float* w, float* dx);
void depthwise_grad_weight(const Conv2dSpec& spec, const float* x, const float* g, float* dw);

// g rows x out, w in x out -> dx rows x in.
void linear_grad_input(int64_t rows, int64_t in, int64_t out, const float* g, const float* w, float* dx);
// x rows x in, g rows x out -> dw in x out.
void linear_grad_weight(int64_t rows, int64_t in, int64_t out, const float* x, const float* g, float* dw);

// y[k] = sum of x[i][k] over rows of c values: stretches of rows in floats, joined in doubles.
void channel_sums(int64_t rows, int64_t c, const float* x, float* y);

// y = the sum of `count` arrays of `size` values, added pairwise; they are overwritten.
void add_pairwise(float* parts, int64_t count, int64_t size, float* y, int threads);

}  // namespace cnnfast
