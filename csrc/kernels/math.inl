// Exponential, logarithm and their parts on one vector, from arithmetic alone: no table, no libm.
// exp(x) = 2^k p with k = round(x / ln 2) and p = exp(x - k ln 2) by a minimax polynomial of degree 6
// (relative error 3e-9, so float32 rounding decides). k comes out of a sum with 1.5 * 2^23: another
// rounding mode of the process shifts it by at most one, which the polynomial still bears.
#pragma once
#include "kernels/simd.h"

namespace {

CNNFAST_INLINE vi bits_of(vf x) { return reinterpret_cast<vi>(x); }
CNNFAST_INLINE vf from_bits(vi b) { return reinterpret_cast<vf>(b); }
CNNFAST_INLINE vf vabs(vf x) { return from_bits(bits_of(x) & splat_int(0x7fffffff)); }

CNNFAST_INLINE vf vsqrt(vf x) {
#if defined(CNNFAST_LEVEL_V4)
  return _mm512_sqrt_ps(x);
#elif defined(CNNFAST_LEVEL_V3)
  return _mm256_sqrt_ps(x);
#elif defined(CNNFAST_LEVEL_V2)
  return _mm_sqrt_ps(x);
#elif defined(CNNFAST_LEVEL_NEON)
  return vsqrtq_f32(x);
#else
  vf y = {};
  for (int i = 0; i < VL; ++i) y[i] = __builtin_sqrtf(x[i]);
  return y;
#endif
}

// exp(x) = p * 2^k, p in [0.7, 1.42]; `whole` is k as a float.
struct ExpParts {
  vf p, whole;
  vi k;
};

// |x| at most 2^20, or NaN (then p is NaN).
CNNFAST_INLINE ExpParts exp_parts(vf x) {
  const vf magic = splat(12582912.0f);
  const vf shifted = fma(x, splat(1.442695041f), magic);
  const vf whole = shifted - magic;
  // ln 2 in two parts; the first has so few bits that its product with k is exact without FMA too.
  vf r = fma(whole, splat(-0.693359375f), x);
  r = fma(whole, splat(2.12194440e-4f), r);
  vf p = fma(splat(1.381459879e-3f), r, splat(8.368716575e-3f));
  p = fma(p, r, splat(4.166838899e-2f));
  p = fma(p, r, splat(1.666652113e-1f));
  p = fma(p, r, splat(4.999999404e-1f));
  p = fma(p, r, splat(1.0f));
  p = fma(p, r, splat(1.0f));
  return {p, whole, bits_of(shifted) - splat_int(0x4b400000)};
}

// v * 2^k for -250 <= k <= 250, rounded once: two factors where one would leave the range of floats.
CNNFAST_INLINE vf scale_by_power(vf v, const ExpParts& e) {
#if defined(CNNFAST_LEVEL_V4)
  return _mm512_scalef_ps(v, e.whole);
#else
  const vi half = e.k >> 1, rest = e.k - half;
  const vi bias = splat_int(127);
  return v * from_bits((half + bias) << 23) * from_bits((rest + bias) << 23);
#endif
}

// exp(x) for x <= 88, to the bottom of the subnormal numbers; -Inf gives 0, NaN comes through.
CNNFAST_INLINE vf exp_nonpositive(vf x) {
  const ExpParts e = exp_parts(vmax(splat(-110.0f), x));
  return scale_by_power(e.p, e);
}

// exp(x) for -87 <= x <= 87, or NaN.
CNNFAST_INLINE vf exp_in_range(vf x) {
  const ExpParts e = exp_parts(x);
  return from_bits(bits_of(e.p) + (e.k << 23));
}

}  // namespace
