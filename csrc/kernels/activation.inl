// Activations on one vector. Relative error at most 4e-7 against float64 wherever the result is a
// normal number; NaN comes through; +-Inf give the limits. Sigmoid and SiLU put the power of two on
// last, so that nothing is lost far to the left.
// Included by every kernel with an epilogue.
#pragma once
#include "core/epilogue.h"
#include "kernels/math.inl"
#include "kernels/simd.h"

namespace {

// exp(-x) = p / (fraction 2^k), |x| at most 2^12 or NaN; `whole` is k as a float, plus less than one. Where a
// vector can be looked up in, fraction is one of its powers of two and p a polynomial of degree 3 (relative
// error 2e-9 for 16 lanes, 3e-8 for 8); else it is 1.
struct DecayParts {
  vf p, fraction, whole;
  vi k;
};
CNNFAST_INLINE DecayParts decay_parts(vf x) {
#if defined(CNNFAST_LEVEL_V4) || defined(CNNFAST_LEVEL_V3)
  constexpr int kBits = VL == 16 ? 4 : 3;  // of the fraction
  const vf magic = splat(12582912.0f / VL);
  const vf shifted = fma(x, splat(1.442695041f), magic), whole = shifted - magic;
  vf r = fma(whole, splat(-0.693359375f), x);
  r = fma(whole, splat(2.12194440e-4f), r);
  const vi number = bits_of(shifted), k = (number - splat_int(0x4b400000 - (kBits << 23))) >> kBits;
#if defined(CNNFAST_LEVEL_V4)
  const vf powers = {1.0f,        1.04427373f, 1.09050775f, 1.13878858f, 1.18920708f, 1.24185777f,
                     1.29683959f, 1.35425556f, 1.41421354f, 1.47682619f, 1.54221082f, 1.61049032f,
                     1.68179286f, 1.75625217f, 1.83400810f, 1.91520655f};
  const vf fraction = _mm512_permutexvar_ps(reinterpret_cast<__m512i>(number), powers);
  vf p = fma(splat(-0.16666753f), r, splat(0.50001616f));
#else
  const vf powers = {1.0f,        1.09050775f, 1.18920708f, 1.29683959f,
                     1.41421354f, 1.54221082f, 1.68179286f, 1.83400810f};
  const vf fraction = _mm256_permutevar8x32_ps(powers, reinterpret_cast<__m256i>(number));
  vf p = fma(splat(-0.16666863f), r, splat(0.50006447f));
#endif
  p = fma(fma(p, r, splat(-1.0f)), r, splat(1.0f));
  return {p, fraction, whole, k};
#else
  const ExpParts e = exp_parts(-x);
  return {e.p, splat(1.0f), -e.whole, -e.k};
#endif
}

// top / (1 + exp(-x)): sigmoid for top = 1, SiLU for top = x. `bounded` is x within -110 and 40, beyond which
// the result no longer changes. With power = fraction 2^k it is power top / (power + p), in which nothing is
// too large.
CNNFAST_INLINE vf logistic(vf bounded, vf top) {
  const DecayParts e = decay_parts(bounded);
#if defined(CNNFAST_LEVEL_V4)
  const vf power = _mm512_scalef_ps(e.fraction, e.whole);
  return _mm512_scalef_ps(e.fraction / (power + e.p) * top, e.whole);
#else
  // Two factors, as 2^k may be no normal number; where the second is not 1 the sum is p.
  const vi least = splat_int(-126), bias = splat_int(127);
  const vi k = (e.k > least) ? e.k : least;
  const vf power = from_bits((k + bias) << 23), rest = from_bits((e.k - k + bias) << 23);
  return e.fraction / fma(power, e.fraction, e.p) * top * power * rest;
#endif
}

CNNFAST_INLINE vf sigmoid(vf x) { return logistic(vmin(splat(40.0f), vmax(splat(-110.0f), x)), splat(1.0f)); }

CNNFAST_INLINE vf silu(vf x) {
  const vf top = vmax(splat(-110.0f), x);  // the result is 0 below; the bound keeps -Inf from meeting it
  return logistic(vmin(splat(40.0f), top), top);
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
