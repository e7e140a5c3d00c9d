// Normalisations.
// affine: one pass, a difference and an FMA per element.
// response: the squares of a block of pixels go to scratch with zeros between pixels, so windows need
//   no bounds; windows up to 16 add shifted vectors in order, longer ones add stretches of 1, 2, 4, ...
//   channels (no running sum: that would lose small values beside large ones). The gradient sums what
//   windows share in the same way, with the window turned round.
// Softmax has a file of its own.
#pragma once
#include "kernels/activation.inl"
#include "kernels/math.inl"
#include "kernels/norm.h"
#include "kernels/simd.h"
#include "kernels/softmax.inl"

namespace {

template <int Activation>
static void affine_rows(const cnnfast::AffineRows* t) {
  const int64_t n = t->n;
  for (int64_t r = 0; r < t->rows; ++r) {
    const float* x = t->x + r * n;
    float* y = t->y + r * n;
    int64_t i = 0;
    for (; i + VL <= n; i += VL)
      store(y + i,
            activate(Activation,
                     fma(load(x + i) - load(t->mean + i), load(t->factor + i), load(t->shift + i)), 0));
    if (i == n) continue;
    const int lanes = static_cast<int>(n - i);
    const vf d = load_n(x + i, lanes) - load_n(t->mean + i, lanes);
    store_n(y + i, activate(Activation, fma(d, load_n(t->factor + i, lanes), load_n(t->shift + i, lanes)), 0),
            lanes);
  }
}

static void affine(const cnnfast::AffineRows* t) {
  if (t->activation == cnnfast::kRelu) return affine_rows<cnnfast::kRelu>(t);
  if (t->activation == cnnfast::kRelu6) return affine_rows<cnnfast::kRelu6>(t);
  affine_rows<cnnfast::kNone>(t);
}

// --- local response ---------------------------------------------------------------------------------

constexpr int64_t kDirectWindow = 16;

static int64_t response_floats(int64_t rows, int64_t c, int64_t before, int64_t after) {
  return rows * (c + before + after) + before + after + 1 + 3 * VL;
}

static int64_t response_scratch(int64_t rows, int64_t c, int64_t before, int64_t after) {
  return response_floats(rows, c, before, after) * (before + after + 1 > kDirectWindow ? 2 : 1);
}

CNNFAST_INLINE void put_zeros(float* p, int64_t n) {
  for (int64_t i = 0; i < n; i += VL) store(p + i, vf{});
}

// Squares of all rows, each between its zeros. Whole vectors are written from left to right, so what
// spills over is overwritten, and in the end zero.
static void put_squares(const cnnfast::ResponseRows* t) {
  float* to = t->squares;
  for (int64_t r = 0; r < t->rows; ++r) {
    const float* x = t->x + r * t->c;
    put_zeros(to, t->before);
    to += t->before;
    int64_t i = 0;
    for (; i + VL <= t->c; i += VL) {
      const vf v = load(x + i);
      store(to + i, v * v);
    }
    if (i < t->c) {
      const vf v = load_n(x + i, static_cast<int>(t->c - i));
      store(to + i, v * v);
    }
    to += t->c;
    put_zeros(to, t->after);
    to += t->after;
  }
  put_zeros(to, t->before + t->after + 1 + VL);
}

// window[i] = sum of squares[i .. i + width), for every i that matters, by stretches of powers of two.
static const float* long_windows(const cnnfast::ResponseRows* t, int64_t width) {
  const int64_t all = response_floats(t->rows, t->c, t->before, t->after);
  const int64_t used = t->rows * (t->c + t->before + t->after);
  float *stretch = t->squares, *window = t->squares + all;
  put_zeros(window, used);
  int64_t offset = 0;
  for (int64_t length = 1; length <= width; length *= 2) {
    if (width & length) {
      for (int64_t i = 0; i < used; i += VL) store(window + i, load(window + i) + load(stretch + i + offset));
      offset += length;
    }
    if (2 * length > width) break;
    // Past `used` everything is zero and stays so.
    for (int64_t i = 0; i < used; i += VL) store(stretch + i, load(stretch + i) + load(stretch + i + length));
  }
  return window;
}

template <int WIDTH>
CNNFAST_INLINE vf direct_window(const float* squares, int64_t width) {
  vf sum = load(squares);
  if (WIDTH) {
    CNNFAST_UNROLL
    for (int j = 1; j < WIDTH; ++j) sum += load(squares + j);
  } else {
    for (int64_t j = 1; j < width; ++j) sum += load(squares + j);
  }
  return sum;
}

template <class Window, class Divide>
CNNFAST_INLINE void response_finish(const cnnfast::ResponseRows* t, const float* sums, Window window,
                                    Divide divide) {
  const int64_t c = t->c, pitch = c + t->before + t->after;
  const vf alpha = splat(t->alpha), k = splat(t->k);
  for (int64_t r = 0; r < t->rows; ++r) {
    const float *x = t->x + r * c, *s = sums + r * pitch;
    float* y = t->y + r * c;
    int64_t i = 0;
    for (; i + VL <= c; i += VL) store(y + i, divide(load(x + i), fma(alpha, window(s + i), k)));
    if (i == c) continue;
    const int lanes = static_cast<int>(c - i);
    store_n(y + i, divide(load_n(x + i, lanes), fma(alpha, window(s + i), k)), lanes);
  }
}

// Every lane takes the quick way if its d is of ordinary size and the exact one if not, whatever its
// neighbours do.
template <class Quick, class Exact>
CNNFAST_INLINE vf divide_carefully(vf x, vf d, float least, float most, Quick quick, Exact exact) {
  const vi ordinary = (d >= splat(least)) & (d <= splat(most));
  if (__builtin_expect(all_lanes(ordinary), 1)) return quick(x, d);
  return select(ordinary, quick(x, select(ordinary, d, splat(1.0f))), exact(x, d));
}

static __attribute__((noinline)) vf divide_by_powf(vf x, vf d, float beta) {
  float power[VL];
  store(power, d);
  for (int i = 0; i < VL; ++i) power[i] = __builtin_powf(power[i], beta);
  return x / load(power);
}

// body(divide) with divide(x, d) = x / d^beta.
template <class Body>
CNNFAST_INLINE void response_by_power(const cnnfast::ResponseRows* t, Body body) {
  if (t->beta == 0.75) {
    body([](vf x, vf d) __attribute__((always_inline)) {
      return divide_carefully(x, d, 1e-30f, 1e30f, divide_by_three_quarters,
                              [](vf u, vf v) __attribute__((always_inline)) {
                                const vf root = vsqrt(v);
                                return u / (root * vsqrt(root));
                              });
    });
  } else if (t->beta == 0.5) {
    body([](vf x, vf d) __attribute__((always_inline)) { return x / vsqrt(d); });
  } else if (t->beta == 1.0) {
    body([](vf x, vf d) __attribute__((always_inline)) { return x / d; });
  } else {
    const double beta = t->beta;
    body([beta](vf x, vf d) __attribute__((always_inline)) {
      return divide_carefully(
          x, d, 1.17549435e-38f, 3.40282347e38f,
          [beta](vf u, vf v) __attribute__((always_inline)) { return times_power(u, v, -beta); },
          [beta](vf u, vf v)
              __attribute__((always_inline)) { return divide_by_powf(u, v, static_cast<float>(beta)); });
    });
  }
}

// body(sums, window) where window(sums + i) are the sums that begin with value i of `squares`.
template <class Body>
CNNFAST_INLINE void response_by_window(const cnnfast::ResponseRows* t, Body body) {
  const int64_t width = t->before + t->after + 1;
  if (width == 5) {
    body(t->squares, [](const float* s) __attribute__((always_inline)) { return direct_window<5>(s, 5); });
  } else if (width <= kDirectWindow) {
    body(t->squares,
         [width](const float* s) __attribute__((always_inline)) { return direct_window<0>(s, width); });
  } else {
    body(long_windows(t, width), [](const float* s) __attribute__((always_inline)) { return load(s); });
  }
}

static void response_rows(const cnnfast::ResponseRows* t) {
  put_squares(t);
  response_by_window(t, [t](const float* sums, auto window) __attribute__((always_inline)) {
    response_by_power(
        t, [=](auto divide) __attribute__((always_inline)) { response_finish(t, sums, window, divide); });
  });
}

// With d of the forward pass: dx = g / d^beta for a start, and what windows share, g x / d^(beta + 1),
// between zeros as put_squares writes it, the window turned round.
template <class Window, class Divide>
CNNFAST_INLINE void response_grad_begin(const cnnfast::ResponseGradRows* t, const float* sums, Window window,
                                        Divide divide) {
  const cnnfast::ResponseRows& f = t->forward;
  const int64_t c = f.c, pitch = c + f.before + f.after;
  const vf alpha = splat(f.alpha), k = splat(f.k);
  float* to = t->shared;
  for (int64_t r = 0; r < f.rows; ++r) {
    const float *x = f.x + r * c, *g = t->g + r * c, *s = sums + r * pitch;
    float* dx = f.y + r * c;
    put_zeros(to, f.after);
    to += f.after;
    int64_t i = 0;
    for (; i + VL <= c; i += VL) {
      const vf d = fma(alpha, window(s + i), k), start = divide(load(g + i), d);
      store(dx + i, start);
      store(to + i, start * load(x + i) / d);
    }
    if (i < c) {
      const int lanes = static_cast<int>(c - i);
      const vf d = fma(alpha, window(s + i), k), start = divide(load_n(g + i, lanes), d);
      store_n(dx + i, start, lanes);
      store(to + i, start * load_n(x + i, lanes) / d);
    }
    to += c;
    put_zeros(to, f.before);
    to += f.before;
  }
  put_zeros(to, f.before + f.after + 1 + VL);
}

// dx -= 2 alpha beta x * (sum of what the windows with this channel share).
template <class Window>
CNNFAST_INLINE void response_grad_finish(const cnnfast::ResponseRows* t, const float* sums, Window window) {
  const int64_t c = t->c, pitch = c + t->before + t->after;
  const vf factor = splat(static_cast<float>(-2.0 * t->alpha * t->beta));
  for (int64_t r = 0; r < t->rows; ++r) {
    const float *x = t->x + r * c, *s = sums + r * pitch;
    float* dx = t->y + r * c;
    int64_t i = 0;
    for (; i + VL <= c; i += VL) store(dx + i, fma(factor * load(x + i), window(s + i), load(dx + i)));
    if (i == c) continue;
    const int lanes = static_cast<int>(c - i);
    store_n(dx + i, fma(factor * load_n(x + i, lanes), window(s + i), load_n(dx + i, lanes)), lanes);
  }
}

static void response_grad_rows(const cnnfast::ResponseGradRows* t) {
  const cnnfast::ResponseRows* f = &t->forward;
  put_squares(f);
  response_by_window(f, [=](const float* sums, auto window) __attribute__((always_inline)) {
    response_by_power(
        f, [=](auto divide) __attribute__((always_inline)) { response_grad_begin(t, sums, window, divide); });
  });
  cnnfast::ResponseRows turned = *f;
  turned.squares = t->shared;
  turned.before = f->after, turned.after = f->before;
  response_by_window(&turned, [&](const float* sums, auto window) __attribute__((always_inline)) {
    response_grad_finish(&turned, sums, window);
  });
}

constexpr cnnfast::NormKernels norm_kernels() {
  return {affine,       response_scratch, response_rows,     response_grad_rows,
          softmax_rows, softmax_columns,  softmax_grad_rows, softmax_grad_columns};
}

}  // namespace
