// Indirect GEMM. Algorithm: C tile of M rows x NV vectors stays in registers while k runs; rows of A
// come through pointers and are broadcast one value at a time, B is read a panel row at a time.
// Accumulators: M * NV vectors, summed in the order of k, one chunk per call (the caller's chunks
// bound the rounding error). Tiles (M x columns): AVX-512 and NEON 6x4, 8x3, 12x2, 12x1 vectors
// (AVX-512: narrow widths by half vectors, 14x1, 12x2, 8x3, 5x5); 16-register levels 6x2, 8x1
// (AVX2: 14x1 of rows that lie evenly apart).
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
constexpr int kMaxTileRows = 14;
// Rows that lie evenly apart need few pointers, so that with AVX2 a vector of each of 14 rows fits.
template <bool Even>
constexpr int kSingleRows = Even && VL == 8 ? 14 : kTileRows[1];
// A single row takes up to so many panels at once: one alone has too few sums to hide the latency of a step.
constexpr int kRowPanels = kMaxVectors == 2 ? 4 : 2;

// Matrices beyond the caches are fetched this far ahead; nearer ones are quicker without.
constexpr int64_t kStreamAhead = 1024, kFarFloats = int64_t{4} << 20;
// Weights that may not be in the second-level cache.
constexpr int64_t kNearFloats = int64_t{1} << 16;
constexpr int kLineFloats = 16;  // of the cache

struct TileArgs {
  const cnnfast::GemmBlock* g;
  const float* const* rows;  // of the tile's first row, or of all where they lie evenly apart
  const float* b;
  int64_t ldb;
  float* const* out;
  int64_t first;  // row of the block
  int64_t column;
  int tail;        // lanes in use of the last vector
  int64_t ahead;   // floats from what is read of B to what the tile fetches of the next panel
  int64_t second;  // floats to the second of several panels
  int64_t panel;   // and from each of these to the next
  bool fetches;    // whether the rows of A are met for the first time, see GemmBlock::fetch_step
  int64_t next;    // floats from the rows of the tile to those of the next one where they are fetched, or 0
};

// M rows of A, read value by value.
template <int M, bool Even>
struct TileRows;

template <int M>
struct TileRows<M, false> {
  const float* at[M];
  CNNFAST_INLINE_MEMBER TileRows(const float* const* rows, int64_t, int64_t, int64_t offset) {
    CNNFAST_UNROLL
    for (int m = 0; m < M; ++m) at[m] = rows[m] + offset;
  }
  CNNFAST_INLINE_MEMBER void begin_step() {}
  CNNFAST_INLINE_MEMBER float value(int m, int64_t k) const { return at[m][k]; }
};

// Rows that lie evenly apart: a pointer for every fourth, from which one or three steps lead to the others
// within an instruction. There are not enough registers for a pointer to each.
template <int M>
struct TileRows<M, true> {
  const float* fourth[(M + 3) / 4];
  int64_t step, three;
  CNNFAST_INLINE_MEMBER TileRows(const float* const* rows, int64_t first, int64_t apart, int64_t offset)
      : step(apart), three(3 * apart) {
    const float* at = rows[0] + first * apart + offset;
    CNNFAST_UNROLL
    for (int i = 0; i < (M + 3) / 4; ++i) fourth[i] = at + 4 * i * apart;
  }
  // Else the compiler works out all addresses before the loop, and keeps them in memory.
  CNNFAST_INLINE_MEMBER void begin_step() { asm("" : "+r"(step), "+r"(three)); }
  CNNFAST_INLINE_MEMBER float value(int m, int64_t k) const {
    return (fourth[m / 4] + (m % 4 == 3 ? three : m % 4 * step))[k];
  }
};

// NV vectors of type V per row; `tail` lanes of the last one are in use. Of several panels the first one is
// First vectors wide, the others share the rest evenly.
template <class V, int M, int NV, bool Even, int Panels = 1, int First = NV>
static __attribute__((noinline)) void gemm_tile(const TileArgs* t) {
  constexpr int L = sizeof(V) / sizeof(float);
  const cnnfast::GemmBlock& g = *t->g;
  V acc[M][NV];
  // Result row m. Each address by itself: worked out in a vector, they would wait for the sums of the tile
  // before.
  auto result = [&](int m) __attribute__((always_inline)) {
    float* row = Even ? t->out[0] + (t->first + m) * g.out_step : t->out[m];
    asm("" : "+r"(row));
    return row + t->column;
  };
  // The result is not in the cache yet: fetch it while the sums run.
  if (!g.past_cache) {
    CNNFAST_UNROLL
    for (int m = 0; m < M; ++m) {
      const float* row = result(m);
      for (int v = 0; v < NV * L; v += 16) __builtin_prefetch(row + v, 1);
    }
  }
  CNNFAST_UNROLL
  for (int m = 0; m < M; ++m) CNNFAST_UNROLL
  for (int v = 0; v < NV; ++v) acc[m][v] = V{};

  const float* b = t->b;
  constexpr int kOthers = Panels > 1 ? (NV - First) / (Panels - 1) : 1;
  const int64_t ldb = t->ldb, len = g.len, panel = t->panel, next = t->next;
  const float* others = b + t->second;
  auto at = [&](int v) {
    return v < First ? b + v * L : others + (v - First) / kOthers * panel + (v - First) % kOthers * L;
  };
  const bool far = M == 1 && Panels == 1 && g.depth * g.n > kFarFloats;
  // Tiles of some height leave the memory idle.
  constexpr bool kFetches = M >= 4 && !Even && NV * L >= 16;
  const int64_t ahead = t->ahead;
  for (int64_t tap = 0; tap < g.taps; ++tap) {
    const float* const* rows = t->rows + tap * g.row_stride;
    if (!Even && rows[0] == g.zero) {
      bool all = true;
      for (int m = 1; m < M; ++m) all &= rows[m] == g.zero;
      if (all) {
        b += len * ldb;
        if (Panels > 1) others += len * kOthers * L;
        continue;
      }
    }
    TileRows<M, Even> a(rows, t->first, g.row_step, g.offset);
    for (int64_t k = 0; k < len; ++k) {
      a.begin_step();
      // One row is as fast as B comes from memory. Several panels are quicker without help.
      if (M == 1 && Panels == 1 && far) {
        for (int v = 0; v < NV; v += kLineFloats / L) __builtin_prefetch(at(v) + kStreamAhead);
      }
      if (kFetches) __builtin_prefetch(b + ahead, 0, 2);
      // Rows are too short for the processor's prefetchers.
      if constexpr (M > 1 && !Even) {
        if (next && k % 16 == 0) {
          CNNFAST_UNROLL
          for (int m = 0; m < M; ++m) __builtin_prefetch(a.at[m] + next + k);
        }
      }
      V bv[NV];
      CNNFAST_UNROLL
      for (int v = 0; v < NV; ++v) bv[v] = load_as<V>(at(v));
      b += ldb;
      if (Panels > 1) others += kOthers * L;
      CNNFAST_UNROLL
      for (int m = 0; m < M; ++m) {
        V s = splat_as<V>(a.value(m, k));
        CNNFAST_UNROLL
        for (int v = 0; v < NV; ++v) acc[m][v] = fma(s, bv[v], acc[m][v]);
      }
    }
  }

  // The rows' addresses once more: kept during the sums, they would take registers from these.
  asm("" ::: "memory");
  float* c[M];
  CNNFAST_UNROLL
  for (int m = 0; m < M; ++m) c[m] = result(m);
  // Each stage asks its question once for the whole tile.
  const int act = g.last ? g.activation : 0;
  const int tail = t->tail;
  const bool whole = tail == L;
  auto get = [&](const float* p, int v) {
    return v == NV - 1 && !whole ? load_n_as<V>(p + v * L, tail) : load_as<V>(p + v * L);
  };
  if (!g.first) {
    CNNFAST_UNROLL
    for (int m = 0; m < M; ++m) CNNFAST_UNROLL
    for (int v = 0; v < NV; ++v) acc[m][v] = get(c[m], v) + acc[m][v];
  }
  if (g.last && g.bias) {
    V bias[NV];
    CNNFAST_UNROLL
    for (int v = 0; v < NV; ++v) bias[v] = get(g.bias + t->column, v);
    CNNFAST_UNROLL
    for (int m = 0; m < M; ++m) CNNFAST_UNROLL
    for (int v = 0; v < NV; ++v) acc[m][v] += bias[v];
  }
  if (g.last && g.has_residual) {
    const int64_t delta = g.residual_delta;
    CNNFAST_UNROLL
    for (int m = 0; m < M; ++m) CNNFAST_UNROLL
    for (int v = 0; v < NV; ++v) acc[m][v] += get(c[m] + delta, v);
  }
  if (act == cnnfast::kRelu || act == cnnfast::kRelu6) {
    CNNFAST_UNROLL
    for (int m = 0; m < M; ++m) CNNFAST_UNROLL
    for (int v = 0; v < NV; ++v) acc[m][v] = vmax(V{}, acc[m][v]);
  }
  if (act == cnnfast::kRelu6) {
    const V top = splat_as<V>(6.0f);
    CNNFAST_UNROLL
    for (int m = 0; m < M; ++m) CNNFAST_UNROLL
    for (int v = 0; v < NV; ++v) acc[m][v] = vmin(top, acc[m][v]);
  }
  if constexpr (L == VL) {
    if (g.past_cache) {
      CNNFAST_UNROLL
      for (int m = 0; m < M; ++m) CNNFAST_UNROLL
      for (int v = 0; v < NV; ++v) store_past_cache(c[m] + v * L, acc[m][v]);
      return;
    }
  }
  CNNFAST_UNROLL
  for (int m = 0; m < M; ++m) {
    CNNFAST_UNROLL
    for (int v = 0; v < NV - 1; ++v) store(c[m] + v * L, acc[m][v]);
  }
  if (whole) {
    CNNFAST_UNROLL
    for (int m = 0; m < M; ++m) store(c[m] + (NV - 1) * L, acc[m][NV - 1]);
  } else {
    CNNFAST_UNROLL
    for (int m = 0; m < M; ++m) store_n(c[m] + (NV - 1) * L, acc[m][NV - 1], tail);
  }
}

typedef void (*TileFn)(const TileArgs*);

// Tiles of 1 .. 14 rows; heights above `rows` are never asked for.
#define CNNFAST_TILE_IF(V, NV, rows, m) \
  (rows) >= (m) ? gemm_tile<V, ((rows) >= (m) ? (m) : 1), NV, Even> : nullptr
#define CNNFAST_TILE_ROW(V, NV, rows) \
  {nullptr,                           \
   CNNFAST_TILE_IF(V, NV, rows, 1),   \
   CNNFAST_TILE_IF(V, NV, rows, 2),   \
   CNNFAST_TILE_IF(V, NV, rows, 3),   \
   CNNFAST_TILE_IF(V, NV, rows, 4),   \
   CNNFAST_TILE_IF(V, NV, rows, 5),   \
   CNNFAST_TILE_IF(V, NV, rows, 6),   \
   CNNFAST_TILE_IF(V, NV, rows, 7),   \
   CNNFAST_TILE_IF(V, NV, rows, 8),   \
   CNNFAST_TILE_IF(V, NV, rows, 9),   \
   CNNFAST_TILE_IF(V, NV, rows, 10),  \
   CNNFAST_TILE_IF(V, NV, rows, 11),  \
   CNNFAST_TILE_IF(V, NV, rows, 12),  \
   CNNFAST_TILE_IF(V, NV, rows, 13),  \
   CNNFAST_TILE_IF(V, NV, rows, 14)}

template <bool Even>
static const TileFn kTiles[kMaxVectors + 1][kMaxTileRows + 1] = {
    {},
    CNNFAST_TILE_ROW(vf, 1, kSingleRows<Even>),
    CNNFAST_TILE_ROW(vf, 2, kTileRows[2]),
#if defined(CNNFAST_LEVEL_V4) || defined(CNNFAST_LEVEL_NEON)
    CNNFAST_TILE_ROW(vf, 3, kTileRows[3]),
    CNNFAST_TILE_ROW(vf, 4, kTileRows[4]),
#endif
};

#if defined(CNNFAST_LEVEL_V4)
// By half vectors: 1, 2, 3 and 5 of them; wider or even widths take whole vectors.
constexpr int kHalfTileRows[6] = {0, 14, 12, 8, 0, 5};
template <bool Even>
static const TileFn kHalfTiles[6][kMaxTileRows + 1] = {
    {},
    CNNFAST_TILE_ROW(vh, 1, kHalfTileRows[1]),
    CNNFAST_TILE_ROW(vh, 2, kHalfTileRows[2]),
    CNNFAST_TILE_ROW(vh, 3, kHalfTileRows[3]),
    {},
    CNNFAST_TILE_ROW(vh, 5, kHalfTileRows[5]),
};
#endif

// One row against Panels panels, the first of which is First vectors wide and the others Others.
template <int Panels, int First, int Others>
constexpr TileFn row_tile() {
  return gemm_tile<vf, 1, First + (Panels - 1) * Others, false, Panels, First>;
}
// By number of panels, width of the first and width of the others, as far as they occur.
static TileFn row_tile_of(int panels, int first, int others) {
#if defined(CNNFAST_LEVEL_V4) || defined(CNNFAST_LEVEL_NEON)
  static constexpr TileFn kPairs[3][3] = {{nullptr, row_tile<2, 2, 3>(), nullptr},
                                          {nullptr, row_tile<2, 3, 3>(), row_tile<2, 3, 4>()},
                                          {nullptr, row_tile<2, 4, 3>(), row_tile<2, 4, 4>()}};
  return panels == 2 && first >= 2 && others >= 2 ? kPairs[first - 2][others - 2] : nullptr;
#else
  static constexpr TileFn kSeveral[3][2] = {{row_tile<2, 1, 2>(), row_tile<2, 2, 2>()},
                                            {row_tile<3, 1, 2>(), row_tile<3, 2, 2>()},
                                            {row_tile<4, 1, 2>(), row_tile<4, 2, 2>()}};
  return panels >= 2 && others == 2 ? kSeveral[panels - 2][first - 1] : nullptr;
#endif
}

// Few rows against a plain matrix: whole rows of B stream by once and the sums wait in the first-level
// cache. The order of summation is that of the tiles, so the bits are the same.
constexpr int kSweepRows = 4, kSweepFloats = 8192;

static void gemm_sweep(const cnnfast::GemmBlock* g, int64_t column, int64_t n) {
  float all_sums[kSweepFloats];
  const int64_t whole = n / VL * VL;
  const int tail = static_cast<int>(n - whole);
  // The next rows of B: the processor's prefetchers do not see beyond the end of a run.
  const bool far = g->depth * g->n > kFarFloats;
  for (int64_t m = 0; m < g->m; ++m)
    for (int64_t j = 0; j < n; ++j) all_sums[m * n + j] = 0.0f;
  for (int64_t tap = 0; tap < g->taps; ++tap) {
    const float* b = g->b + (g->k0 + tap * g->len) * g->ldb + column;
    for (int64_t k = 0; k < g->len; k += 4) {
      const int64_t steps = min_int(4, g->len - k);
      for (int64_t m = 0; m < g->m; ++m) {
        const float* a = g->rows[tap * g->row_stride + m] + g->offset + k;
        float* sum = all_sums + m * n;
        if (steps == 4) {
          const vf a0 = splat(a[0]), a1 = splat(a[1]), a2 = splat(a[2]), a3 = splat(a[3]);
          const float *b0 = b, *b1 = b + g->ldb, *b2 = b + 2 * g->ldb, *b3 = b + 3 * g->ldb;
          for (int64_t j = 0; j < whole; j += VL) {
            if (far) {
              CNNFAST_UNROLL
              for (int i = 4; i < 8; ++i) __builtin_prefetch(b + i * g->ldb + j, 0, 2);
            }
            vf x = fma(a0, load(b0 + j), load(sum + j));
            x = fma(a1, load(b1 + j), x);
            x = fma(a2, load(b2 + j), x);
            store(sum + j, fma(a3, load(b3 + j), x));
          }
        } else {
          for (int64_t i = 0; i < steps; ++i)
            for (int64_t j = 0; j < whole; j += VL)
              store(sum + j, fma(splat(a[i]), load(b + i * g->ldb + j), load(sum + j)));
        }
        if (tail) {
          vf x = load_n(sum + whole, tail);
          for (int64_t i = 0; i < steps; ++i) x = fma(splat(a[i]), load_n(b + i * g->ldb + whole, tail), x);
          store_n(sum + whole, x, tail);
        }
      }
      b += 4 * g->ldb;
    }
  }
  for (int64_t m = 0; m < g->m; ++m) {
    float* c = g->out[m] + column;
    for (int64_t j = 0; j < n; j += VL) {
      const int lanes = static_cast<int>(min_int(VL, n - j));
      vf x = load_n(all_sums + m * n + j, lanes);
      if (!g->first) x = load_n(c + j, lanes) + x;
      if (g->last) {
        if (g->bias) x += load_n(g->bias + column + j, lanes);
        if (g->has_residual) x += load_n(c + g->residual_delta + j, lanes);
        x = activate(g->activation, x, g->slope);
      }
      store_n(c + j, x, lanes);
    }
  }
}

// Dearer activations of result rows first .. last, which are still in the first-level cache: those of several
// small tiles together, as a call costs as much as some of their vectors.
constexpr int64_t kWaitingFloats = 384, kWaitingRows = 32;
static __attribute__((noinline)) void gemm_activate(const cnnfast::GemmBlock* g, int64_t column,
                                                    int64_t width, int64_t first, int64_t last) {
  float* rows[kWaitingRows + kMaxTileRows];
  for (int64_t m = first; m < last; ++m)
    rows[m - first] = column + (g->row_step ? g->out[0] + m * g->out_step : g->out[m]);
  activate_rows(g->activation, g->slope, rows, static_cast<int>(last - first), width);
}

// Runs all rows of a block against one panel of nv vectors.
// `next`: from what is read of B to the same rows of the panel after this one, 0 if that is of another width.
static void gemm_panel(TileArgs* t, int nv, int64_t next) {
  const cnnfast::GemmBlock* g = t->g;
  const bool even = g->row_step != 0;
  const TileFn* tiles = even ? kTiles<true>[nv] : kTiles<false>[nv];
  int height = nv > 1 ? kTileRows[nv] : even ? kSingleRows<true> : kSingleRows<false>;
  const int64_t width = (nv - 1) * VL + t->tail;
  const bool activates = g->last && g->activation > cnnfast::kRelu6;
  int64_t active = 0;  // rows are finished up to here
#if defined(CNNFAST_LEVEL_V4)
  const int halves = 2 * nv - (t->tail <= 8);
  if (halves < 6 && kHalfTileRows[halves]) {
    tiles = even ? kHalfTiles<true>[halves] : kHalfTiles<false>[halves];
    height = kHalfTileRows[halves];
    if (t->tail > 8) t->tail -= 8;
  }
#endif
  int64_t begin = 0, line = next ? 0 : nv * VL;
  for (int64_t segment = 0; segment < g->segments; ++segment) {
    // Tiles of nearly equal height, so that no thin tile is left at the end.
    const int64_t end = g->ends[segment], count = (end - begin + height - 1) / height;
    if (count == 0) continue;
    const int64_t least = (end - begin) / count, higher = (end - begin) % count;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t rows = least + (i < higher);
      t->first = begin;
      t->rows = even ? g->rows : g->rows + begin;
      t->out = even ? g->out : g->out + begin;
      // Each tile fetches a line of every row of the next panel, until all lines are on their way.
      t->ahead = line < nv * VL ? next + line : 0;
      t->next = t->fetches ? g->fetch_step * rows : 0;
      line += kLineFloats;
      tiles[rows](t);
      begin += rows;
      const int64_t waiting = begin - active;
      if (activates && (waiting * width >= kWaitingFloats || waiting >= kWaitingRows || begin == g->m)) {
        gemm_activate(g, t->column, width, active, begin);
        active = begin;
      }
    }
  }
  if (g->past_cache) finish_past_cache();
}

// Floats from panel p of packed weights to what is read after it: the next panel, or the first one at the
// rows that the next call takes. 0 if that has another width.
static int64_t gemm_next_panel(const cnnfast::GemmBlock* g, int64_t p, int64_t vectors, int64_t panels) {
  const bool wraps = p + 1 == g->panel_last;
  const int64_t k = g->k0 + (wraps ? g->taps * g->len : 0), q = wraps ? g->panel_first : p + 1;
  const int64_t here = p * vectors / panels, there = q * vectors / panels;
  const int64_t width = (p + 1) * vectors / panels - here;
  if (k >= g->depth || (q + 1) * vectors / panels - there != width) return 0;
  return ((there - here) * g->depth + (k - g->k0) * width) * VL;
}

static void gemm_block(const cnnfast::GemmBlock* g) {
  const bool plain = g->ldb != 0;
  const int64_t vectors = plain ? g->n / VL : (g->n + VL - 1) / VL;
  const int64_t panels = (vectors + kMaxVectors - 1) / kMaxVectors;
  if (plain && g->m <= kSweepRows && !g->row_step) {
    const int64_t first = g->panel_first < panels ? g->panel_first * vectors / panels * VL : vectors * VL;
    const int64_t last = g->panel_last <= panels ? g->panel_last * vectors / panels * VL : g->n;
    const int64_t columns = kSweepFloats / g->m;
    for (int64_t j = first; j < last; j += columns) gemm_sweep(g, j, min_int(columns, last - j));
    return;
  }
  for (int64_t p = g->panel_first; p < g->panel_last; ++p) {
    TileArgs t = {};
    t.g = g;
    t.tail = VL;
    t.fetches = p == g->panel_first;
    int nv = 1;
    int64_t next = 0;
    if (p < panels) {
      const int64_t v0 = p * vectors / panels, v1 = (p + 1) * vectors / panels;
      nv = static_cast<int>(v1 - v0);
      t.column = v0 * VL;
      t.b = plain ? g->b + g->k0 * g->ldb + t.column : g->b + t.column * g->depth + g->k0 * nv * VL;
      t.ldb = plain ? g->ldb : nv * VL;
      if (!plain && g->m == 1 && !g->row_step) {
        int64_t several = min_int(p + kRowPanels, g->panel_last);
        const auto begin = [&](int64_t q) { return q * vectors / panels; };
        const int64_t others = begin(p + 2) - v1;
        // As many as are of one width after the first.
        for (int64_t q = several - 1; q > p + 1; --q)
          if (begin(q + 1) - begin(q) != others) several = q;
        const int64_t end = begin(several);
        const TileFn tile = row_tile_of(static_cast<int>(several - p), nv, static_cast<int>(others));
        if (tile) {
          if (end == vectors) t.tail = static_cast<int>(g->n - (vectors - 1) * VL);
          t.rows = g->rows;
          t.out = g->out;
          t.second = nv * VL * g->depth + (others - nv) * VL * g->k0;
          t.panel = others * VL * g->depth;
          tile(&t);
          if (g->last && g->activation > cnnfast::kRelu6)
            gemm_activate(g, t.column, (end - v0 - 1) * VL + t.tail, 0, 1);
          p = several - 1;
          continue;
        }
      }
      if (!plain && v1 == vectors) t.tail = static_cast<int>(g->n - (vectors - 1) * VL);
      if (!plain && g->depth * g->n > kNearFloats) next = gemm_next_panel(g, p, vectors, panels);
    } else {
      t.column = vectors * VL;
      t.b = g->b_tail + g->k0 * VL;
      t.ldb = VL;
      t.tail = static_cast<int>(g->n - t.column);
    }
    gemm_panel(&t, nv, next);
  }
}

static bool gemm_pack(const float* b, int64_t rs, int64_t cs, int64_t rows, int64_t k0, int64_t depth,
                      int64_t n, int64_t p, float* out) {
  const int64_t vectors = (n + VL - 1) / VL;
  const int64_t panels = (vectors + kMaxVectors - 1) / kMaxVectors;
  const int64_t v0 = p * vectors / panels, v1 = (p + 1) * vectors / panels;
  const int64_t column = v0 * VL, width = (v1 - v0) * VL;
  const int64_t used = min_int(width, n - column);
  out += column * depth + k0 * width;
  vf check = {};
  b += column * cs;
  if (cs == 1) {
    for (int64_t k = 0; k < rows; ++k) {
      const float* row = b + k * rs;
      const float* ahead = b + min_int(k + 8, rows - 1) * rs;  // often a page further on
      int64_t j = 0;
      for (; j + VL <= used; j += VL) {
        __builtin_prefetch(ahead + j);
        const vf v = load(row + j);
        check += v * 0.0f;  // NaN once a value is not finite
        store(out + j, v);
      }
      if (j < used) {
        const vf v = load_n(row + j, static_cast<int>(used - j));
        check += v * 0.0f;
        store(out + j, v);
        j += VL;
      }
      for (; j < width; j += VL) store(out + j, vf{});
      out += width;
    }
    return sum_lanes(check) == 0.0f;
  }
  // Transposed source: sixteen values of a column lie together, and sixteen packed rows stay in the cache.
  for (int64_t k = 0; k < rows; k += 16) {
    const int64_t steps = min_int(16, rows - k);
    for (int64_t j = 0; j < width; ++j) {
      const float* column_of = b + k * rs + j * cs;
      float* to = out + k * width + j;
      for (int64_t i = 0; i < steps; ++i) to[i * width] = j < used ? column_of[i * rs] : 0.0f;
    }
    for (int64_t j = 0; j < steps * width; j += VL) check += load(out + k * width + j) * 0.0f;
  }
  return sum_lanes(check) == 0.0f;
}

// Gram tile: rows are columns of x, so M neighbouring values of one row of x are broadcast against
// NV vectors of the same row.
template <int M, int NV>
static __attribute__((noinline)) void gram_tile(const float* x, int64_t depth, int64_t n, int64_t i,
                                                int64_t j, int tail, float* y, bool first) {
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

// The first and the second halves of runs of Width lanes, those of a before those of b.
template <int Width>
constexpr int first_halves(int l) {
  return l / (Width / 2) * Width + l % (Width / 2);
}
template <int Width>
constexpr int second_halves(int l) {
  return first_halves<Width>(l) + Width / 2;
}
template <int Width>
CNNFAST_INLINE vf add_halves(vf a, vf b) {
  return pick_lanes<first_halves<Width>>(a, b) + pick_lanes<second_halves<Width>>(a, b);
}

template <int Width>
CNNFAST_INLINE void add_rows_up(vf* acc) {
  if constexpr (Width > 1) {
    CNNFAST_UNROLL
    for (int i = 0; i < Width / 2; ++i) acc[i] = add_halves<Width>(acc[2 * i], acc[2 * i + 1]);
    add_rows_up<Width / 2>(acc);
  }
}

// R rows against one column: depth lies across the lanes, which are added at the end.
template <int R>
CNNFAST_INLINE void dots_of(const float* a, int64_t lda, const float* w, int64_t depth, float start, float* y,
                            int64_t step) {
  // Row after row, as they lie in memory: the processor's prefetchers follow.
  vf acc[R];
  const int64_t whole = depth / VL * VL;
  const int tail = static_cast<int>(depth - whole);
  CNNFAST_UNROLL
  for (int r = 0; r < R; ++r) {
    vf sum = {};
    for (int64_t k = 0; k < whole; k += VL) sum = fma(load(a + k), load(w + k), sum);
    if (tail) sum = fma(load_n(a + whole, tail), load_n(w + whole, tail), sum);
    acc[r] = sum;
    a += lda;
  }
  if (R < VL) {
    CNNFAST_UNROLL
    for (int r = 0; r < R; ++r) y[r * step] = sum_lanes(acc[r]) + start;
    return;
  }
  // The halves of two vectors become one vector, until each lane is the sum of a row.
  add_rows_up<VL>(acc);
  const vf sums = acc[0] + splat(start);
  if (step == 1) return store(y, sums);
  float lane[VL];
  store(lane, sums);
  for (int r = 0; r < R; ++r) y[r * step] = lane[r];
}

static void dots(const float* a, int64_t lda, int64_t rows, const float* w, int64_t depth, float start,
                 float* y, int64_t step) {
  int64_t m = 0;
  for (; m + VL <= rows; m += VL) dots_of<VL>(a + m * lda, lda, w, depth, start, y + m * step, step);
  for (; m < rows; ++m) dots_of<1>(a + m * lda, lda, w, depth, start, y + m * step, step);
}

constexpr cnnfast::GemmKernels gemm_kernels() {
  return {kMaxVectors, 24, kSweepRows, gemm_block, gemm_pack, gram_block, dots};
}

}  // namespace
