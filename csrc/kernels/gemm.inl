// Indirect GEMM. Algorithm: C tile of M rows x NV vectors stays in registers while k runs; rows of A
// come through pointers and are broadcast one value at a time, B is read a panel row at a time.
// Accumulators: M * NV vectors, summed in the order of k, one chunk per call (the caller's chunks
// bound the rounding error). Tiles (M x columns): AVX-512 and NEON 6x4, 8x3, 12x2, 12x1 vectors;
// 16-register levels 6x2, 8x1.
#pragma once
#include "kernels/gemm.h"
#include "kernels/simd.h"

namespace {

#if defined(CNNFAST_LEVEL_V4) || defined(CNNFAST_LEVEL_NEON)
constexpr int kMaxVectors = 4;
constexpr int kTileRows[kMaxVectors + 1] = {0, 12, 12, 8, 6};
#else
constexpr int kMaxVectors = 2;
constexpr int kTileRows[kMaxVectors + 1] = {0, 8, 6};
#endif
constexpr int kMaxTileRows = 12;

struct TileArgs {
  const cnnfast::GemmBlock* g;
  const float* const* rows;  // of the tile's first row
  const float* b;
  int64_t ldb;
  float* const* out;
  int64_t column;
  int tail;  // lanes in use of the last vector
};

template <int M, int NV>
static __attribute__((noinline)) void gemm_tile(const TileArgs* t) {
  const cnnfast::GemmBlock& g = *t->g;
  vf acc[M][NV];
  CNNFAST_UNROLL
  for (int m = 0; m < M; ++m) CNNFAST_UNROLL
  for (int v = 0; v < NV; ++v) acc[m][v] = vf{};

  const float* b = t->b;
  const int64_t ldb = t->ldb, len = g.len;
  for (int64_t tap = 0; tap < g.taps; ++tap) {
    const float* const* rows = t->rows + tap * g.row_stride;
    const float* a[M];
    CNNFAST_UNROLL
    for (int m = 0; m < M; ++m) a[m] = rows[m] + g.offset;
    for (int64_t k = 0; k < len; ++k) {
      vf bv[NV];
      CNNFAST_UNROLL
      for (int v = 0; v < NV; ++v) bv[v] = load(b + v * VL);
      b += ldb;
      CNNFAST_UNROLL
      for (int m = 0; m < M; ++m) {
        vf s = splat(a[m][k]);
        CNNFAST_UNROLL
        for (int v = 0; v < NV; ++v) acc[m][v] = fma(s, bv[v], acc[m][v]);
      }
    }
  }

  const int act = g.last ? g.activation : 0;
  const bool whole = t->tail == VL;
  CNNFAST_UNROLL
  for (int m = 0; m < M; ++m) {
    float* c = t->out[m] + t->column;
    const float* r = g.has_residual ? c + g.residual_delta : nullptr;
    CNNFAST_UNROLL
    for (int v = 0; v < NV; ++v) {
      vf x = acc[m][v];
      const bool partial = v == NV - 1 && !whole;
      if (!g.first) x = (partial ? load_n(c + v * VL, t->tail) : load(c + v * VL)) + x;
      if (g.last) {
        if (g.bias) {
          const float* bias = g.bias + t->column + v * VL;
          x += partial ? load_n(bias, t->tail) : load(bias);
        }
        if (r) x += partial ? load_n(r + v * VL, t->tail) : load(r + v * VL);
        if (act == cnnfast::kRelu)
          x = vmax(vf{}, x);
        else if (act == cnnfast::kRelu6)
          x = vmin(splat(6.0f), vmax(vf{}, x));
      }
      if (partial)
        store_n(c + v * VL, x, t->tail);
      else
        store(c + v * VL, x);
    }
  }
  // Dearer activations run over the finished tile, which is still in the first-level cache.
  if (act > cnnfast::kRelu6) {
    for (int m = 0; m < M; ++m) {
      float* c = t->out[m] + t->column;
      for (int v = 0; v < NV - 1; ++v) store(c + v * VL, activate(act, load(c + v * VL), g.slope));
      float* end = c + (NV - 1) * VL;
      store_n(end, activate(act, load_n(end, t->tail), g.slope), t->tail);
    }
  }
}

typedef void (*TileFn)(const TileArgs*);

#define CNNFAST_TILE_ROW(NV)                                                                              \
  {                                                                                                       \
    nullptr, gemm_tile<1, NV>, gemm_tile<2, NV>, gemm_tile<3, NV>, gemm_tile<4, NV>, gemm_tile<5, NV>,    \
        gemm_tile<6, NV>, kTileRows[NV] >= 7 ? gemm_tile<(kTileRows[NV] >= 7 ? 7 : 1), NV> : nullptr,     \
        kTileRows[NV] >= 8 ? gemm_tile<(kTileRows[NV] >= 8 ? 8 : 1), NV> : nullptr,                       \
        kTileRows[NV] >= 9 ? gemm_tile<(kTileRows[NV] >= 9 ? 9 : 1), NV> : nullptr,                       \
        kTileRows[NV] >= 10 ? gemm_tile<(kTileRows[NV] >= 10 ? 10 : 1), NV> : nullptr,                    \
        kTileRows[NV] >= 11 ? gemm_tile<(kTileRows[NV] >= 11 ? 11 : 1), NV> : nullptr,                    \
        kTileRows[NV] >= 12 ? gemm_tile<(kTileRows[NV] >= 12 ? 12 : 1), NV> : nullptr                     \
  }

static const TileFn kTiles[kMaxVectors + 1][kMaxTileRows + 1] = {
    {},
    CNNFAST_TILE_ROW(1),
    CNNFAST_TILE_ROW(2),
#if defined(CNNFAST_LEVEL_V4) || defined(CNNFAST_LEVEL_NEON)
    CNNFAST_TILE_ROW(3),
    CNNFAST_TILE_ROW(4),
#endif
};

static void gemm_block(const cnnfast::GemmBlock* g) {
  const int64_t vectors = (g->n + VL - 1) / VL;
  const int64_t panels = (vectors + kMaxVectors - 1) / kMaxVectors;
  for (int64_t p = g->panel_first; p < g->panel_last; ++p) {
    const int64_t v0 = p * vectors / panels, v1 = (p + 1) * vectors / panels;
    const int nv = static_cast<int>(v1 - v0);
    TileArgs t;
    t.g = g;
    t.column = v0 * VL;
    t.tail = v1 == vectors ? static_cast<int>(g->n - (vectors - 1) * VL) : VL;
    if (g->ldb) {
      t.b = g->b + g->k0 * g->ldb + t.column;
      t.ldb = g->ldb;
    } else {
      t.b = g->b + v0 * VL * g->depth + g->k0 * nv * VL;
      t.ldb = nv * VL;
    }
    // Tiles of nearly equal height, so that no thin tile is left at the end.
    const int64_t tiles = (g->m + kTileRows[nv] - 1) / kTileRows[nv];
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t m0 = i * g->m / tiles, m1 = (i + 1) * g->m / tiles;
      t.rows = g->rows + m0;
      t.out = g->out + m0;
      kTiles[nv][m1 - m0](&t);
    }
  }
}

static void gemm_pack(const float* b, int64_t ldb, int64_t cs, int64_t depth, int64_t n, int64_t p, float* out) {
  const int64_t vectors = (n + VL - 1) / VL;
  const int64_t panels = (vectors + kMaxVectors - 1) / kMaxVectors;
  const int64_t v0 = p * vectors / panels, v1 = (p + 1) * vectors / panels;
  const int64_t column = v0 * VL, width = (v1 - v0) * VL;
  const int64_t used = min_int(width, n - column);
  out += column * depth;
  for (int64_t k = 0; k < depth; ++k) {
    const float* row = b + k * ldb + column * cs;
    int64_t j = 0;
    if (cs == 1) {
      for (; j + VL <= used; j += VL) store(out + j, load(row + j));
      if (j < used) {
        store(out + j, load_n(row + j, static_cast<int>(used - j)));
        j += VL;
      }
    } else {
      for (; j < used; ++j) out[j] = row[j * cs];
    }
    for (; j < width; ++j) out[j] = 0.0f;
    out += width;
  }
}

// Gram tile: rows are columns of x, so M neighbouring values of one row of x are broadcast against
// NV vectors of the same row.
template <int M, int NV>
static __attribute__((noinline)) void gram_tile(const float* x, int64_t depth, int64_t n, int64_t i, int64_t j,
                                               int tail, float* y, bool first) {
  vf acc[M][NV];
  CNNFAST_UNROLL
  for (int m = 0; m < M; ++m) CNNFAST_UNROLL
  for (int v = 0; v < NV; ++v) acc[m][v] = vf{};
  const float *a = x + i, *b = x + j;
  const bool whole = tail == VL;
  for (int64_t k = 0; k < depth; ++k) {
    vf bv[NV];
    CNNFAST_UNROLL
    for (int v = 0; v < NV - 1; ++v) bv[v] = load(b + v * VL);
    bv[NV - 1] = whole ? load(b + (NV - 1) * VL) : load_n(b + (NV - 1) * VL, tail);
    CNNFAST_UNROLL
    for (int m = 0; m < M; ++m) {
      vf s = splat(a[m]);
      CNNFAST_UNROLL
      for (int v = 0; v < NV; ++v) acc[m][v] = fma(s, bv[v], acc[m][v]);
    }
    a += n;
    b += n;
  }
  CNNFAST_UNROLL
  for (int m = 0; m < M; ++m) {
    float* c = y + (i + m) * n + j;
    CNNFAST_UNROLL
    for (int v = 0; v < NV; ++v) {
      const int lanes = v == NV - 1 ? tail : VL;
      vf sum = acc[m][v];
      if (!first) sum = load_n(c + v * VL, lanes) + sum;
      store_n(c + v * VL, sum, lanes);
    }
  }
}

template <int NV>
static void gram_rows(const float* x, int64_t depth, int64_t n, int64_t i, int64_t rows, int64_t j, int tail,
                      float* y, bool first) {
  constexpr int R = kTileRows[NV];
  for (; rows >= R; rows -= R, i += R) gram_tile<R, NV>(x, depth, n, i, j, tail, y, first);
  for (; rows >= 4; rows -= 4, i += 4) gram_tile<4, NV>(x, depth, n, i, j, tail, y, first);
  for (; rows > 0; --rows, ++i) gram_tile<1, NV>(x, depth, n, i, j, tail, y, first);
}

static void gram_block(const float* x, int64_t depth, int64_t n, int64_t i_first, int64_t i_last, float* y,
                       bool first) {
  const int64_t vectors = (n + VL - 1) / VL;
  for (int64_t v = i_first / VL; v < vectors;) {
    const int nv = static_cast<int>(min_int(kMaxVectors, vectors - v));
    const int tail = v + nv == vectors ? static_cast<int>(n - (vectors - 1) * VL) : VL;
    const int64_t rows = i_last - i_first;
    if (nv == 1) gram_rows<1>(x, depth, n, i_first, rows, v * VL, tail, y, first);
    if (nv == 2) gram_rows<2>(x, depth, n, i_first, rows, v * VL, tail, y, first);
#if defined(CNNFAST_LEVEL_V4) || defined(CNNFAST_LEVEL_NEON)
    if (nv == 3) gram_rows<3>(x, depth, n, i_first, rows, v * VL, tail, y, first);
    if (nv == 4) gram_rows<4>(x, depth, n, i_first, rows, v * VL, tail, y, first);
#endif
    v += nv;
  }
}

constexpr cnnfast::GemmKernels gemm_kernels() {
  return {kMaxVectors, 24, gemm_block, gemm_pack, gram_block};
}

}  // namespace
