// Elements moved: other shapes, joins, parts, repetition, picking by index, padding.
#pragma once
#include <cstdint>
#include <vector>

#include "cuda/check.h"
#include "cuda/element.h"

namespace cnnfast::cuda {

// y[sum of i * to] = x[sum of i * from] for all i below sizes, steps in elements of so many bytes. Steps of 0
// repeat, and negative ones go backwards; no element of y is written twice.
void copy(int64_t element, const std::vector<int64_t>& sizes, const std::vector<int64_t>& from,
          const std::vector<int64_t>& to, const void* x, void* y, cudaStream_t stream);

// y[o, i, :] = x[o, indices[i], :]; negative indices count from the end. The caller has checked them.
void gather(int64_t element, int64_t outer, int64_t size, int64_t count, int64_t inner, const void* x,
            const int64_t* indices, void* y, cudaStream_t stream);
// The sum of g over all places that took an element, in their order.
void gather_grad(DType type, int64_t outer, int64_t size, int64_t count, int64_t inner, const void* g,
                 const int64_t* indices, void* dx, cudaStream_t stream);

// Codes shared with python/cnnfast/ops/pad.py.
enum class Padding : int { kZeros = 0, kReflect = 1, kReplicate = 2, kCircular = 3 };
struct PadShape {
  int64_t n;
  int h, w, c, top, bottom, left, right;
  Padding mode;
};
void pad2d(DType type, const PadShape& s, float value, const void* x, void* y, cudaStream_t stream);
void pad2d_grad(DType type, const PadShape& s, const void* g, void* dx, cudaStream_t stream);

}  // namespace cnnfast::cuda
