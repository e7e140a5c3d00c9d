// Reductions along the middle axis of outer x k x inner, where the extremes are, and the first values in
// order.
#pragma once
#include <cstdint>

#include "cuda/check.h"
#include "cuda/element.h"

namespace cnnfast::cuda {

// Codes shared with python/cnnfast/ops/reduce.py.
enum class Reduction : int { kSum = 0, kMean = 1, kMax = 2, kMin = 3, kLength = 4 };

// Bytes of workspace of `reduce`.
int64_t reduce_workspace(int64_t outer, int64_t k, int64_t inner);
// Sums are worked out in double precision; NaN wins among extremes.
void reduce(Reduction reduction, DType type, int64_t outer, int64_t k, int64_t inner, const void* x, void* y,
            void* workspace, cudaStream_t stream);

// Place of the largest value, the first of equal ones; the first NaN is larger than all.
void argmax(DType type, int64_t outer, int64_t k, int64_t inner, const void* x, int64_t* y,
            cudaStream_t stream);

// The first `count` of every column in order of value, `largest` from the largest on, and where they are;
// equal values by rising place. NaN is larger than any number. k is below 2^32.
int64_t topk_workspace(int64_t outer, int64_t k, int64_t inner);
void topk(DType type, int64_t outer, int64_t k, int64_t inner, int64_t count, bool largest, const void* x,
          void* values, int64_t* places, void* workspace, cudaStream_t stream);
// dx = g where it was taken from, and 0 elsewhere.
void topk_grad(DType type, int64_t outer, int64_t k, int64_t inner, int64_t count, const void* g,
               const int64_t* places, void* dx, cudaStream_t stream);

}  // namespace cnnfast::cuda
