// Steps of optimisers, in place: the formulas of kernels/optim.h, in one pass over parameter, gradient and
// state.
#pragma once
#include "cuda/check.h"
#include "kernels/optim.h"

namespace cnnfast::cuda {

// Arrays of n values that do not overlap; null where a setting does without.
void sgd(const SgdStep& step, float* p, const float* g, float* velocity, int64_t n, cudaStream_t stream);
void rmsprop(const RmspropStep& step, float* p, const float* g, float* square, float* mean, float* velocity,
             int64_t n, cudaStream_t stream);
void adam(const AdamStep& step, float* p, const float* g, float* mean, float* square, float* largest,
          int64_t n, cudaStream_t stream);
// y += share (x - y), and y += factor x.
void approach(float share, float* y, const float* x, int64_t n, cudaStream_t stream);
void add_scaled(float factor, float* y, const float* x, int64_t n, cudaStream_t stream);

}  // namespace cnnfast::cuda
