// Exponential, logarithm, power, error function and their parts on one vector, from arithmetic alone: no
// table, and libm for the corners of the power alone.
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

CNNFAST_INLINE vf vfloor(vf x) {
#if defined(CNNFAST_LEVEL_V4)
  return _mm512_floor_ps(x);
#elif defined(CNNFAST_LEVEL_V3)
  return _mm256_floor_ps(x);
#elif defined(CNNFAST_LEVEL_V2)
  return _mm_floor_ps(x);
#elif defined(CNNFAST_LEVEL_NEON)
  return vrndmq_f32(x);
#else
  vf y = {};
  for (int i = 0; i < VL; ++i) y[i] = __builtin_floorf(x[i]);
  return y;
#endif
}

// x = k ln 2 + r, |r| at most 0.35; `whole` is k as a float.
struct ExpReduced {
  vf r, whole;
  vi k;
};

// |x| at most 2^20, or NaN (then r is NaN).
CNNFAST_INLINE ExpReduced exp_reduce(vf x) {
  const vf magic = splat(12582912.0f);
  const vf shifted = fma(x, splat(1.442695041f), magic);
  const vf whole = shifted - magic;
  // ln 2 in two parts; the first has so few bits that its product with k is exact without FMA too.
  vf r = fma(whole, splat(-0.693359375f), x);
  r = fma(whole, splat(2.12194440e-4f), r);
  return {r, whole, bits_of(shifted) - splat_int(0x4b400000)};
}

// (exp(r) - 1 - r) / r^2.
CNNFAST_INLINE vf exp_tail(vf r) {
  vf p = fma(splat(1.381459879e-3f), r, splat(8.368716575e-3f));
  p = fma(p, r, splat(4.166838899e-2f));
  p = fma(p, r, splat(1.666652113e-1f));
  return fma(p, r, splat(4.999999404e-1f));
}

// exp(x) = p * 2^k, p in [0.7, 1.42]; `whole` is k as a float.
struct ExpParts {
  vf p, whole;
  vi k;
};

// exp(x + correction), where the correction is tiny against 1; x as for exp_reduce.
CNNFAST_INLINE ExpParts exp_parts(vf x, vf correction) {
  const ExpReduced e = exp_reduce(x);
  const vf r = e.r + correction;
  const vf p = fma(fma(exp_tail(r), r, splat(1.0f)), r, splat(1.0f));
  return {p, e.whole, e.k};
}

CNNFAST_INLINE ExpParts exp_parts(vf x) {
  // -0 as the correction is no operation at all: the compiler may drop it.
  return exp_parts(x, -vf{});
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

// Infinity from 88.73 on, 0 below -103.98.
CNNFAST_INLINE vf exp(vf x) {
  const ExpParts e = exp_parts(vmin(splat(100.0f), vmax(splat(-110.0f), x)));
  return scale_by_power(e.p, e);
}

// exp(x) - 1 for |x| <= 80. It keeps its relative precision near zero because the power of two is 1 there:
// with q = exp(r) - 1 it is 2^k q + (2^k - 1).
CNNFAST_INLINE vf exp_minus_one(vf x) {
  const ExpReduced e = exp_reduce(x);
  const vf q = fma(e.r * e.r, exp_tail(e.r), e.r);
  const vf power = from_bits((e.k + splat_int(127)) << 23);
  return fma(power, q, power - splat(1.0f));
}

// exp(x - m) for x <= m, to the bottom of the subnormal numbers. The rounding error of the difference
// is found exactly and put into the exponent, where it would cost |x - m| / 2 units. NaN and what
// Inf - Inf gives come through; x = -Inf gives 0.
CNNFAST_INLINE vf exp_of_difference(vf x, vf m) {
  const vf d = x - m, back = d - x;
  const vf error = (x - (d - back)) - (m + back);
  const vf lowest = splat(-110.0f);
  const ExpParts e = exp_parts(vmax(lowest, d), select(d > lowest, error, vf{}));
  return scale_by_power(e.p, e);
}

// Whether all lanes of a comparison are true.
CNNFAST_INLINE bool all_lanes(vi mask) {
#if defined(CNNFAST_LEVEL_V4)
  return _mm512_movepi32_mask(reinterpret_cast<__m512i>(mask)) == 0xffff;
#elif defined(CNNFAST_LEVEL_V3)
  return _mm256_movemask_ps(reinterpret_cast<__m256>(mask)) == 0xff;
#elif defined(CNNFAST_LEVEL_V2)
  return _mm_movemask_ps(reinterpret_cast<__m128>(mask)) == 0xf;
#else
  int32_t all = -1;
  for (int i = 0; i < VL; ++i) all &= mask[i];
  return all != 0;
#endif
}

// x / d^0.75, within a few units; lanes where d is not a number of ordinary size are NaN or wrong.
CNNFAST_INLINE vf divide_by_three_quarters(vf x, vf d) {
#if defined(CNNFAST_LEVEL_V4) || defined(CNNFAST_LEVEL_V3)
  // q ~ d^(-1/4) from two approximate roots; with h = 1 - d q^4 the answer is x q^3 (1 - h)^(-3/4),
  // and three terms of that series leave less than a unit.
#if defined(CNNFAST_LEVEL_V4)
  const vf root = _mm512_rsqrt14_ps(d);
  const vf q = root * vf(_mm512_rsqrt14_ps(root));
#else
  const vf root = _mm256_rsqrt_ps(d);
  const vf q = root * vf(_mm256_rsqrt_ps(root));
#endif
  const vf q2 = q * q;
  const vf h = fma(-(d * q2), q2, splat(1.0f));
  const vf y = x * (q2 * q);
  return fma(y, h * fma(h, splat(21.0f / 32), splat(0.75f)), y);
#else
  const vf root = vsqrt(d);
  return x / (root * vsqrt(root));
#endif
}

// --- double precision, for logarithms whose error an exponential would multiply ---------------------

// Half as many lanes: as long as a vector of floats.
typedef double vd __attribute__((vector_size(VL * 4)));
typedef uint64_t vu64 __attribute__((vector_size(VL * 4)));
typedef int64_t vi64 __attribute__((vector_size(VL * 4)));
typedef float vf_half __attribute__((vector_size(VL * 2)));
typedef float vf_half_unaligned __attribute__((vector_size(VL * 2), aligned(4), may_alias));

CNNFAST_INLINE vd splat_double(double s) { return s - vd{}; }
CNNFAST_INLINE vd load_wide(const float* p) {
  return __builtin_convertvector(static_cast<vf_half>(*reinterpret_cast<const vf_half_unaligned*>(p)), vd);
}
CNNFAST_INLINE void store_narrow(float* p, vd v) {
  *reinterpret_cast<vf_half_unaligned*>(p) = __builtin_convertvector(v, vf_half);
}
CNNFAST_INLINE vd select_double(vi64 mask, vd yes, vd no) {
  return reinterpret_cast<vd>((mask & reinterpret_cast<vi64>(yes)) | (~mask & reinterpret_cast<vi64>(no)));
}

// ln(x) for finite x > 0 in the normal range of doubles, relative error below 1e-10. x = 2^e m with m
// in [0.7, 1.42]; ln m = 2 artanh(t), t = (m - 1) / (m + 1), by its power series to t^13.
CNNFAST_INLINE vd log_double(vd x) {
  const vu64 below = vu64{} + 0x3fe6a09e667f3bcd;  // bits of sqrt(1/2)
  const vu64 from = reinterpret_cast<vu64>(x) - below;
  const vd m = reinterpret_cast<vd>((from & (vu64{} + 0xfffffffffffff)) + below);
  // e + 1024, moved to the front of the bits of 2^52, gives 2^52 + e + 1024 as a double.
  const vu64 biased = (from + (vu64{} + 0x4000000000000000)) >> 52;
  const vd e = reinterpret_cast<vd>(biased + 0x4330000000000000) - splat_double(4503599627370496.0 + 1024.0);
  const vd one = splat_double(1.0);
  const vd t = (m - one) / (m + one), s = t * t;
  vd p = splat_double(2.0 / 13) * s + splat_double(2.0 / 11);
  p = p * s + splat_double(2.0 / 9);
  p = p * s + splat_double(2.0 / 7);
  p = p * s + splat_double(2.0 / 5);
  p = p * s + splat_double(2.0 / 3);
  p = p * s + splat_double(2.0);
  return e * splat_double(0.69314718055994531) + t * p;
}

// ln(1 + x) for finite x >= 0, relative error below 1e-10; NaN comes through.
CNNFAST_INLINE vd log1p_double(vd x) {
  const vd one = splat_double(1.0);
  const vd small = x * (one - x * (splat_double(0.5) - x * splat_double(1.0 / 3)));
  const vd result = select_double(x < splat_double(1e-4), small, log_double(one + x));
  return select_double(x == x, result, x);
}

// ln(1 + a + b) of floats, the sum in double precision.
CNNFAST_INLINE vf log1p_of_sum(vf a, vf b) {
  float as[VL], bs[VL];
  store(as, a), store(bs, b);
  for (int i = 0; i < VL; i += VL / 2)
    store_narrow(as + i, log1p_double(load_wide(as + i) + load_wide(bs + i)));
  return load(as);
}

// ln(x): -infinity at zero, NaN below. x = 2^e m with m in [0.7, 1.42]; with f = m - 1, ln m is f - f^2 / 2 +
// f^3 p(f), p a minimax polynomial of degree 7 (relative error 6e-9), and the small terms are added first.
CNNFAST_INLINE vf log(vf x) {
  const vf infinity = splat(__builtin_inff());
  const vi subnormal = x < splat(1.17549435e-38f), below = splat_int(0x3f3504f3);  // bits of sqrt(1/2)
  // Without the sign, so that numbers below zero overflow nothing.
  const vi from = (bits_of(select(subnormal, x * splat(8388608.0f), x)) & splat_int(0x7fffffff)) - below;
  const vf f = from_bits((from & splat_int(0x7fffff)) + below) - splat(1.0f);
  const vf e = __builtin_convertvector((from >> 23) - (subnormal & splat_int(23)), vf);
  vf p = fma(splat(-7.645075e-2f), f, splat(1.2773577e-1f));
  p = fma(p, f, splat(-1.3161989e-1f));
  p = fma(p, f, splat(1.4200288e-1f));
  p = fma(p, f, splat(-1.6623035e-1f));
  p = fma(p, f, splat(2.0001277e-1f));
  p = fma(p, f, splat(-2.5000831e-1f));
  p = fma(p, f, splat(3.3333331e-1f));
  const vf square = f * f;
  vf y = fma(e, splat(-2.12194440e-4f), p * f * square);  // the rest of ln 2
  y = f + fma(splat(-0.5f), square, y);
  y = fma(e, splat(0.693359375f), y);
  const vf corner = select(x == vf{}, -infinity, select(x < vf{}, splat(__builtin_nanf("")), x));
  return select((x > vf{}) & (x < infinity), y, corner);
}

// exp(x) for |x| <= 700, relative error below 1e-12: x = k ln 2 + r, and the power series to r^10.
CNNFAST_INLINE vd exp_double(vd x) {
  const vd magic = splat_double(6755399441055744.0);  // 1.5 * 2^52
  const vd shifted = x * splat_double(1.4426950408889634) + magic, k = shifted - magic;
  const vd r = x - k * splat_double(0.69314718036912382) - k * splat_double(1.9082149292705877e-10);
  const double factors[] = {1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120,
                            1.0 / 24,     1.0 / 6,     0.5,        1.0,       1.0};
  vd p = splat_double(1.0 / 3628800);
  for (double factor : factors) p = p * r + splat_double(factor);
  const vi64 exponent = reinterpret_cast<vi64>(shifted) - reinterpret_cast<vi64>(magic) + 1023;
  return p * reinterpret_cast<vd>(exponent << 52);
}

// x^y as C's powf has it: exp(y ln |x|) in double precision, within 0.52 units in the last place, and the
// library where x is zero or either is not finite. Squares are products. Not inlined: it is long.
static __attribute__((noinline)) vf power(vf x, vf y) {
  const vi square = y == splat(2.0f);
  if (all_lanes(square)) return x * x;
  const vf infinity = splat(__builtin_inff());
  float base[VL], exponent[VL], result[VL];
  store(base, vabs(x)), store(exponent, y);
  for (int i = 0; i < VL; i += VL / 2) {
    vd t = log_double(load_wide(base + i)) * load_wide(exponent + i);
    const vd limit = splat_double(200.0);  // beyond the range of floats
    t = select_double(t < limit, t, limit);
    t = select_double(t > -limit, t, -limit);
    store_narrow(result + i, exp_double(t));
  }
  // Powers of negative numbers: whole ones alone, and odd ones are negative.
  const vf half = y * splat(0.5f);
  const vi odd = vfloor(half) != half, whole = vfloor(y) == y;
  const vf positive = load(result);
  const vf negative = select(whole, select(odd, -positive, positive), splat(__builtin_nanf("")));
  const vf usual = select(square, x * x, select(x < vf{}, negative, positive));
  const vi finite = (x != vf{}) & (vabs(x) < infinity) & (vabs(y) < infinity);
  if (all_lanes(finite | square)) return usual;
  float corner[VL];
  store(base, x), store(corner, usual);
  const vi rare = ~(finite | square);
  for (int i = 0; i < VL; ++i)
    if (rare[i]) corner[i] = __builtin_powf(base[i], exponent[i]);
  return load(corner);
}

// Up to 1 an odd minimax polynomial of degree 13; from there on 1 - exp(-q(|x|)) with q a minimax polynomial
// of degree 6 (both within 2e-9 of erf). From 4 on the result is 1.
CNNFAST_INLINE vf erf(vf x) {
  const vf s = x * x;
  vf p = fma(splat(7.85381023e-5f), s, splat(-8.01017951e-4f));
  p = fma(p, s, splat(5.18832624e-3f));
  p = fma(p, s, splat(-2.68538113e-2f));
  p = fma(p, s, splat(1.12835851e-1f));
  p = fma(p, s, splat(-3.76126258e-1f));
  p = fma(p, s, splat(1.12837917f));
  const vf a = vmin(splat(4.0f), vabs(x));
  vf q = fma(splat(-1.88824368e-4f), a, splat(2.97245027e-3f));
  q = fma(q, a, splat(-2.19404669e-2f));
  q = fma(q, a, splat(1.03327432e-1f));
  q = fma(q, a, splat(6.37882982e-1f));
  q = fma(q, a, splat(1.12725152f));
  q = fma(q, a, splat(3.00410990e-4f));
  const vf far = splat(1.0f) - exp(-q);
  const vf signed_far = from_bits(bits_of(far) | (bits_of(x) & splat_int(INT32_MIN)));
  return select(a < splat(1.0f), x * p, signed_far);
}

// v * x^power for normal x > 0, wherever the result lies; the power alone may be out of range.
CNNFAST_INLINE vf times_power(vf v, vf x, double power) {
  float high[VL], low[VL];
  store(high, x);
  for (int i = 0; i < VL; i += VL / 2) {
    vd t = log_double(load_wide(high + i)) * splat_double(power);
    const vd limit = splat_double(280.0);  // exp(280) takes the smallest float beyond the largest
    t = select_double(t < limit, t, limit);
    t = select_double(t > -limit, t, -limit);
    store_narrow(high + i, t);
    store_narrow(low + i, t - load_wide(high + i));
  }
  const ExpParts e = exp_parts(load(high), load(low));
  v *= e.p;
#if defined(CNNFAST_LEVEL_V4)
  return scale_by_power(v, e);
#else
  const vi quarter = e.k >> 2, bias = splat_int(127);
  const vf step = from_bits((quarter + bias) << 23);
  return v * step * step * step * from_bits((e.k - quarter - quarter - quarter + bias) << 23);
#endif
}

}  // namespace
