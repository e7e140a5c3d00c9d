// Functions of one array, and of two with broadcasting.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels/pointwise.h"

namespace cnnfast {

// y = act(x), element by element.
void activate(int kind, float slope, const float* x, float* y, int64_t n);
// y = function(x), with the numbers it takes.
void unary(Unary function, float p, float q, const float* x, float* y, int64_t n);
// See PointwiseKernels::unary_grad.
void unary_grad(Unary function, float p, float q, const float* g, const float* v, float* y, int64_t n);

// Two arrays brought to one shape, as few axes as will do. The second operand is the one that is
// repeated along the innermost axes; `swapped` says that it was the first.
struct Broadcast {
  struct Axis {
    int64_t size, a, b;  // steps of the operands in elements; 0 repeats
  };
  std::vector<int64_t> out;
  std::vector<Axis> axes;          // outermost first, at least two, none of size 1 but to fill up
  int64_t count = 1, b_count = 1;  // elements of the result, and of b
  bool swapped = false;

  // Shapes that NumPy's rules allow (the caller has checked).
  Broadcast(const std::vector<int64_t>& a, const std::vector<int64_t>& b);
};

void binary(Binary op, const Broadcast& s, const float* a, const float* b, int activation, float slope,
            float* y);
// Gradients of the shape of the result; what was repeated is not summed up.
void binary_grad(BinaryGrad op, const Broadcast& s, const float* g, const float* a, const float* b, float* y);
// The same for n values each of two arrays of one shape.
void binary_alike(Binary op, int64_t n, const float* a, const float* b, int activation, float slope,
                  float* y);

}  // namespace cnnfast
