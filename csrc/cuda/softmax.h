// Softmax, its logarithm and their gradients along the middle axis of outer x k x inner; cross-entropies of
// softmax and of sigmoids.
#pragma once
#include <cstdint>

#include "cuda/check.h"
#include "cuda/element.h"
#include "kernels/train.h"

namespace cnnfast::cuda {

void softmax(DType type, int64_t outer, int64_t k, int64_t inner, bool log, const void* x, void* y,
             cudaStream_t stream);
// dx from g and the result y.
void softmax_grad(DType type, int64_t outer, int64_t k, int64_t inner, bool log, const void* g, const void* y,
                  void* dx, cudaStream_t stream);
// Cross-entropy of each row's softmax with its label, and its gradient; both are 0 where the label is
// `ignored`. Other labels are 0 .. k - 1: the caller has looked.
void softmax_cross_entropy(DType type, int64_t rows, int64_t k, const void* x, const int64_t* labels,
                           double smoothing, int64_t ignored, void* loss, void* gradient,
                           cudaStream_t stream);
// Cross-entropy of the sigmoid of each score with its target, or g times one of its derivatives.
void sigmoid_cross_entropy(DType type, SigmoidLoss what, int64_t count, double pos_weight, const void* g,
                           const void* x, const void* target, void* y, cudaStream_t stream);

}  // namespace cnnfast::cuda
