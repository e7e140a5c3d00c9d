// Sums of outer products over pixels: the gradient of weights. Algorithm: an M x NV tile of y stays in
// registers while the pixels of all runs pass; M neighbouring values of a are broadcast against NV vectors
// of b. Accumulators: M * NV vectors, summed in the order of the pixels; the caller's blocks bound the
// rounding error. Tiles as for the GEMM (see gemm.inl), narrow ones by half vectors on AVX-512.
// Overlapping windows: rows are summed in registers, a window at a time, before memory is added to.
#pragma once
#include "kernels/gemm.inl"
#include "kernels/outer.h"
#include "kernels/simd.h"

namespace {

template <class V, int M, int NV>
static __attribute__((noinline)) void outer_tile(const cnnfast::OuterBlock* t) {
  constexpr int L = sizeof(V) / sizeof(float);
  const int64_t a_step = t->a_step, b_step = t->b_step, ahead = t->ahead;
  const int tail = static_cast<int>(t->n) - (NV - 1) * L;
  const bool whole = tail == L;
  V acc[M][NV];
  CNNFAST_UNROLL
  for (int m = 0; m < M; ++m) CNNFAST_UNROLL
  for (int v = 0; v < NV; ++v) acc[m][v] = V{};
  // The sums are not in the cache yet: fetch them while the products pass.
  CNNFAST_UNROLL
  for (int m = 0; m < M; ++m)
    for (int v = 0; v < NV * L; v += 16) __builtin_prefetch(t->y + m * t->ldy + v, 1);
  for (int64_t r = 0; r < t->run_count; ++r) {
    const cnnfast::OuterRun run = t->runs[r];
    const float *a = t->a + run.a * t->a_unit, *b = t->b + run.b * b_step;
    for (int64_t k = 0; k < run.count; ++k) {
      if (ahead) {
        __builtin_prefetch(a + ahead);
        __builtin_prefetch(a + ahead + M - 1);
      }
      V bv[NV];
      CNNFAST_UNROLL
      for (int v = 0; v < NV; ++v) bv[v] = load_as<V>(b + v * L);
      CNNFAST_UNROLL
      for (int m = 0; m < M; ++m) {
        const V s = splat_as<V>(a[m]);
        CNNFAST_UNROLL
        for (int v = 0; v < NV; ++v) acc[m][v] = fma(s, bv[v], acc[m][v]);
      }
      a += a_step;
      b += b_step;
    }
  }
  CNNFAST_UNROLL
  for (int m = 0; m < M; ++m) {
    float* y = t->y + m * t->ldy;
    CNNFAST_UNROLL
    for (int v = 0; v < NV; ++v) {
      const bool part = v == NV - 1 && !whole;
      V sum = acc[m][v];
      if (!t->first) sum = (part ? load_n_as<V>(y + v * L, tail) : load_as<V>(y + v * L)) + sum;
      if (part)
        store_n(y + v * L, sum, tail);
      else
        store(y + v * L, sum);
    }
  }
}

typedef void (*OuterFn)(const cnnfast::OuterBlock*);

#define CNNFAST_OUTER_IF(V, NV, rows, m) \
  (rows) >= (m) ? outer_tile<V, ((rows) >= (m) ? (m) : 1), NV> : nullptr
#define CNNFAST_OUTER_ROW(V, NV, rows) \
  {nullptr,                            \
   CNNFAST_OUTER_IF(V, NV, rows, 1),   \
   CNNFAST_OUTER_IF(V, NV, rows, 2),   \
   CNNFAST_OUTER_IF(V, NV, rows, 3),   \
   CNNFAST_OUTER_IF(V, NV, rows, 4),   \
   CNNFAST_OUTER_IF(V, NV, rows, 5),   \
   CNNFAST_OUTER_IF(V, NV, rows, 6),   \
   CNNFAST_OUTER_IF(V, NV, rows, 7),   \
   CNNFAST_OUTER_IF(V, NV, rows, 8),   \
   CNNFAST_OUTER_IF(V, NV, rows, 9),   \
   CNNFAST_OUTER_IF(V, NV, rows, 10),  \
   CNNFAST_OUTER_IF(V, NV, rows, 11),  \
   CNNFAST_OUTER_IF(V, NV, rows, 12),  \
   CNNFAST_OUTER_IF(V, NV, rows, 13),  \
   CNNFAST_OUTER_IF(V, NV, rows, 14)}

static const OuterFn kOuterTiles[kMaxVectors + 1][kMaxTileRows + 1] = {
    {},
    CNNFAST_OUTER_ROW(vf, 1, kTileRows[1]),
    CNNFAST_OUTER_ROW(vf, 2, kTileRows[2]),
#if defined(CNNFAST_LEVEL_V4) || defined(CNNFAST_LEVEL_NEON)
    CNNFAST_OUTER_ROW(vf, 3, kTileRows[3]),
    CNNFAST_OUTER_ROW(vf, 4, kTileRows[4]),
#endif
};

#if defined(CNNFAST_LEVEL_V4)
static const OuterFn kOuterHalfTiles[6][kMaxTileRows + 1] = {
    {},
    CNNFAST_OUTER_ROW(vh, 1, kHalfTileRows[1]),
    CNNFAST_OUTER_ROW(vh, 2, kHalfTileRows[2]),
    CNNFAST_OUTER_ROW(vh, 3, kHalfTileRows[3]),
    {},
    CNNFAST_OUTER_ROW(vh, 5, kHalfTileRows[5]),
};
// Half vectors of n columns where tiles are made of these, else 0.
CNNFAST_INLINE int64_t outer_halves(int64_t n) {
  const int64_t halves = (n + 7) / 8;
  return halves < 6 && kHalfTileRows[halves] ? halves : 0;
}
#endif

static int64_t outer_rows(int64_t n) {
#if defined(CNNFAST_LEVEL_V4)
  if (outer_halves(n)) return kHalfTileRows[outer_halves(n)];
#endif
  return kTileRows[(n + VL - 1) / VL];
}

static void outer_block(const cnnfast::OuterBlock* t) {
#if defined(CNNFAST_LEVEL_V4)
  if (outer_halves(t->n)) return kOuterHalfTiles[outer_halves(t->n)][t->m](t);
#endif
  kOuterTiles[(t->n + VL - 1) / VL][t->m](t);
}

static void add_windows(const cnnfast::WindowRows* t) {
  for (int64_t q = 0; q < t->q; ++q) {
    const int64_t at = t->start + q * t->step, from = q * t->ld;
    const int64_t end = min_int(t->n, t->size - at);
    for (int64_t k = max_int(0, -at); k < end; k += VL) {
      const int lanes = static_cast<int>(min_int(VL, end - k));
      vf sum = load_n(t->rows[0] + from + k, lanes);
      for (int64_t r = 1; r < t->row_count; ++r) sum += load_n(t->rows[r] + from + k, lanes);
      float* y = t->y + at + k;
      store_n(y, load_n(y, lanes) + sum, lanes);
    }
  }
}

constexpr cnnfast::OuterKernels outer_kernels() {
  return {kMaxVectors * VL, outer_rows, outer_block, add_windows};
}

}  // namespace
