// Normalisations.
// affine: one pass, a difference and an FMA per element.
// response: the squares of a block of pixels go to scratch with zeros between pixels, so windows need
//   no bounds; windows up to 16 add shifted vectors in order, longer ones add stretches of 1, 2, 4, ...
//   channels (no running sum: that would lose small values beside large ones).
// softmax: maximum; exponentials of the exact difference and their compensated (Kahan) sum; scaling.
//   Rows: lanes along the row, two accumulators; short rows are turned into columns. Columns: lanes across,
//   one accumulator per column, which takes four terms at a time.
#pragma once
#include "kernels/activation.inl"
#include "kernels/math.inl"
#include "kernels/norm.h"
#include "kernels/simd.h"

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

template <class Window>
static void response_by_power(const cnnfast::ResponseRows* t, const float* sums, Window window) {
  if (t->beta == 0.75) {
    response_finish(t, sums, window, [](vf x, vf d) __attribute__((always_inline)) {
      return divide_carefully(x, d, 1e-30f, 1e30f, divide_by_three_quarters,
                              [](vf u, vf v) __attribute__((always_inline)) {
                                const vf root = vsqrt(v);
                                return u / (root * vsqrt(root));
                              });
    });
  } else if (t->beta == 0.5) {
    response_finish(t, sums, window, [](vf x, vf d) __attribute__((always_inline)) { return x / vsqrt(d); });
  } else if (t->beta == 1.0) {
    response_finish(t, sums, window, [](vf x, vf d) __attribute__((always_inline)) { return x / d; });
  } else {
    const double beta = t->beta;
    response_finish(t, sums, window, [beta](vf x, vf d) __attribute__((always_inline)) {
      return divide_carefully(
          x, d, 1.17549435e-38f, 3.40282347e38f,
          [beta](vf u, vf v) __attribute__((always_inline)) { return times_power(u, v, -beta); },
          [beta](vf u, vf v)
              __attribute__((always_inline)) { return divide_by_powf(u, v, static_cast<float>(beta)); });
    });
  }
}

static void response_rows(const cnnfast::ResponseRows* t) {
  const int64_t width = t->before + t->after + 1;
  put_squares(t);
  if (width == 5) {
    response_by_power(t, t->squares,
                      [](const float* s) __attribute__((always_inline)) { return direct_window<5>(s, 5); });
  } else if (width <= kDirectWindow) {
    response_by_power(t, t->squares, [width](const float* s) __attribute__((always_inline)) {
      return direct_window<0>(s, width);
    });
  } else {
    response_by_power(t, long_windows(t, width),
                      [](const float* s) __attribute__((always_inline)) { return load(s); });
  }
}

// --- softmax ----------------------------------------------------------------------------------------

// A sum whose rounding errors are carried along: a few units however long it gets.
struct KahanSum {
  vf sum, lost;
};
CNNFAST_INLINE void add_to(KahanSum* s, vf x) {
  const vf y = x - s->lost, t = s->sum + y;
  s->lost = (t - s->sum) - y;
  s->sum = t;
}

CNNFAST_INLINE float largest_lane(vf v) {
  float lane[VL];
  store(lane, v);
  for (int width = VL / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lane[i] = lane[i] > lane[i + width] ? lane[i] : lane[i + width];
  return lane[0];
}

// For the logarithm the largest element is left out of the sum, which keeps ln(1 + rest) exact where
// one element outweighs all others: equal largest elements are counted, and all but one are added.
template <bool LOG>
CNNFAST_INLINE vf softmax_term(vf x, vf m, vf* ties) {
  const vf e = exp_of_difference(x, m);
  if (!LOG) return e;
  const vi top = x == m;
  *ties += select(top, splat(1.0f), vf{});
  return select(top & (e == e), vf{}, e);
}

// What every element is multiplied by, or what is subtracted from it.
template <bool LOG>
CNNFAST_INLINE vf softmax_total(vf sum, vf ties) {
  return LOG ? log1p_of_sum(sum, ties - splat(1.0f)) : splat(1.0f) / sum;
}

template <bool LOG>
static void softmax_row(const float* x, float* y, int64_t k) {
  const vf none = splat(-__builtin_inff());
  vi lane = {};
  for (int i = 0; i < VL; ++i) lane[i] = i;
  const int64_t whole = k / VL * VL;
  const int tail = static_cast<int>(k - whole);
  const vi in_tail = lane < splat_int(tail);
  const auto last = [&]() __attribute__((always_inline)) {
    return select(in_tail, load_n(x + whole, tail), none);
  };

  vf m = none;
  for (int64_t i = 0; i < whole; i += VL) m = vmax(m, load(x + i));
  if (tail) m = vmax(m, last());
  m = splat(largest_lane(m));

  KahanSum even = {}, odd = {};
  vf ties = {};
  int64_t i = 0;
  for (; i + 2 * VL <= whole; i += 2 * VL) {
    const vf a = softmax_term<LOG>(load(x + i), m, &ties), b = softmax_term<LOG>(load(x + i + VL), m, &ties);
    add_to(&even, a), add_to(&odd, b);
    if (!LOG) store(y + i, a), store(y + i + VL, b);
  }
  for (; i < whole; i += VL) {
    const vf a = softmax_term<LOG>(load(x + i), m, &ties);
    add_to(&even, a);
    if (!LOG) store(y + i, a);
  }
  vf end = {};
  if (tail) {
    end = softmax_term<LOG>(last(), m, &ties);
    add_to(&odd, end);
  }
  const float sum = sum_lanes(even.sum + odd.sum);
  const vf total =
      splat(LOG ? static_cast<float>(__builtin_log1p(static_cast<double>(sum) + (sum_lanes(ties) - 1.0)))
                : 1.0f / sum);
  for (i = 0; i < whole; i += VL) store(y + i, LOG ? load(x + i) - m - total : load(y + i) * total);
  if (tail) store_n(y + whole, LOG ? last() - m - total : end * total, tail);
}

// What ends the softmax of VL columns.
struct SoftmaxEnd {
  vf m, total;
};
// Of x for the logarithm, of exp(x - m) without.
template <bool LOG>
CNNFAST_INLINE vf softmax_end(const SoftmaxEnd& s, vf v) {
  return LOG ? v - s.m - s.total : v * s.total;
}

// NV vectors of columns: maxima and sums; y becomes exp(x - m) unless LOG.
template <bool LOG, int NV, class Load, class Store>
CNNFAST_INLINE void softmax_sums(const cnnfast::SoftmaxColumns* t, int64_t column, Load read, Store write,
                                 SoftmaxEnd* end) {
  const float* x = t->x + column;
  float* y = t->y + column;
  const vf none = splat(-__builtin_inff());
  vf m[NV], ties[NV];
  KahanSum sum[NV];
  CNNFAST_UNROLL
  for (int v = 0; v < NV; ++v) m[v] = none, ties[v] = vf{}, sum[v] = KahanSum{vf{}, vf{}};
  for (int64_t i = 0; i < t->k; ++i) {
    CNNFAST_UNROLL
    for (int v = 0; v < NV; ++v) m[v] = vmax(m[v], read(x + i * t->step + v * VL));
  }
  const auto term = [&](int64_t i, int v) __attribute__((always_inline)) {
    const int64_t at = i * t->step + v * VL;
    const vf e = softmax_term<LOG>(read(x + at), m[v], &ties[v]);
    if (!LOG) write(y + at, e);
    return e;
  };
  // Four terms at a time: each addition to the long sum waits for the one before.
  int64_t i = 0;
  for (; i + 4 <= t->k; i += 4) {
    CNNFAST_UNROLL
    for (int v = 0; v < NV; ++v) {
      const vf a = term(i, v) + term(i + 1, v), b = term(i + 2, v) + term(i + 3, v);
      add_to(&sum[v], a + b);
    }
  }
  for (; i < t->k; ++i) {
    CNNFAST_UNROLL
    for (int v = 0; v < NV; ++v) add_to(&sum[v], term(i, v));
  }
  CNNFAST_UNROLL
  for (int v = 0; v < NV; ++v) end[v] = {m[v], softmax_total<LOG>(sum[v].sum, ties[v])};
}

// NV vectors of columns; `read` and `write` take whole vectors or the first lanes only.
template <bool LOG, int NV, class Load, class Store>
CNNFAST_INLINE void softmax_strip(const cnnfast::SoftmaxColumns* t, int64_t column, Load read, Store write) {
  SoftmaxEnd end[NV];
  softmax_sums<LOG, NV>(t, column, read, write, end);
  for (int64_t i = 0; i < t->k; ++i) {
    CNNFAST_UNROLL
    for (int v = 0; v < NV; ++v) {
      const int64_t at = column + i * t->step + v * VL;
      write(t->y + at, softmax_end<LOG>(end[v], read((LOG ? t->x : t->y) + at)));
    }
  }
}

// Short rows are turned into columns, in squares of VL rows and columns. The last columns overlap their
// neighbours, and rows that are missing repeat the last one: a row alone costs as much as VL of them, which
// it must, for its bits may not depend on the others.
constexpr int64_t kShortRow = 64;

CNNFAST_INLINE void rows_to_columns(const float* x, int64_t rows, int64_t k, float* turned, int64_t step) {
  const int lanes = static_cast<int>(min_int(k, VL));
  for (int64_t j = 0; j < k; j += VL) {
    const int64_t column = max_int(0, min_int(j, k - VL));
    const float* row = x + column;
    vf v[VL];
    CNNFAST_UNROLL
    for (int i = 0; i < VL; ++i) {
      v[i] = lanes == VL ? load(row) : load_n(row, lanes);
      row += i + 1 < rows ? k : 0;
    }
    transpose(v);
    CNNFAST_UNROLL
    for (int i = 0; i < VL; ++i) store(turned + (column + i) * step, v[i]);
  }
}

template <bool LOG>
CNNFAST_INLINE void columns_to_rows(const float* turned, int64_t step, const SoftmaxEnd& end, float* y,
                                    int64_t rows, int64_t k) {
  const int lanes = static_cast<int>(min_int(k, VL));
  for (int64_t j = 0; j < k; j += VL) {
    const int64_t column = max_int(0, min_int(j, k - VL));
    float* row = y + column;
    vf v[VL];
    CNNFAST_UNROLL
    for (int i = 0; i < VL; ++i) v[i] = softmax_end<LOG>(end, load(turned + (column + i) * step));
    transpose(v);
    CNNFAST_UNROLL
    for (int i = 0; i < VL; ++i) {
      lanes == VL ? store(row, v[i]) : store_n(row, v[i], lanes);
      row += i + 1 < rows ? k : 0;
    }
  }
}

// Up to NV * VL rows, more than (NV - 1) * VL.
template <bool LOG, int NV>
static void softmax_short_rows(const float* x, float* y, int64_t rows, int64_t k) {
  constexpr int kStep = NV * VL;
  alignas(sizeof(vf)) float turned[kShortRow * kStep];
  const cnnfast::SoftmaxColumns t{turned, turned, k, kStep, kStep, LOG};
  for (int v = 0; v < NV; ++v)
    rows_to_columns(x + v * VL * k, min_int(VL, rows - v * VL), k, turned + v * VL, kStep);
  SoftmaxEnd end[NV];
  softmax_sums<LOG, NV>(
      &t, 0, [](const float* p) __attribute__((always_inline)) { return load(p); },
      [](float* p, vf v) __attribute__((always_inline)) { store(p, v); }, end);
  for (int v = 0; v < NV; ++v)
    columns_to_rows<LOG>(turned + v * VL, kStep, end[v], y + v * VL * k, min_int(VL, rows - v * VL), k);
}

template <bool LOG>
static void softmax_each_row(const float* x, float* y, int64_t rows, int64_t k) {
  int64_t r = 0;
  if (k <= kShortRow) {
    // Two vectors at a time hide each other's latency.
    for (; r + VL < rows; r += 2 * VL)
      softmax_short_rows<LOG, 2>(x + r * k, y + r * k, min_int(2 * VL, rows - r), k);
    if (r < rows) softmax_short_rows<LOG, 1>(x + r * k, y + r * k, rows - r, k);
    return;
  }
  for (; r < rows; ++r) softmax_row<LOG>(x + r * k, y + r * k, k);
}

static void softmax_rows(const float* x, float* y, int64_t rows, int64_t k, bool log) {
  if (log)
    softmax_each_row<true>(x, y, rows, k);
  else
    softmax_each_row<false>(x, y, rows, k);
}

template <bool LOG>
static void softmax_strips(const cnnfast::SoftmaxColumns* t) {
  const auto read = [](const float* p) __attribute__((always_inline)) { return load(p); };
  const auto write = [](float* p, vf v) __attribute__((always_inline)) { store(p, v); };
  int64_t column = 0;
  for (; column + 4 * VL <= t->columns; column += 4 * VL) softmax_strip<LOG, 4>(t, column, read, write);
  for (; column + VL <= t->columns; column += VL) softmax_strip<LOG, 1>(t, column, read, write);
  if (column == t->columns) return;
  const int lanes = static_cast<int>(t->columns - column);
  softmax_strip<LOG, 1>(
      t, column, [lanes](const float* p) __attribute__((always_inline)) { return load_n(p, lanes); },
      [lanes](float* p, vf v) __attribute__((always_inline)) { store_n(p, v, lanes); });
}

static void softmax_columns(const cnnfast::SoftmaxColumns* t) {
  if (t->log)
    softmax_strips<true>(t);
  else
    softmax_strips<false>(t);
}

constexpr cnnfast::NormKernels norm_kernels() {
  return {affine, response_scratch, response_rows, softmax_rows, softmax_columns};
}

}  // namespace
