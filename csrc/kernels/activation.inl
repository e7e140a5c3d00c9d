// Activations on one vector. Relative error at most 4e-7 against float64 wherever the result is a
// normal number; NaN comes through; +-Inf give the limits. Sigmoid and SiLU put the power of two on
// last, so that nothing is lost far to the left.
// Included by every kernel with an epilogue.
#pragma once
#include "core/epilogue.h"
#include "kernels/math.inl"
#include "kernels/simd.h"

namespace {

// top / (1 + exp(-x)): sigmoid for top = 1, SiLU for top = x. With exp(-x) = 2^k p it is
// 2^-k top / (2^-k + p), in which nothing is too large; beyond the bounds the result no longer changes.
CNNFAST_INLINE vf logistic(vf x, vf top) {
  const ExpParts e = exp_parts(vmin(splat(110.0f), vmax(splat(-40.0f), -x)));
#if defined(CNNFAST_LEVEL_V4)
  const vf power = _mm512_scalef_ps(splat(1.0f), -e.whole);
  return _mm512_scalef_ps(top / (e.p + power), -e.whole);
#else
  // Two factors, as 2^-k may be no normal number; where the second is not 1 the sum is p.
  const vi most = splat_int(126), bias = splat_int(127);
  const vi k = (e.k < most) ? e.k : most;
  const vf power = from_bits((bias - k) << 23), rest = from_bits((bias - (e.k - k)) << 23);
  return top / (e.p + power) * power * rest;
#endif
}

CNNFAST_INLINE vf sigmoid(vf x) { return logistic(x, splat(1.0f)); }

CNNFAST_INLINE vf silu(vf x) {
  // Below -110 the result is 0; the bound keeps -Inf from meeting it.
  return logistic(x, vmax(splat(-110.0f), x));
}

// With m = exp(2|x|) - 1, tanh |x| = m / (m + 2).
CNNFAST_INLINE vf tanh(vf x) {
  const vf a = vabs(x);
  const vf m = exp_minus_one(vmin(splat(20.0f), a + a));  // from 9.1 on the result is 1
  // The sign goes on last, so -0 keeps it.
  return from_bits(bits_of(m / (m + splat(2.0f))) | (bits_of(x) & splat_int(INT32_MIN)));
}

// From -18 down exp(x) - 1 is -1.
CNNFAST_INLINE vf elu(vf x, float alpha) {
  return select(x < vf{}, alpha * exp_minus_one(vmin(vf{}, vmax(splat(-20.0f), x))), x);
}

CNNFAST_INLINE vf hard_swish(vf x) {
  // From -3 down the result is 0; the bound keeps -Inf from meeting it.
  const vf bounded = vmax(splat(-3.0f), x);
  return bounded * (vmin(splat(6.0f), bounded + splat(3.0f)) * splat(1.0f / 6.0f));
}

// Not inlined: an epilogue holds many copies of activate(), and these are long.
static __attribute__((noinline)) vf smooth_activation(int kind, vf x) {
  switch (kind) {
    case cnnfast::kSigmoid:
      return sigmoid(x);
    case cnnfast::kTanh:
      return tanh(x);
    default:
      return silu(x);
  }
}

CNNFAST_INLINE vf activate(int kind, vf x, float slope) {
  const vf zero = {};
  switch (kind) {
    case cnnfast::kNone:
      return x;
    case cnnfast::kRelu:
      return vmax(zero, x);
    case cnnfast::kRelu6:
      return vmin(splat(6.0f), vmax(zero, x));
    case cnnfast::kLeakyRelu:
      return select(x < zero, x * slope, x);
    case cnnfast::kHardSwish:
      return hard_swish(x);
    default:
      return smooth_activation(kind, x);
  }
}

template <class F>
CNNFAST_INLINE void change_rows(float* const* rows, int count, int64_t width, F f) {
  for (int m = 0; m < count; ++m)
    for (int64_t j = 0; j < width; j += VL) {
      float* at = rows[m] + j;
      if (width - j >= VL) {
        store(at, f(load(at)));
      } else {
        const int lanes = static_cast<int>(width - j);
        store_n(at, f(load_n(at, lanes)), lanes);
      }
    }
}

// Rows of a finished result, still in the first-level cache: for the dearer activations, whose constants
// then stay in registers.
static __attribute__((noinline)) void activate_rows(int kind, float slope, float* const* rows, int count,
                                                    int64_t width) {
#define CNNFAST_CHANGE(f) \
  change_rows(rows, count, width, [&](vf x) __attribute__((always_inline)) { return f; })
  switch (kind) {
    case cnnfast::kSilu:
      return CNNFAST_CHANGE(silu(x));
    case cnnfast::kSigmoid:
      return CNNFAST_CHANGE(sigmoid(x));
    case cnnfast::kTanh:
      return CNNFAST_CHANGE(tanh(x));
    case cnnfast::kHardSwish:
      return CNNFAST_CHANGE(hard_swish(x));
    default:
      return CNNFAST_CHANGE(activate(kind, x, slope));
  }
#undef CNNFAST_CHANGE
}

}  // namespace
