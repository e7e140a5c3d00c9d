// Convolution of NHWC pictures with HWIO weights, its gradients, and its adjoint, the transpose convolution.
#pragma once
#include "core/spec.h"
#include "cuda/gemm.h"

namespace cnnfast::cuda {

// y = act(x * w + bias + residual). One channel in and at least two groups: depthwise.
void conv2d(DType type, const Conv2dSpec& spec, const void* x, const void* w, const Ends& ends, void* y,
            Workspace& workspace, cudaStream_t stream);

// The adjoint of the convolution `spec`: dx of its input's shape from g of its result's. The gradient of the
// input, and transpose convolution.
void conv2d_adjoint(DType type, const Conv2dSpec& spec, const void* g, const void* w, const Ends& ends,
                    void* dx, Workspace& workspace, cudaStream_t stream);

// dw of the weight's shape from x and g of the result's shape.
void conv2d_grad_weight(DType type, const Conv2dSpec& spec, const void* x, const void* g, void* dw,
                        Workspace& workspace, cudaStream_t stream);

inline bool is_depthwise(const Conv2dSpec& s) { return s.groups > 1 && s.c == s.groups; }
// Whether it is a product of the matrix of pixels with that of weights.
inline bool is_pointwise(const Conv2dSpec& s) {
  return s.groups == 1 && s.kh == 1 && s.kw == 1 && s.sh == 1 && s.sw == 1 && s.pt == 0 && s.pl == 0 &&
         s.p == s.h && s.q == s.w;
}

// The same three of depthwise convolutions.
void depthwise(DType type, const Conv2dSpec& spec, const void* x, const void* w, const Ends& ends, void* y,
               cudaStream_t stream);
void depthwise_adjoint(DType type, const Conv2dSpec& spec, const void* g, const void* w, const Ends& ends,
                       void* dx, cudaStream_t stream);
void depthwise_grad_weight(DType type, const Conv2dSpec& spec, const void* x, const void* g, void* dw,
                           Workspace& workspace, cudaStream_t stream);

}  // namespace cnnfast::cuda
