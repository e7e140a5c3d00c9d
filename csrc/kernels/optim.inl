// Steps of optimisers. Algorithm: one pass that reads gradient, parameter and state, and writes parameter
// and state in place; the last values are masked. The loops wait for memory, not for arithmetic.
// Accumulators: four vectors of the dot product, added lane by lane in double at the end.
#pragma once
#include "kernels/math.inl"
#include "kernels/optim.h"
#include "kernels/simd.h"

namespace {

// f(i, read, write) for every vector; read(p + i), write(p + i, v).
template <class F>
CNNFAST_INLINE void each_step(int64_t n, F f) {
  int64_t i = 0;
  for (; i + VL <= n; i += VL)
    f(
        i, [](const float* p) __attribute__((always_inline)) { return load(p); },
        [](float* p, vf v) __attribute__((always_inline)) { store(p, v); });
  if (i < n) {
    const int lanes = static_cast<int>(n - i);
    f(
        i, [lanes](const float* p) __attribute__((always_inline)) { return load_n(p, lanes); },
        [lanes](float* p, vf v) __attribute__((always_inline)) { store_n(p, v, lanes); });
  }
}

#define CNNFAST_STEP [=](int64_t i, auto read, auto write) __attribute__((always_inline))

static void sgd_step(const cnnfast::SgdStep* t, float* p, const float* g, float* velocity, int64_t n) {
  const vf lr = splat(t->lr), momentum = splat(t->momentum), gain = splat(t->gain), decay = splat(t->decay),
           sign = splat(t->sign);
  const bool decays = t->decay != 0, nesterov = t->nesterov, first = t->first;
  each_step(
      n, CNNFAST_STEP {
        const vf x = read(p + i);
        vf d = sign * read(g + i);
        if (decays) d = fma(decay, x, d);
        if (velocity) {
          const vf v = first ? d : fma(gain, d, momentum * read(velocity + i));
          write(velocity + i, v);
          d = nesterov ? fma(momentum, v, d) : v;
        }
        write(p + i, fma(-lr, d, x));
      });
}

static void rmsprop_step(const cnnfast::RmspropStep* t, float* p, const float* g, float* square, float* mean,
                         float* velocity, int64_t n) {
  const vf lr = splat(t->lr), alpha = splat(t->alpha), rest = splat(t->rest), eps = splat(t->eps),
           decay = splat(t->decay), momentum = splat(t->momentum), sign = splat(t->sign);
  const bool decays = t->decay != 0;
  each_step(
      n, CNNFAST_STEP {
        const vf x = read(p + i);
        vf d = sign * read(g + i);
        if (decays) d = fma(decay, x, d);
        const vf s = fma(rest * d, d, alpha * read(square + i));
        write(square + i, s);
        vf spread = s;
        if (mean) {
          const vf old = read(mean + i), m = fma(rest, d - old, old);
          write(mean + i, m);
          spread = s - m * m;
        }
        vf move = d / (vsqrt(spread) + eps);
        if (velocity) {
          move = fma(momentum, read(velocity + i), move);
          write(velocity + i, move);
        }
        write(p + i, fma(-lr, move, x));
      });
}

static void adam_step(const cnnfast::AdamStep* t, float* p, const float* g, float* mean, float* square,
                      float* largest, int64_t n) {
  const vf size = splat(t->size), rest1 = splat(t->rest1), beta2 = splat(t->beta2), rest2 = splat(t->rest2),
           root = splat(t->root), eps = splat(t->eps), decay = splat(t->decay), keep = splat(t->keep),
           sign = splat(t->sign);
  const bool decays = t->decay != 0;
  each_step(
      n, CNNFAST_STEP {
        const vf x = read(p + i);
        vf d = sign * read(g + i);
        if (decays) d = fma(decay, x, d);
        const vf before = read(mean + i), m = fma(rest1, d - before, before);
        write(mean + i, m);
        vf s = fma(rest2 * d, d, beta2 * read(square + i));
        write(square + i, s);
        if (largest) {
          s = vmax(read(largest + i), s);
          write(largest + i, s);
        }
        write(p + i, fma(-size, m / (vsqrt(s) / root + eps), x * keep));
      });
}

static void approach(float share, float* y, const float* x, int64_t n) {
  const vf part = splat(share);
  each_step(
      n, CNNFAST_STEP {
        const vf old = read(y + i);
        write(y + i, fma(part, read(x + i) - old, old));
      });
}

static void add_scaled(float factor, float* y, const float* x, int64_t n) {
  const vf scale = splat(factor);
  each_step(n, CNNFAST_STEP { write(y + i, fma(scale, read(x + i), read(y + i))); });
}

#undef CNNFAST_STEP

static double dot(const float* a, const float* b, int64_t n) {
  constexpr int kChains = 4;
  vf sums[kChains] = {};
  int64_t i = 0;
  for (; i + kChains * VL <= n; i += kChains * VL) {
    CNNFAST_UNROLL
    for (int c = 0; c < kChains; ++c) sums[c] = fma(load(a + i + c * VL), load(b + i + c * VL), sums[c]);
  }
  for (; i + VL <= n; i += VL) sums[0] = fma(load(a + i), load(b + i), sums[0]);
  if (i < n) {
    const int lanes = static_cast<int>(n - i);
    sums[0] = fma(load_n(a + i, lanes), load_n(b + i, lanes), sums[0]);
  }
  double total = 0;
  for (int c = 0; c < kChains; ++c)
    for (int lane = 0; lane < VL; ++lane) total += static_cast<double>(sums[c][lane]);
  return total;
}

constexpr cnnfast::OptimKernels optim_kernels() {
  return {sgd_step, rmsprop_step, adam_step, approach, add_scaled, dot};
}

}  // namespace
