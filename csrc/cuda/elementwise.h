// Functions of one array, and of two with broadcasting.
#pragma once
#include <cstdint>

#include "cuda/check.h"
#include "cuda/element.h"
#include "kernels/pointwise.h"

namespace cnnfast::cuda {

constexpr int kMostAxes = 6;

// Two arrays brought to one shape, as few axes as will do, outermost first.
struct Broadcast {
  int rank = 0;
  int64_t count = 1;                                    // elements of the result
  int64_t size[kMostAxes], a[kMostAxes], b[kMostAxes];  // steps of the operands in elements; 0 repeats
};

// y = act(x); kinds and slope as in core/epilogue.h.
void activate(DType type, int kind, float slope, const void* x, void* y, int64_t count, cudaStream_t stream);
// dx = g times the derivative of the activation at v; see activation.h.
void activation_grad(DType type, int kind, float slope, const void* g, const void* v, void* dx, int64_t count,
                     cudaStream_t stream);
// y = function(x), with the numbers it takes.
void unary(DType type, Unary function, float p, float q, const void* x, void* y, int64_t count,
           cudaStream_t stream);
// dx = g times the derivative at v: the result of the root, the exponential and the reciprocal, the argument
// of the others.
void unary_grad(DType type, Unary function, float p, float q, const void* g, const void* v, void* dx,
                int64_t count, cudaStream_t stream);
// y = act(a op b).
void binary(DType type, Binary op, const Broadcast& s, const void* a, const void* b, int activation,
            float slope, void* y, cudaStream_t stream);
// The gradient by one operand, from g of the result's shape and two arrays that broadcast to it, before it is
// summed over what was repeated.
void binary_grad(DType type, BinaryGrad op, const Broadcast& s, const void* g, const void* a, const void* b,
                 void* dx, cudaStream_t stream);
// Elements of one floating-point type to another, rounded to nearest even.
void cast(DType from, const void* x, DType to, void* y, int64_t count, cudaStream_t stream);
// y[i] = value, rounded to the type.
void fill(DType type, float value, void* y, int64_t count, cudaStream_t stream);

}  // namespace cnnfast::cuda
