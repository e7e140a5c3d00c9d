// Activations on one vector. Relative error at most 4e-7 against float64 wherever the result is a
// normal number; NaN comes through; +-Inf give the limits.
// Included by every kernel with an epilogue.
#pragma once
#include "core/epilogue.h"
#include "kernels/math.inl"
#include "kernels/simd.h"

namespace {

// exp(-x) = p / power for |x| at most 110, or NaN. Both hold a factor 2^40, with which every power is a
// normal number. Where a vector can be looked up in, power is 2^(n/16) (2^(n/8) for 8 lanes), and p a
// polynomial of degree 3 (relative error 2e-9, or 3e-8); else power is 2^k.
struct DecayParts {
  vf p, power;
};
// What is the same for all x; made once for many.
struct Decay {
  static constexpr float kLift = 1099511627776.0f;
  vf least = splat(-110.0f), most = splat(40.0f);
#if defined(CNNFAST_LEVEL_V4) || defined(CNNFAST_LEVEL_V3)
  static constexpr int kBits = VL == 16 ? 4 : 3;  // of n for the fraction
  vf log2e = splat(1.442695041f), magic = splat(12582912.0f / VL);
  // The float nearest to log 2 is too large by 1.9e-9: by .25e-6 of exp(-x) at x = -90. p begins a unit above
  // 1, which halves that.
  vf log2 = splat(-0.693147181f);
  // The lowest bits of n look up its fraction. All of n is then added to the exponent; the table is less by
  // what the fraction adds.
#if defined(CNNFAST_LEVEL_V4)
  vi powers = {0x53800000, 0x537daac3, 0x537b95c2, 0x5379c3d3, 0x537837f0, 0x5376f532,
               0x5375fed7, 0x5375583f, 0x537504f3, 0x537508a4, 0x5375672a, 0x5376248c,
               0x537744fd, 0x5378ccdf, 0x537ac0c7, 0x537d257d};
  vf p3 = splat(-0.16666753f * kLift), p2 = splat(0.50001616f * kLift);
#else
  vi powers = {0x53800000, 0x537b95c2, 0x537837f0, 0x5375fed7,
               0x537504f3, 0x5375672a, 0x537744fd, 0x537ac0c7};
  vf p3 = splat(-0.16666863f * kLift), p2 = splat(0.50006447f * kLift);
#endif
  vf p1 = splat(-kLift), p0 = splat(1.00000012f * kLift);
#endif

  // For loops: where there are sixteen registers the compiler would rather read all of this from memory for
  // every vector, and two loads a cycle are what takes the time.
  CNNFAST_INLINE_MEMBER void keep_in_registers() {
#if defined(CNNFAST_LEVEL_V3)
    asm(""
        : "+x"(least), "+x"(most), "+x"(log2e), "+x"(magic), "+x"(log2), "+x"(powers), "+x"(p3), "+x"(p2),
          "+x"(p1), "+x"(p0));
#endif
  }

  CNNFAST_INLINE_MEMBER DecayParts parts(vf x) const {
#if defined(CNNFAST_LEVEL_V4) || defined(CNNFAST_LEVEL_V3)
    const vf shifted = fma(x, log2e, magic), whole = shifted - magic, r = fma(whole, log2, x);
    const vi n = bits_of(shifted);
#if defined(CNNFAST_LEVEL_V4)
    const vi fraction = reinterpret_cast<vi>(
        _mm512_permutexvar_epi32(reinterpret_cast<__m512i>(n), reinterpret_cast<__m512i>(powers)));
#else
    const vi fraction = reinterpret_cast<vi>(
        _mm256_permutevar8x32_epi32(reinterpret_cast<__m256i>(powers), reinterpret_cast<__m256i>(n)));
#endif
    const vf p = fma(fma(fma(p3, r, p2), r, p1), r, p0);
    const vu power = reinterpret_cast<vu>(fraction) + (reinterpret_cast<vu>(n) << (23 - kBits));
    return {p, reinterpret_cast<vf>(power)};
#else
    const ExpParts e = exp_parts(-x);
    return {e.p * kLift, from_bits((splat_int(127 + 40) - e.k) << 23)};
#endif
  }
};

CNNFAST_INLINE vf sigmoid(vf x, const Decay& decay) {
  const DecayParts e = decay.parts(vmin(decay.most, vmax(decay.least, x)));
  return e.power / (e.power + e.p);
}
CNNFAST_INLINE vf sigmoid(vf x) { return sigmoid(x, Decay()); }

// x sigmoid(x). The power is multiplied first: the quotient alone may be too small for a normal number.
CNNFAST_INLINE vf silu(vf x, const Decay& decay) {
  const vf top = vmax(decay.least, x);  // the result is 0 below; the bound keeps -Inf from meeting it
  const vf bounded = vmin(decay.most, top);
  const DecayParts e = decay.parts(bounded);
  return bounded * e.power / (e.power + e.p) - (bounded - top);
}
CNNFAST_INLINE vf silu(vf x) { return silu(x, Decay()); }

// With m = exp(2|x|) - 1, tanh |x| = m / (m + 2).
CNNFAST_INLINE vf tanh(vf x) {
  const vf a = vabs(x);
  const vf normal = vmax(splat(1e-6f), a);  // subnormal numbers take several times as long
  const vf m = exp_minus_one(vmin(splat(20.0f), normal + normal));  // from 9.1 on the result is 1
  // Never beyond |x|, which it equals near 0. The sign goes on last, so -0 keeps it.
  return from_bits(bits_of(vmin(a, m / (m + splat(2.0f)))) | (bits_of(x) & splat_int(INT32_MIN)));
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

// Four vectors at once: the operations on one wait for each other. Sixteen registers do not hold what four
// need at the same time, there the processor has to look ahead.
template <class F>
CNNFAST_INLINE void change_four(float* a, float* b, float* c, float* d, F f) {
#if defined(CNNFAST_LEVEL_V4) || defined(CNNFAST_LEVEL_NEON)
  const vf u = f(load(a)), v = f(load(b)), w = f(load(c)), x = f(load(d));
  store(a, u), store(b, v), store(c, w), store(d, x);
#else
  store(a, f(load(a)));
  store(b, f(load(b)));
  store(c, f(load(c)));
  store(d, f(load(d)));
#endif
}

template <class F>
CNNFAST_INLINE void change_row(float* row, int64_t begin, int64_t width, F f) {
  int64_t j = begin;
  for (; j + VL <= width; j += VL) store(row + j, f(load(row + j)));
  if (j < width) {
    const int lanes = static_cast<int>(width - j);
    store_n(row + j, f(load_n(row + j, lanes)), lanes);
  }
}

template <class F>
CNNFAST_INLINE void change_rows(float* const* rows, int count, int64_t width, F f) {
  const int64_t whole = width / VL * VL, fours = width / (4 * VL) * (4 * VL);
  int m = 0;
  // Narrow rows: one vector of each of four.
  for (; fours == 0 && m + 4 <= count; m += 4) {
    for (int64_t j = 0; j < whole; j += VL)
      change_four(rows[m] + j, rows[m + 1] + j, rows[m + 2] + j, rows[m + 3] + j, f);
    for (int i = m; i < m + 4 && whole < width; ++i) change_row(rows[i], whole, width, f);
  }
  for (; m < count; ++m) {
    float* row = rows[m];
    for (int64_t j = 0; j < fours; j += 4 * VL)
      change_four(row + j, row + j + VL, row + j + 2 * VL, row + j + 3 * VL, f);
    change_row(row, fours, width, f);
  }
}

// Rows of a finished result, still in the first-level cache: for the dearer activations, whose constants
// then stay in registers.
static __attribute__((noinline)) void activate_rows(int kind, float slope, float* const* rows, int count,
                                                    int64_t width) {
#define CNNFAST_CHANGE(f) \
  change_rows(rows, count, width, [&](vf x) __attribute__((always_inline)) { return f; })
  switch (kind) {
    case cnnfast::kSilu: {
      Decay decay;
      decay.keep_in_registers();
      return CNNFAST_CHANGE(silu(x, decay));
    }
    case cnnfast::kSigmoid: {
      Decay decay;
      decay.keep_in_registers();
      return CNNFAST_CHANGE(sigmoid(x, decay));
    }
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
