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
  bool swapped = false;  // b op a
};

struct PointwiseKernels {
  void (*activate)(int kind, float slope, const float* x, float* y, int64_t n);
  void (*unary)(Unary function, float p, float q, const float* x, float* y, int64_t n);
  void (*binary)(Binary op, const BinaryRows*);
};

}  // namespace cnnfast
