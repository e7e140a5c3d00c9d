// Comparisons, choices, and conversions between all element types.
#pragma once
#include <cstdint>
#include <vector>

#include "cuda/check.h"
#include "cuda/element.h"

namespace cnnfast::cuda {

using Shape = std::vector<int64_t>;

// Codes shared with python/cnnfast/ops/elementwise.py.
enum class Comparison : int { kEqual = 0, kGreater = 1, kLess = 2 };

// y = a ? b, of shapes that broadcast to `out`; operands are of one type, y is bool.
void compare(DType type, Comparison op, const Shape& out, const Shape& a_shape, const Shape& b_shape,
             const void* a, const void* b, uint8_t* y, cudaStream_t stream);
// y = condition ? a : b.
void where(DType type, const Shape& out, const Shape& condition_shape, const Shape& a_shape,
           const Shape& b_shape, const uint8_t* condition, const void* a, const void* b, void* y,
           cudaStream_t stream);
// y = x == 0, of bool.
void logical_not(const uint8_t* x, uint8_t* y, int64_t count, cudaStream_t stream);
// To another type; what follows the point is cut off.
void convert(DType from, const void* x, DType to, void* y, int64_t count, cudaStream_t stream);

}  // namespace cnnfast::cuda
