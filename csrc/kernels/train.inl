// What training adds to normalisation, activations and losses.
// Sums over rows: four rows are added as a tree, then that to the running sum, which lies in memory; callers
// give few rows at a time and join their sums in double precision. Gradients of activations, cross-entropy of
// sigmoids: one pass.
#pragma once
#include "kernels/math.inl"
#include "kernels/activation.inl"
#include "kernels/pointwise.inl"
#include "kernels/simd.h"
#include "kernels/train.h"

namespace {

// For vectors of channels i .. i + VL and groups of R rows: one(i, row, load) gives two values to sum.
template <int R, class F>
CNNFAST_INLINE void sum_pairs(int64_t n, int64_t row, bool more, float* first, float* second, F one) {
  const auto at = [&](int64_t i, auto read, auto write) __attribute__((always_inline)) {
    vf a[R], b[R];
    CNNFAST_UNROLL
    for (int r = 0; r < R; ++r) one(i, row + r, read, &a[r], &b[r]);
    CNNFAST_UNROLL
    for (int apart = 1; apart < R; apart *= 2) CNNFAST_UNROLL
    for (int r = 0; r + apart < R; r += 2 * apart) a[r] += a[r + apart], b[r] += b[r + apart];
    write(first + i, more ? read(first + i) + a[0] : a[0]);
    write(second + i, more ? read(second + i) + b[0] : b[0]);
  };
  int64_t i = 0;
  for (; i + VL <= n; i += VL)
    at(
        i, [](const float* p) __attribute__((always_inline)) { return load(p); },
        [](float* p, vf v) __attribute__((always_inline)) { store(p, v); });
  if (i == n) return;
  const int lanes = static_cast<int>(n - i);
  at(
      i, [lanes](const float* p) __attribute__((always_inline)) { return load_n(p, lanes); },
      [lanes](float* p, vf v) __attribute__((always_inline)) { store_n(p, v, lanes); });
}

template <class F>
CNNFAST_INLINE void sum_rows(int64_t rows, int64_t n, float* first, float* second, F one) {
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) sum_pairs<4>(n, r, r > 0, first, second, one);
  for (; r < rows; ++r) sum_pairs<1>(n, r, r > 0, first, second, one);
}

static void moment_rows(const cnnfast::MomentRows* t) {
  const int64_t n = t->n;
  sum_rows(t->rows, n, t->sums, t->squares,
           [t, n](int64_t i, int64_t row, auto read, vf* a, vf* b) __attribute__((always_inline)) {
             const vf d = read(t->x + row * n + i) - read(t->mean + i);
             *a = d;
             *b = d * d;
           });
}

// The gradient before the activation, and x - mean.
template <int Activation, class Read>
CNNFAST_INLINE vf norm_gradient(const cnnfast::NormGradRows* t, int64_t i, int64_t at, Read read, vf* d) {
  *d = read(t->x + at) - read(t->mean + i);
  const vf g = read(t->g + at);
  if (Activation == cnnfast::kNone) return g;
  const vf v = fma(*d, read(t->factor + i), read(t->shift + i));
  if (Activation == cnnfast::kRelu6) return select((v <= vf{}) | (v >= splat(6.0f)), vf{}, g);
  return select(v <= vf{}, vf{}, g);
}

template <int Activation>
static void norm_sum_rows(const cnnfast::NormGradRows* t) {
  const int64_t n = t->n;
  sum_rows(t->rows, n, t->sums, t->products,
           [t, n](int64_t i, int64_t row, auto read, vf* a, vf* b) __attribute__((always_inline)) {
             vf d;
             *a = norm_gradient<Activation>(t, i, row * n + i, read, &d);
             *b = *a * d;
           });
}

template <int Activation>
static void norm_grad_rows(const cnnfast::NormGradRows* t) {
  const int64_t n = t->n;
  for (int64_t row = 0; row < t->rows; ++row) {
    each_vector(t->dx + row * n, n, [t, n, row](int64_t i, auto read) __attribute__((always_inline)) {
      vf d;
      const vf g = norm_gradient<Activation>(t, i, row * n + i, read, &d);
      return read(t->factor + i) * (g - read(t->level + i) - d * read(t->slope + i));
    });
  }
}

static void norm_sums(const cnnfast::NormGradRows* t) {
  if (t->activation == cnnfast::kRelu) return norm_sum_rows<cnnfast::kRelu>(t);
  if (t->activation == cnnfast::kRelu6) return norm_sum_rows<cnnfast::kRelu6>(t);
  norm_sum_rows<cnnfast::kNone>(t);
}
static void norm_grad(const cnnfast::NormGradRows* t) {
  if (t->activation == cnnfast::kRelu) return norm_grad_rows<cnnfast::kRelu>(t);
  if (t->activation == cnnfast::kRelu6) return norm_grad_rows<cnnfast::kRelu6>(t);
  norm_grad_rows<cnnfast::kNone>(t);
}

// --- activations ------------------------------------------------------------------------------------

CNNFAST_INLINE vf silu_grad(vf g, vf x) {
  // s (1 + x (1 - s)); the bounds keep Inf from meeting the zeros of s and 1 - s.
  const vf bounded = vmin(splat(110.0f), vmax(splat(-110.0f), x));
  const vf rising = sigmoid(bounded), falling = sigmoid(-bounded);
  return g * (rising * fma(bounded, falling, splat(1.0f)));
}

static void activation_grad(int kind, float slope, const float* g, const float* v, float* y, int64_t n) {
#define CNNFAST_EACH(expression)                                               \
  each_vector(y, n, [&](int64_t i, auto read) __attribute__((always_inline)) { \
    const vf d = read(g + i), x = read(v + i);                                 \
    return expression;                                                         \
  })
  const vf one = splat(1.0f), zero = {};
  switch (kind) {
    case cnnfast::kRelu:
      return CNNFAST_EACH(select(x <= zero, zero, d));
    case cnnfast::kRelu6:
      return CNNFAST_EACH(select((x <= zero) | (x >= splat(6.0f)), zero, d));
    case cnnfast::kLeakyRelu:
      return CNNFAST_EACH(select(x < zero, d * slope, d));
    case cnnfast::kSigmoid:
      return CNNFAST_EACH(d * (x * (one - x)));
    case cnnfast::kTanh:
      return CNNFAST_EACH(d * ((one - x) * (one + x)));
    case cnnfast::kSilu:
      return CNNFAST_EACH(silu_grad(d, x));
    case cnnfast::kHardSwish:
      return CNNFAST_EACH(d * select(x <= splat(-3.0f), zero,
                                     select(x >= splat(3.0f), one, fma(x, splat(1.0f / 3), splat(0.5f)))));
    default:
      return each_vector(y, n,
                         [g](int64_t i, auto read) __attribute__((always_inline)) { return read(g + i); });
  }
#undef CNNFAST_EACH
}

// --- cross-entropy of sigmoids ----------------------------------------------------------------------

// ln(1 + exp(-|x|)). With u = 1 + e rounded, ln(u) e / (u - 1) has the relative precision of ln.
CNNFAST_INLINE vf softplus_tail(vf x) {
  const vf one = splat(1.0f), e = exp(-vabs(x)), u = one + e;
  return select(u == one, e, log(u) * (e / (u - one)));
}

static void sigmoid_cross_entropy(cnnfast::SigmoidLoss what, const cnnfast::SigmoidRun* r) {
  const vf one = splat(1.0f), w = splat(r->weight);
  switch (what) {
    case cnnfast::SigmoidLoss::kLoss:
      return each_vector(r->y, r->n, [r, one, w](int64_t i, auto read) __attribute__((always_inline)) {
        const vf x = read(r->x + i), t = read(r->t + i), small = softplus_tail(x);
        return w * t * (small + vmax(vf{}, -x)) + (one - t) * (small + vmax(vf{}, x));
      });
    case cnnfast::SigmoidLoss::kByScore:
      return each_vector(r->y, r->n, [r, one, w](int64_t i, auto read) __attribute__((always_inline)) {
        const vf x = read(r->x + i), t = read(r->t + i);
        return read(r->g + i) * ((one - t) * sigmoid(x) - w * t * sigmoid(-x));
      });
    case cnnfast::SigmoidLoss::kByTarget:
      return each_vector(r->y, r->n, [r, w](int64_t i, auto read) __attribute__((always_inline)) {
        const vf x = read(r->x + i), small = softplus_tail(x);
        return read(r->g + i) * (w * (small + vmax(vf{}, -x)) - (small + vmax(vf{}, x)));
      });
  }
}

constexpr cnnfast::TrainKernels train_kernels() {
  return {moment_rows, norm_sums, norm_grad, activation_grad, sigmoid_cross_entropy};
}

}  // namespace
