// Element-by-element operators. Algorithm: one pass, four vectors a step so that the long latencies
// of division and polynomials overlap; the rest of a row is masked. No accumulators.
#pragma once
#include "kernels/activation.inl"
#include "kernels/math.inl"
#include "kernels/pointwise.h"
#include "kernels/simd.h"

namespace {

// y[i] = f(i-th vector of whatever f reads); f(i, load) gets the offset and how to load there.
template <class F>
CNNFAST_INLINE void each_vector(float* y, int64_t n, F f) {
  constexpr int kStep = 4;
  const auto whole = [](const float* p) __attribute__((always_inline)) { return load(p); };
  int64_t i = 0;
  for (; i + kStep * VL <= n; i += kStep * VL) {
    vf out[kStep];
    CNNFAST_UNROLL
    for (int v = 0; v < kStep; ++v) out[v] = f(i + v * VL, whole);
    CNNFAST_UNROLL
    for (int v = 0; v < kStep; ++v) store(y + i + v * VL, out[v]);
  }
  for (; i + VL <= n; i += VL) store(y + i, f(i, whole));
  if (i < n) {
    const int lanes = static_cast<int>(n - i);
    const auto part = [lanes](const float* p) __attribute__((always_inline)) { return load_n(p, lanes); };
    store_n(y + i, f(i, part), lanes);
  }
}

#define CNNFAST_EACH(expression) \
  each_vector(y, n, [&](int64_t i, auto read) __attribute__((always_inline)) { return expression; })

static void activate_all(int kind, float slope, const float* x, float* y, int64_t n) {
  switch (kind) {
    case cnnfast::kRelu:
      return CNNFAST_EACH(vmax(vf{}, read(x + i)));
    case cnnfast::kRelu6:
      return CNNFAST_EACH(vmin(splat(6.0f), vmax(vf{}, read(x + i))));
    case cnnfast::kLeakyRelu:
      return CNNFAST_EACH(activate(cnnfast::kLeakyRelu, read(x + i), slope));
    case cnnfast::kSigmoid: {
      Decay decay;
      decay.keep_in_registers();
      return CNNFAST_EACH(sigmoid(read(x + i), decay));
    }
    case cnnfast::kTanh:
      return CNNFAST_EACH(tanh(read(x + i)));
    case cnnfast::kSilu: {
      Decay decay;
      decay.keep_in_registers();
      return CNNFAST_EACH(silu(read(x + i), decay));
    }
    case cnnfast::kHardSwish:
      return CNNFAST_EACH(hard_swish(read(x + i)));
    default:
      return CNNFAST_EACH(read(x + i));
  }
}

static void unary_all(cnnfast::Unary function, float p, float q, const float* x, float* y, int64_t n) {
  using cnnfast::Unary;
  switch (function) {
    case Unary::kNeg:
      return CNNFAST_EACH(-read(x + i));
    case Unary::kAbs:
      return CNNFAST_EACH(vabs(read(x + i)));
    case Unary::kSqrt:
      return CNNFAST_EACH(vsqrt(read(x + i)));
    case Unary::kExp:
      return CNNFAST_EACH(exp(read(x + i)));
    case Unary::kLog:
      return CNNFAST_EACH(log(read(x + i)));
    case Unary::kReciprocal:
      return CNNFAST_EACH(splat(1.0f) / read(x + i));
    case Unary::kFloor:
      return CNNFAST_EACH(vfloor(read(x + i)));
    case Unary::kCeil:
      return CNNFAST_EACH(-vfloor(-read(x + i)));
    case Unary::kClip:
      return CNNFAST_EACH(vmin(splat(q), vmax(splat(p), read(x + i))));
    case Unary::kElu:
      return CNNFAST_EACH(elu(read(x + i), p));
    case Unary::kHardSigmoid:
      return CNNFAST_EACH(vmin(splat(1.0f), vmax(vf{}, p * read(x + i) + q)));
    case Unary::kErf:
      return CNNFAST_EACH(erf(read(x + i)));
  }
}

template <class Operation, class Finish>
CNNFAST_INLINE void binary_rows(const cnnfast::BinaryRows* t, Operation operation, Finish finish) {
  const int64_t n = t->n;
  for (int64_t r = 0; r < t->rows; ++r) {
    const float *a = t->a + r * t->a_step, *b = t->b + r * t->b_step;
    float* y = t->y + r * t->y_step;
    if (t->b_scalar) {
      const vf s = splat(*b);
      CNNFAST_EACH(finish(operation(read(a + i), s)));
    } else {
      CNNFAST_EACH(finish(operation(read(a + i), read(b + i))));
    }
  }
}

#define CNNFAST_LAMBDA(result, ...) [=](__VA_ARGS__) __attribute__((always_inline)) { return result; }

static void add_rows(const cnnfast::BinaryRows* t) {
  const auto sum = CNNFAST_LAMBDA(a + b, vf a, vf b);
  switch (t->activation) {
    case cnnfast::kNone:
      return binary_rows(t, sum, CNNFAST_LAMBDA(v, vf v));
    case cnnfast::kRelu:
      return binary_rows(t, sum, CNNFAST_LAMBDA(vmax(vf{}, v), vf v));
    default:
      return binary_rows(t, sum, CNNFAST_LAMBDA(activate(t->activation, v, t->slope), vf v));
  }
}

// Where the order of the operands counts, or the sign of a zero might.
template <class Operation>
CNNFAST_INLINE void ordered_rows(const cnnfast::BinaryRows* t, Operation operation) {
  const auto as_is = CNNFAST_LAMBDA(v, vf v);
  if (t->swapped)
    binary_rows(t, CNNFAST_LAMBDA(operation(b, a), vf a, vf b), as_is);
  else
    binary_rows(t, operation, as_is);
}

static void binary_all(cnnfast::Binary op, const cnnfast::BinaryRows* t) {
  using cnnfast::Binary;
  switch (op) {
    case Binary::kAdd:
      return add_rows(t);
    case Binary::kMul:
      return binary_rows(t, CNNFAST_LAMBDA(a * b, vf a, vf b), CNNFAST_LAMBDA(v, vf v));
    case Binary::kSub:
      return ordered_rows(t, CNNFAST_LAMBDA(a - b, vf a, vf b));
    case Binary::kDiv:
      return ordered_rows(t, CNNFAST_LAMBDA(a / b, vf a, vf b));
    case Binary::kPow:
      return ordered_rows(t, CNNFAST_LAMBDA(power(a, b), vf a, vf b));
    case Binary::kMaximum:
      return ordered_rows(t, CNNFAST_LAMBDA(maximum(a, b), vf a, vf b));
    case Binary::kMinimum:
      return ordered_rows(t, CNNFAST_LAMBDA(minimum(a, b), vf a, vf b));
    case Binary::kPrelu:
      return ordered_rows(t, CNNFAST_LAMBDA(select(x < vf{}, x * slope, x), vf x, vf slope));
  }
}

// --- gradients --------------------------------------------------------------------------------------

static void unary_grad_all(cnnfast::Unary function, float p, float q, const float* g, const float* v,
                           float* y, int64_t n) {
  using cnnfast::Unary;
  const vf one = splat(1.0f), zero = {};
#define CNNFAST_SLOPE(expression)                                              \
  each_vector(y, n, [&](int64_t i, auto read) __attribute__((always_inline)) { \
    const vf x = read(v + i);                                                  \
    return read(g + i) * (expression);                                         \
  })
  switch (function) {
    case Unary::kNeg:
      return CNNFAST_EACH(-read(g + i));
    case Unary::kAbs:
      return CNNFAST_SLOPE(select(x > zero, one, select(x < zero, -one, x)));
    case Unary::kSqrt:
      return CNNFAST_SLOPE(splat(0.5f) / x);
    case Unary::kExp:
      return CNNFAST_SLOPE(x);
    case Unary::kLog:
      return CNNFAST_SLOPE(one / x);
    case Unary::kReciprocal:
      return CNNFAST_SLOPE(-x * x);
    case Unary::kFloor:
    case Unary::kCeil:
      return CNNFAST_SLOPE(((void)x, zero));
    case Unary::kClip:
      return CNNFAST_SLOPE(select((x >= splat(p)) & (x <= splat(q)), one, zero));
    case Unary::kElu:
      return CNNFAST_SLOPE(select(x < zero, p * exp(vmin(zero, x)), one));
    case Unary::kHardSigmoid:
      return CNNFAST_SLOPE(select((p * x + q > zero) & (p * x + q < one), splat(p), zero));
    case Unary::kErf:
      return CNNFAST_SLOPE(splat(1.12837917f) * exp(-x * x));
  }
#undef CNNFAST_SLOPE
}

// f(g, a, b), where `swapped` says that the operands have changed places.
template <class F>
CNNFAST_INLINE void gradient_rows(const cnnfast::BinaryRows* t, F f) {
  const int64_t n = t->n;
  for (int64_t r = 0; r < t->rows; ++r) {
    const float *a = t->a + r * t->a_step, *b = t->b + r * t->b_step, *g = t->g + r * t->y_step;
    float* y = t->y + r * t->y_step;
    if (t->b_scalar) {
      const vf s = splat(*b);
      if (t->swapped)
        CNNFAST_EACH(f(read(g + i), s, read(a + i)));
      else
        CNNFAST_EACH(f(read(g + i), read(a + i), s));
    } else if (t->swapped) {
      CNNFAST_EACH(f(read(g + i), read(b + i), read(a + i)));
    } else {
      CNNFAST_EACH(f(read(g + i), read(a + i), read(b + i)));
    }
  }
}

// All of the gradient to the winner, half of it each where both are equal; NaN has it too.
CNNFAST_INLINE vf to_winner(vf g, vi wins, vi loses, vi equal) {
  return select(wins, g, select(loses, vf{}, select(equal, g * splat(0.5f), g)));
}

static void binary_grad_all(cnnfast::BinaryGrad op, const cnnfast::BinaryRows* t) {
  using cnnfast::BinaryGrad;
#define CNNFAST_GRADIENT(result) CNNFAST_LAMBDA(result, vf g, vf a, vf b)
  switch (op) {
    case BinaryGrad::kDivisor:
      return gradient_rows(t, CNNFAST_GRADIENT(-(g * a) / b));
    case BinaryGrad::kBase:  // x^0 is 1 everywhere: no power of -1
      return gradient_rows(t, CNNFAST_GRADIENT(g * (b * power(a, b - select(b != vf{}, splat(1.0f), vf{})))));
    case BinaryGrad::kExponent:
      return gradient_rows(t, CNNFAST_GRADIENT(g * select(b == vf{}, vf{}, b * log(a))));
    case BinaryGrad::kLarger:
      return gradient_rows(t, CNNFAST_GRADIENT(to_winner(g, a > b, a < b, a == b)));
    case BinaryGrad::kSmaller:
      return gradient_rows(t, CNNFAST_GRADIENT(to_winner(g, a<b, a> b, a == b)));
    case BinaryGrad::kPrelu:
      return gradient_rows(t, CNNFAST_GRADIENT(select(a > vf{}, g, g * b)));
    case BinaryGrad::kSlope:
      return gradient_rows(t, CNNFAST_GRADIENT(((void)b, select(a < vf{}, g * a, vf{}))));
  }
#undef CNNFAST_GRADIENT
}

#undef CNNFAST_LAMBDA
#undef CNNFAST_EACH

constexpr cnnfast::PointwiseKernels pointwise_kernels() {
  return {activate_all, unary_all, binary_all, unary_grad_all, binary_grad_all};
}

}  // namespace
