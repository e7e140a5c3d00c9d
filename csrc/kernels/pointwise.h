#pragma once
#include <cstdint>

namespace cnnfast {

// Functions of one value, and of the numbers p and q where they take any.
enum class Unary : int {
  kNeg,
  kAbs,
  kSqrt,
  kExp,
  kLog,
  kReciprocal,
  kFloor,
  kCeil,
  kClip,         // min(max(x, p), q)
  kElu,          // x, left of 0 p (exp(x) - 1)
  kHardSigmoid,  // min(max(p x + q, 0), 1)
  kErf,
};

enum class Binary : int { kAdd, kMul, kSub, kDiv, kPow, kMaximum, kMinimum, kPrelu };

// Gradients of functions of two values by one of them, from the gradient g of the result y.
enum class BinaryGrad : int {
  kDivisor,   // of a / b by b, from y and b
  kBase,      // of a^b by a, from a and b
  kExponent,  // of a^b by b, from a and y
  kLarger,    // of the larger one by a: half where both are equal
  kSmaller,
  kPrelu,  // by a, with slope b
  kSlope,  // by the slope
};

// Rows of n values: y[r][i] = a[r * a_step + i] op b[r * b_step + i], or b[r * b_step] for every i.
struct BinaryRows {
  const float* a;
  const float* b;
  float* y;  // rows next to each other, y_step apart
  int64_t rows, n;
  int64_t a_step, b_step, y_step;
  bool b_scalar;   // one value of b per row
  int activation;  // of sums
  float slope;
  bool swapped = false;      // b op a
  const float* g = nullptr;  // of gradients, as y lies
};

struct PointwiseKernels {
  void (*activate)(int kind, float slope, const float* x, float* y, int64_t n);
  void (*unary)(Unary function, float p, float q, const float* x, float* y, int64_t n);
  void (*binary)(Binary op, const BinaryRows*);
  // y = g * derivative of a function at v: at its result for the root, the exponential and the reciprocal, at
  // its argument for the others.
  void (*unary_grad)(Unary function, float p, float q, const float* g, const float* v, float* y, int64_t n);
  void (*binary_grad)(BinaryGrad op, const BinaryRows*);
};

}  // namespace cnnfast
