// Pooling, one output row at a time. Algorithm: channels across lanes. Common windows (2 or 3 wide,
// dense, stride 1 or 2) take kPoolTile neighbouring pixels at once: the rows are merged per column in
// registers, then the columns per pixel, so each input vector is loaded once per tile. Other windows
// merge the rows into a scratch row first and then walk pixel by pixel.
// Accumulators: one vector per column of the tile. The last channels overlap their neighbours instead
// of being masked. Maxima: the tile uses the plain instruction and watches for NaN; a tile that saw
// one is done again, pixel by pixel, with a maximum that keeps NaN.
// Sums over whole pictures add 8 pixels as a tree, then that to the running sum.
#pragma once
#include "kernels/pool.h"
#include "kernels/simd.h"

namespace {

#if defined(CNNFAST_LEVEL_V4) || defined(CNNFAST_LEVEL_NEON)
constexpr int kPoolTile = 8;
#else
constexpr int kPoolTile = 4;
#endif

#define CNNFAST_INLINE_MEMBER inline __attribute__((always_inline))

// Tells whether any lane shown to it was NaN.
struct NanWatch {
#if defined(CNNFAST_LEVEL_V4)
  __mmask16 ordered = 0xffff;
  CNNFAST_INLINE_MEMBER void see(vf a, vf b) { ordered = _mm512_mask_cmp_ps_mask(ordered, a, b, _CMP_ORD_Q); }
  CNNFAST_INLINE_MEMBER bool any() const { return ordered != 0xffff; }
#elif defined(CNNFAST_LEVEL_V3)
  __m256 bad = _mm256_setzero_ps();
  CNNFAST_INLINE_MEMBER void see(vf a, vf b) { bad = _mm256_or_ps(bad, _mm256_cmp_ps(a, b, _CMP_UNORD_Q)); }
  CNNFAST_INLINE_MEMBER bool any() const { return _mm256_movemask_ps(bad) != 0; }
#elif defined(CNNFAST_LEVEL_V2)
  __m128 bad = _mm_setzero_ps();
  CNNFAST_INLINE_MEMBER void see(vf a, vf b) { bad = _mm_or_ps(bad, _mm_cmpunord_ps(a, b)); }
  CNNFAST_INLINE_MEMBER bool any() const { return _mm_movemask_ps(bad) != 0; }
#else
  vi bad = {};
  CNNFAST_INLINE_MEMBER void see(vf a, vf b) { bad |= (a != a) | (b != b); }
  CNNFAST_INLINE_MEMBER bool any() const {
    int32_t all = 0;
    for (int i = 0; i < VL; ++i) all |= bad[i];
    return all != 0;
  }
#endif
};

struct MaxPool {
  static constexpr bool kWatch = true;
  CNNFAST_INLINE vf quick(vf a, vf x) { return vmax(a, x); }
  CNNFAST_INLINE vf exact(vf a, vf x) { return maximum(a, x); }
  CNNFAST_INLINE vf finish(const cnnfast::PoolRow*, int64_t, vf v) { return v; }
};

struct AveragePool {
  static constexpr bool kWatch = false;
  CNNFAST_INLINE vf quick(vf a, vf x) { return a + x; }
  CNNFAST_INLINE vf exact(vf a, vf x) { return a + x; }
  CNNFAST_INLINE vf finish(const cnnfast::PoolRow* r, int64_t q, vf v) {
    return v / splat(static_cast<float>(r->divisor * r->divisors[q]));
  }
};

// Taps j0..j1-1 of the window of pixel q lie in the row; x0 is where the window starts.
struct TapRange {
  int64_t x0, j0, j1;
};
CNNFAST_INLINE TapRange taps_of(const cnnfast::PoolRow* r, int64_t q) {
  const int64_t x0 = q * r->sw - r->pl;
  int64_t j0 = 0, j1 = r->kw;
  if (x0 < 0) j0 = (-x0 + r->dw - 1) / r->dw;
  if (x0 + (j1 - 1) * r->dw >= r->w) j1 = (r->w - x0 + r->dw - 1) / r->dw;
  return {x0, j0, j1};
}

// `get` loads a vector of channels.
template <class P, class Get>
CNNFAST_INLINE vf pool_window(const cnnfast::PoolRow* r, TapRange taps, int64_t c, Get get) {
  // A column is merged before its neighbour, as in the tiles: the same sum wherever it is computed.
  vf total = {};
  for (int64_t j = taps.j0; j < taps.j1; ++j) {
    const int64_t at = (taps.x0 + j * r->dw) * r->ldx + c;
    vf column = get(r->x[0] + at);
    for (int64_t i = 1; i < r->rows; ++i) column = P::exact(column, get(r->x[i] + at));
    total = j == taps.j0 ? column : P::exact(total, column);
  }
  return total;
}

template <class P>
static void pool_pixel(const cnnfast::PoolRow* r, int64_t q) {
  const TapRange taps = taps_of(r, q);
  float* y = r->y + q * r->ldy;
  for (int64_t i = 0; i < r->c; i += VL) {
    const int64_t c = min_int(i, r->c - VL);
    store(y + c, P::finish(r, q, pool_window<P>(r, taps, c, [](const float* p) { return load(p); })));
  }
}

// Fewer channels than lanes: whole vectors are written (the next pixels follow and overwrite), except at
// the end of the row.
template <class P>
static void pool_narrow(const cnnfast::PoolRow* r) {
  const auto get = [lanes = static_cast<int>(r->c)](const float* p) { return load_n(p, lanes); };
  const bool square = r->rows == 2 && r->kw == 2 && r->dw == 1;
  for (int64_t q = 0; q < r->q; ++q) {
    const TapRange taps = taps_of(r, q);
    vf v;
    if (square && taps.j0 == 0 && taps.j1 == 2) {
      const float *a = r->x[0] + taps.x0 * r->ldx, *b = r->x[1] + taps.x0 * r->ldx;
      v = P::exact(P::exact(get(a), get(b)), P::exact(get(a + r->ldx), get(b + r->ldx)));
    } else {
      v = pool_window<P>(r, taps, 0, get);
    }
    v = P::finish(r, q, v);
    float* y = r->y + q * r->ldy;
    if (r->ldy == r->c && (r->q - q) * r->c >= VL)
      store(y, v);
    else
      store_n(y, v, static_cast<int>(r->c));
  }
}

template <class P, int KW, int S, int T>
CNNFAST_INLINE bool pool_tile(const cnnfast::PoolRow* r, int64_t q, int64_t c) {
  constexpr int N = (T - 1) * S + KW;
  const int64_t step = r->ldx, at = (q * S - r->pl) * step + c;
  NanWatch watch;
  vf column[N + 1];
  const float* x = r->x[0] + at;
  CNNFAST_UNROLL
  for (int t = 0; t < N; ++t) column[t] = load(x + t * step);
  column[N] = column[N - 1];
  if (P::kWatch) {
    CNNFAST_UNROLL
    for (int t = 0; t < N; t += 2) watch.see(column[t], column[t + 1]);
  }
  for (int64_t i = 1; i < r->rows; ++i) {
    x = r->x[i] + at;
    CNNFAST_UNROLL
    for (int t = 0; t < N; t += 2) {
      const vf a = load(x + t * step), b = t + 1 < N ? load(x + (t + 1) * step) : a;
      if (P::kWatch) watch.see(a, b);
      column[t] = P::quick(column[t], a);
      if (t + 1 < N) column[t + 1] = P::quick(column[t + 1], b);
    }
  }
  if (P::kWatch && watch.any()) return false;
  CNNFAST_UNROLL
  for (int t = 0; t < T; ++t) {
    vf v = column[t * S];
    CNNFAST_UNROLL
    for (int j = 1; j < KW; ++j) v = P::quick(v, column[t * S + j]);
    store(r->y + (q + t) * r->ldy + c, P::finish(r, q + t, v));
  }
  return true;
}

template <class P, int KW, int S, int T>
static int64_t pool_tiles(const cnnfast::PoolRow* r, int64_t q, int64_t q_end) {
  for (; q + T <= q_end; q += T) {
    bool good = true;
    for (int64_t c = 0; c < r->c; c += VL) good &= pool_tile<P, KW, S, T>(r, q, min_int(c, r->c - VL));
    if (!good)
      for (int t = 0; t < T; ++t) pool_pixel<P>(r, q + t);
  }
  return q;
}

template <class P>
static void pool_row(const cnnfast::PoolRow* r) {
  if (r->c < VL) return pool_narrow<P>(r);
  // Pixels q0..q1 have their whole window inside the row.
  const int64_t q0 = min_int(r->q, max_int(0, r->pl + r->sw - 1) / r->sw);
  const int64_t room = r->w - (r->kw - 1) * r->dw - 1 + r->pl;
  const int64_t q1 = room < 0 ? q0 : max_int(q0, min_int(r->q, room / r->sw + 1));
  int64_t q = 0;
  for (; q < q0; ++q) pool_pixel<P>(r, q);
  if (r->dw == 1 || r->kw == 1) {
    if (r->kw == 2 && r->sw == 1) q = pool_tiles<P, 2, 1, kPoolTile>(r, q, q1);
    if (r->kw == 2 && r->sw == 2) q = pool_tiles<P, 2, 2, 2>(r, q, q1);
    if (r->kw == 3 && r->sw == 1) q = pool_tiles<P, 3, 1, kPoolTile>(r, q, q1);
    if (r->kw == 3 && r->sw == 2) q = pool_tiles<P, 3, 2, kPoolTile>(r, q, q1);
  }
  for (; q < r->q; ++q) pool_pixel<P>(r, q);
}

// The first maximum wins, and the first NaN beats everything: x replaces best if it is larger or NaN
// and best is not NaN.
static void position_wide(const cnnfast::PoolRow* r, int64_t q, TapRange taps) {
  for (int64_t c = 0; c < r->c; c += VL) {
    const int lanes = static_cast<int>(min_int(VL, r->c - c));
    const int64_t first = (taps.x0 + taps.j0 * r->dw) * r->ldx + c;
    vf best = load_n(r->x[0] + first, lanes);
    vi where = splat_int(static_cast<int32_t>(r->row_start[0] + taps.x0 + taps.j0 * r->dw));
    for (int64_t i = 0; i < r->rows; ++i)
      for (int64_t j = taps.j0; j < taps.j1; ++j) {
        const int64_t column = taps.x0 + j * r->dw;
        const vf x = load_n(r->x[i] + column * r->ldx + c, lanes);
        const vi replace = ~(x <= best) & (best == best);
        best = replace ? x : best;
        where = replace ? splat_int(static_cast<int32_t>(r->row_start[i] + column)) : where;
      }
    store_n(r->y + q * r->ldy + c, best, lanes);
    int64_t* to = r->positions + q * r->c + c;
    int32_t lane[VL];
    *reinterpret_cast<vi_unaligned*>(lane) = where;
    if (lanes == VL)
      for (int l = 0; l < VL; ++l) to[l] = lane[l];
    else
      for (int l = 0; l < lanes; ++l) to[l] = lane[l];
  }
}

// Planes of 2^31 pixels and more: their positions do not fit a lane.
static void position_scalar(const cnnfast::PoolRow* r, int64_t q, TapRange taps) {
  for (int64_t c = 0; c < r->c; ++c) {
    float best = 0;
    int64_t where = -1;
    for (int64_t i = 0; i < r->rows; ++i)
      for (int64_t j = taps.j0; j < taps.j1; ++j) {
        const int64_t column = taps.x0 + j * r->dw;
        const float x = r->x[i][column * r->ldx + c];
        if (where < 0 || (!(x <= best) && best == best)) best = x, where = r->row_start[i] + column;
      }
    r->y[q * r->ldy + c] = best;
    r->positions[q * r->c + c] = where;
  }
}

static void position_row(const cnnfast::PoolRow* r) {
  const bool wide = r->row_start[r->rows - 1] + r->w <= INT32_MAX;
  for (int64_t q = 0; q < r->q; ++q) {
    const TapRange taps = taps_of(r, q);
    if (wide)
      position_wide(r, q, taps);
    else
      position_scalar(r, q, taps);
  }
}

template <class P>
static void merge_rows(float* y, const float* const* x, int64_t rows, int64_t count) {
  if (count < VL) {
    for (int64_t i = 0; i < count; ++i) {
      vf v = splat(x[0][i]);
      for (int64_t r = 1; r < rows; ++r) v = P::exact(v, splat(x[r][i]));
      y[i] = v[0];
    }
    return;
  }
  for (int64_t at = 0; at < count; at += VL) {
    const int64_t i = min_int(at, count - VL);
    vf v = load(x[0] + i);
    for (int64_t r = 1; r < rows; ++r) v = P::exact(v, load(x[r] + i));
    store(y + i, v);
  }
}

// y = y (if `more`) with n pixels, n at most 8, added as a tree.
template <class P, int N>
static void reduce_group(float* y, const float* x, int64_t step, int64_t c, bool more) {
  auto lanes_at = [&](int64_t k, int lanes) {
    vf v[N];
    CNNFAST_UNROLL
    for (int i = 0; i < N; ++i) v[i] = lanes == VL ? load(x + i * step + k) : load_n(x + i * step + k, lanes);
    CNNFAST_UNROLL
    for (int apart = 1; apart < N; apart *= 2) CNNFAST_UNROLL
    for (int i = 0; i + apart < N; i += 2 * apart) v[i] = P::exact(v[i], v[i + apart]);
    if (lanes == VL)
      store(y + k, more ? P::exact(load(y + k), v[0]) : v[0]);
    else
      store_n(y + k, more ? P::exact(load_n(y + k, lanes), v[0]) : v[0], lanes);
  };
  int64_t k = 0;
  for (; k + VL <= c; k += VL) lanes_at(k, VL);
  if (k < c) lanes_at(k, static_cast<int>(c - k));
}

template <class P>
static void reduce_pixels(float* y, const float* x, int64_t step, int64_t c, int64_t n) {
  int64_t i = 0;
  if (c < VL && step == c && n >= VL) {
    // VL narrow pixels count as one wide pixel; its parts are folded at the end.
    float wide[VL * VL];
    const int64_t pixels = n / VL;
    reduce_pixels<P>(wide, x, c * VL, c * VL, pixels);
    reduce_group<P, 1>(y, wide, c, c, false);
    for (int part = 1; part < VL; ++part) reduce_group<P, 1>(y, wide + part * c, c, c, true);
    i = pixels * VL;
  }
  for (; i + 8 <= n; i += 8) reduce_group<P, 8>(y, x + i * step, step, c, i > 0);
  for (; i + 2 <= n; i += 2) reduce_group<P, 2>(y, x + i * step, step, c, i > 0);
  for (; i < n; ++i) reduce_group<P, 1>(y, x + i * step, step, c, i > 0);
}

constexpr cnnfast::PoolKernels pool_kernels() {
  return {pool_row<MaxPool>,         pool_row<AveragePool>,   position_row,
          merge_rows<MaxPool>,       merge_rows<AveragePool>, reduce_pixels<MaxPool>,
          reduce_pixels<AveragePool>};
}

}  // namespace
