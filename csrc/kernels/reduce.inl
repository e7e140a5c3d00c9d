// Sums, sums of squares and extremes over rows or columns, in double precision.
// rows: lanes along the row, four accumulators. columns: lanes across, one accumulator per column.
// affine: what instance normalisation does with its statistics, rounded once.
// Gradients of extremes: one pass counts the values that are the extreme, one writes what each of them has.
#pragma once
#include "kernels/math.inl"
#include "kernels/pointwise.inl"
#include "kernels/reduce.h"
#include "kernels/simd.h"

namespace {

constexpr int VD = VL / 2;  // doubles per vector

CNNFAST_INLINE vd load_double(const double* p) {
  vd v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
CNNFAST_INLINE void store_double(double* p, vd v) { __builtin_memcpy(p, &v, sizeof v); }

// What a value adds to an accumulator: of vectors, and of single values in the same words. Extremes keep NaN.
struct AddValue {
  static constexpr double kNothing = 0;
  template <class V>
  CNNFAST_INLINE V map(V x) {
    return x;
  }
  CNNFAST_INLINE vd join(vd a, vd x) { return a + x; }
  CNNFAST_INLINE double join(double a, double x) { return a + x; }
};
struct AddSquare : AddValue {
  template <class V>
  CNNFAST_INLINE V map(V x) {
    return x * x;
  }
};
struct KeepLargest {
  static constexpr double kNothing = -__builtin_inf();
  template <class V>
  CNNFAST_INLINE V map(V x) {
    return x;
  }
  CNNFAST_INLINE vd join(vd a, vd x) { return select_double((a >= x) | (a != a), a, x); }
  CNNFAST_INLINE double join(double a, double x) { return a >= x || a != a ? a : x; }
};
struct KeepSmallest {
  static constexpr double kNothing = __builtin_inf();
  template <class V>
  CNNFAST_INLINE V map(V x) {
    return x;
  }
  CNNFAST_INLINE vd join(vd a, vd x) { return select_double((a <= x) | (a != a), a, x); }
  CNNFAST_INLINE double join(double a, double x) { return a <= x || a != a ? a : x; }
};

template <class R>
static void reduce_rows(const float* x, int64_t rows, int64_t k, double* y) {
  constexpr int kSums = 4;
  for (int64_t r = 0; r < rows; ++r, x += k) {
    vd sums[kSums];
    for (vd& s : sums) s = splat_double(R::kNothing);
    int64_t i = 0;
    for (; i + kSums * VD <= k; i += kSums * VD) {
      CNNFAST_UNROLL
      for (int v = 0; v < kSums; ++v) sums[v] = R::join(sums[v], R::map(load_wide(x + i + v * VD)));
    }
    const vd joined = R::join(R::join(sums[0], sums[1]), R::join(sums[2], sums[3]));
    double result = joined[0];
    for (int lane = 1; lane < VD; ++lane) result = R::join(result, joined[lane]);
    for (; i < k; ++i) result = R::join(result, R::map(static_cast<double>(x[i])));
    y[r] = result;
  }
}

// kVectors vectors of columns side by side.
template <class R, int kVectors>
CNNFAST_INLINE void reduce_vectors(const float* x, int64_t k, int64_t step, const double* mean, double* y) {
  vd sums[kVectors], middle[kVectors];
  CNNFAST_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    sums[v] = splat_double(R::kNothing);
    middle[v] = mean ? load_double(mean + v * VD) : vd{};
  }
  for (int64_t i = 0; i < k; ++i) {
    CNNFAST_UNROLL
    for (int v = 0; v < kVectors; ++v)
      sums[v] = R::join(sums[v], R::map(load_wide(x + i * step + v * VD) - middle[v]));
  }
  CNNFAST_UNROLL
  for (int v = 0; v < kVectors; ++v) store_double(y + v * VD, sums[v]);
}

template <class R>
static void reduce_columns(const float* x, int64_t k, int64_t step, int64_t columns, const double* mean,
                           double* y) {
  const auto at = [mean](int64_t j) __attribute__((always_inline)) { return mean ? mean + j : nullptr; };
  int64_t j = 0;
  for (; j + 8 * VD <= columns; j += 8 * VD) reduce_vectors<R, 8>(x + j, k, step, at(j), y + j);
  for (; j + VD <= columns; j += VD) reduce_vectors<R, 1>(x + j, k, step, at(j), y + j);
  for (; j < columns; ++j) {
    double sum = R::kNothing;
    const double middle = mean ? mean[j] : 0.0;
    for (int64_t i = 0; i < k; ++i) sum = R::join(sum, R::map(static_cast<double>(x[i * step + j]) - middle));
    y[j] = sum;
  }
}

static void reduce_all_rows(cnnfast::Reduction op, const float* x, int64_t rows, int64_t k, double* y) {
  switch (op) {
    case cnnfast::Reduction::kSum:
      return reduce_rows<AddValue>(x, rows, k, y);
    case cnnfast::Reduction::kSquares:
      return reduce_rows<AddSquare>(x, rows, k, y);
    case cnnfast::Reduction::kMaximum:
      return reduce_rows<KeepLargest>(x, rows, k, y);
    case cnnfast::Reduction::kMinimum:
      return reduce_rows<KeepSmallest>(x, rows, k, y);
  }
}

static void reduce_all_columns(cnnfast::Reduction op, const float* x, int64_t k, int64_t step,
                               int64_t columns, const double* mean, double* y) {
  switch (op) {
    case cnnfast::Reduction::kSum:
      return reduce_columns<AddValue>(x, k, step, columns, mean, y);
    case cnnfast::Reduction::kSquares:
      return reduce_columns<AddSquare>(x, k, step, columns, mean, y);
    case cnnfast::Reduction::kMaximum:
      return reduce_columns<KeepLargest>(x, k, step, columns, mean, y);
    case cnnfast::Reduction::kMinimum:
      return reduce_columns<KeepSmallest>(x, k, step, columns, mean, y);
  }
}

static void wide_affine(const cnnfast::WideAffine* t) {
  const int64_t whole = t->columns / VD * VD;
  for (int64_t i = 0; i < t->k; ++i) {
    const float* x = t->x + i * t->step;
    float* y = t->y + i * t->step;
    for (int64_t j = 0; j < whole; j += VD)
      store_narrow(y + j, (load_wide(x + j) - load_double(t->mean + j)) * load_double(t->factor + j) +
                              load_double(t->shift + j));
    for (int64_t j = whole; j < t->columns; ++j)
      y[j] = static_cast<float>((static_cast<double>(x[j]) - t->mean[j]) * t->factor[j] + t->shift[j]);
  }
}

// share where x is the extreme; times it elsewhere, so that NaN comes through.
CNNFAST_INLINE vf extreme_grad(vf x, vf best, vf share) {
  return select(x == best, splat(1.0f), vf{}) * share;
}

static void extreme_grad_rows(const cnnfast::ExtremeColumns* t) {
  for (int64_t row = 0; row < t->columns; ++row) {
    const float* x = t->x + row * t->k;
    const vf best = splat(t->best[row]);
    vi equal = {};
    int64_t i = 0;
    for (; i + VL <= t->k; i += VL) equal -= load(x + i) == best;
    int32_t count = 0;
    for (int lane = 0; lane < VL; ++lane) count += equal[lane];
    for (; i < t->k; ++i) count += x[i] == best[0];
    const vf share = splat(t->g[row] / static_cast<float>(count));
    each_vector(t->dx + row * t->k, t->k, [=](int64_t at, auto read) __attribute__((always_inline)) {
      return extreme_grad(read(x + at), best, share);
    });
  }
}

static void extreme_grad_columns(const cnnfast::ExtremeColumns* t) {
  const auto strip = [t](int64_t j, auto read, auto write) __attribute__((always_inline)) {
    const vf best = read(t->best + j);
    vi equal = {};
    for (int64_t i = 0; i < t->k; ++i) equal -= read(t->x + i * t->step + j) == best;
    const vf share = read(t->g + j) / __builtin_convertvector(equal, vf);
    for (int64_t i = 0; i < t->k; ++i) {
      const int64_t at = i * t->step + j;
      write(t->dx + at, extreme_grad(read(t->x + at), best, share));
    }
  };
  int64_t j = 0;
  for (; j + VL <= t->columns; j += VL)
    strip(
        j, [](const float* p) __attribute__((always_inline)) { return load(p); },
        [](float* p, vf v) __attribute__((always_inline)) { store(p, v); });
  if (j == t->columns) return;
  const int lanes = static_cast<int>(t->columns - j);
  strip(
      j, [lanes](const float* p) __attribute__((always_inline)) { return load_n(p, lanes); },
      [lanes](float* p, vf v) __attribute__((always_inline)) { store_n(p, v, lanes); });
}

constexpr cnnfast::ReduceKernels reduce_kernels() {
  return {reduce_all_rows, reduce_all_columns, wide_affine, extreme_grad_rows, extreme_grad_columns};
}

}  // namespace
