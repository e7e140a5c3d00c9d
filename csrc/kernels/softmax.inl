// Softmax, its logarithm, and their gradients.
// Values: maximum; exponentials of the exact difference and their compensated (Kahan) sum; scaling.
//   Rows: lanes along the row, two accumulators; short rows are turned into columns. Columns: lanes across,
//   one accumulator per column, which takes four terms at a time.
// Gradients: a compensated sum, then one pass; rows with lanes along them, two accumulators; columns with
//   lanes across, one accumulator per column.
#pragma once
#include "kernels/math.inl"
#include "kernels/norm.h"
#include "kernels/simd.h"

namespace {

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

  vf m = none, odd_m = none;
  int64_t i = 0;
  for (; i + 2 * VL <= whole; i += 2 * VL) m = vmax(m, load(x + i)), odd_m = vmax(odd_m, load(x + i + VL));
  if (i < whole) m = vmax(m, load(x + i));
  if (tail) odd_m = vmax(odd_m, last());
  m = splat(largest_lane(vmax(m, odd_m)));

  KahanSum even = {}, odd = {};
  vf ties = {};
  const auto term = [&](int64_t at) __attribute__((always_inline)) {
    const vf e = softmax_term<LOG>(load(x + at), m, &ties);
    if (!LOG) store(y + at, e);
    return e;
  };
  // Pairs first: half as many additions that carry their errors.
  for (i = 0; i + 4 * VL <= whole; i += 4 * VL) {
    const vf a = term(i) + term(i + VL), b = term(i + 2 * VL) + term(i + 3 * VL);
    add_to(&even, a), add_to(&odd, b);
  }
  for (; i < whole; i += VL) add_to(&even, term(i));
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

// --- gradients --------------------------------------------------------------------------------------

// What is summed over a softmax: the gradient times the result, or the gradient alone for the logarithm.
template <bool LOG>
CNNFAST_INLINE vf softmax_grad_term(vf g, vf y) {
  return LOG ? g : g * y;
}
template <bool LOG>
CNNFAST_INLINE vf softmax_grad_end(vf g, vf y, vf total) {
  return LOG ? g - exp(y) * total : y * (g - total);
}

template <bool LOG>
static void softmax_grad_row(const float* g, const float* y, float* dx, int64_t k) {
  const int64_t whole = k / VL * VL;
  const int tail = static_cast<int>(k - whole);
  KahanSum even = {}, odd = {};
  int64_t i = 0;
  for (; i + 2 * VL <= whole; i += 2 * VL) {
    add_to(&even, softmax_grad_term<LOG>(load(g + i), load(y + i)));
    add_to(&odd, softmax_grad_term<LOG>(load(g + i + VL), load(y + i + VL)));
  }
  for (; i < whole; i += VL) add_to(&even, softmax_grad_term<LOG>(load(g + i), load(y + i)));
  if (tail) add_to(&odd, softmax_grad_term<LOG>(load_n(g + whole, tail), load_n(y + whole, tail)));
  const vf total = splat(sum_lanes(even.sum + odd.sum));
  for (i = 0; i < whole; i += VL) store(dx + i, softmax_grad_end<LOG>(load(g + i), load(y + i), total));
  if (tail)
    store_n(dx + whole, softmax_grad_end<LOG>(load_n(g + whole, tail), load_n(y + whole, tail), total), tail);
}

static void softmax_grad_rows(const float* g, const float* y, float* dx, int64_t rows, int64_t k, bool log) {
  for (int64_t at = 0; at < rows * k; at += k)
    (log ? softmax_grad_row<true> : softmax_grad_row<false>)(g + at, y + at, dx + at, k);
}

// NV vectors of columns; `read` and `write` take whole vectors or the first lanes only.
template <bool LOG, int NV, class Load, class Store>
CNNFAST_INLINE void softmax_grad_strip(const cnnfast::SoftmaxGradColumns* t, int64_t column, Load read,
                                       Store write) {
  KahanSum sum[NV];
  CNNFAST_UNROLL
  for (int v = 0; v < NV; ++v) sum[v] = KahanSum{vf{}, vf{}};
  for (int64_t i = 0; i < t->k; ++i) {
    CNNFAST_UNROLL
    for (int v = 0; v < NV; ++v) {
      const int64_t at = column + i * t->step + v * VL;
      add_to(&sum[v], softmax_grad_term<LOG>(read(t->g + at), read(t->y + at)));
    }
  }
  for (int64_t i = 0; i < t->k; ++i) {
    CNNFAST_UNROLL
    for (int v = 0; v < NV; ++v) {
      const int64_t at = column + i * t->step + v * VL;
      write(t->dx + at, softmax_grad_end<LOG>(read(t->g + at), read(t->y + at), sum[v].sum));
    }
  }
}

template <bool LOG>
static void softmax_grad_strips(const cnnfast::SoftmaxGradColumns* t) {
  const auto read = [](const float* p) __attribute__((always_inline)) { return load(p); };
  const auto write = [](float* p, vf v) __attribute__((always_inline)) { store(p, v); };
  int64_t column = 0;
  for (; column + 4 * VL <= t->columns; column += 4 * VL) softmax_grad_strip<LOG, 4>(t, column, read, write);
  for (; column + VL <= t->columns; column += VL) softmax_grad_strip<LOG, 1>(t, column, read, write);
  if (column == t->columns) return;
  const int lanes = static_cast<int>(t->columns - column);
  softmax_grad_strip<LOG, 1>(
      t, column, [lanes](const float* p) __attribute__((always_inline)) { return load_n(p, lanes); },
      [lanes](float* p, vf v) __attribute__((always_inline)) { store_n(p, v, lanes); });
}

static void softmax_grad_columns(const cnnfast::SoftmaxGradColumns* t) {
  t->log ? softmax_grad_strips<true>(t) : softmax_grad_strips<false>(t);
}

}  // namespace
