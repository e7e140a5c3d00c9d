// Activations, addition and multiplication with broadcasting.
#pragma once
#include <cstdint>
#include <vector>

namespace cnnfast {

// y = act(x), element by element.
void activate(int kind, float slope, const float* x, float* y, int64_t n);

// Two arrays brought to one shape, as few axes as will do. The second operand is the one that is
// repeated along the innermost axes; both operators commute, so `swapped` has no effect on the result.
struct Broadcast {
  struct Axis {
    int64_t size, a, b;  // steps of the operands in elements; 0 repeats
  };
  std::vector<int64_t> out;
  std::vector<Axis> axes;  // outermost first, at least two, none of size 1 but to fill up
  int64_t count = 1;
  bool swapped = false;

  // Shapes that NumPy's rules allow (the caller has checked).
  Broadcast(const std::vector<int64_t>& a, const std::vector<int64_t>& b);
};

enum class Binary { kAdd, kMul };
void binary(Binary op, const Broadcast& s, const float* a, const float* b, int activation, float slope,
            float* y);
// The same for n values each of two arrays of one shape.
void binary_alike(Binary op, int64_t n, const float* a, const float* b, int activation, float slope,
                  float* y);

}  // namespace cnnfast
