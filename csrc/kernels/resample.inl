// Moving and blending pixels. Copies go by whole vectors, the last one overlapping its neighbour, so
// that a short run costs a load and a store instead of a call; long runs go to memcpy.
// Blending down a column walks rows of W * C floats; blending along a row has channels across lanes.
// With fewer channels than lanes whole vectors are read where the row allows it and written where the
// next pixels will overwrite the rest; up to 4 channels use vectors of 4, which rarely cross a cache
// line. Accumulator: one vector, taps in order.
#pragma once
#include <string.h>

#include "kernels/resample.h"
#include "kernels/simd.h"

namespace {

typedef float f4 __attribute__((vector_size(16)));
typedef float f4_unaligned __attribute__((vector_size(16), aligned(4), may_alias));
CNNFAST_INLINE f4 load4(const float* p) { return *reinterpret_cast<const f4_unaligned*>(p); }
CNNFAST_INLINE void store4(float* p, f4 v) { *reinterpret_cast<f4_unaligned*>(p) = v; }
CNNFAST_INLINE f4 fma4(float a, f4 b, f4 c) {
#if defined(CNNFAST_LEVEL_V4) || defined(CNNFAST_LEVEL_V3)
  return _mm_fmadd_ps(_mm_set1_ps(a), b, c);
#elif defined(CNNFAST_LEVEL_NEON)
  return vfmaq_n_f32(c, b, a);
#else
  return a * b + c;
#endif
}
CNNFAST_INLINE float fma1(float a, float b, float c) {
#if defined(CNNFAST_LEVEL_V4) || defined(CNNFAST_LEVEL_V3) || defined(CNNFAST_LEVEL_NEON)
  return __builtin_fmaf(a, b, c);  // one instruction at these levels
#else
  return a * b + c;
#endif
}

CNNFAST_INLINE void copy_run(float* y, const float* x, int64_t count) {
  if (count < VL) {
    for (int64_t i = 0; i < count; ++i) y[i] = x[i];
    return;
  }
  if (count > 32 * VL) {
    memcpy(y, x, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  const vf last = load(x + count - VL);
  for (int64_t i = 0; i + VL < count; i += VL) store(y + i, load(x + i));
  store(y + count - VL, last);
}

template <int N>
static void copy_short_runs(float* y, int64_t y_step, const float* x, int64_t x_step, int64_t rows) {
  _Pragma("GCC unroll 4") for (int64_t r = 0; r < rows; ++r, y += y_step, x += x_step) {
    CNNFAST_UNROLL
    for (int i = 0; i < N; ++i) y[i] = x[i];
  }
}

static void copy_runs(float* y, int64_t y_step, const float* x, int64_t x_step, int64_t count, int64_t rows) {
  switch (count) {
    case 1:
      return copy_short_runs<1>(y, y_step, x, x_step, rows);
    case 2:
      return copy_short_runs<2>(y, y_step, x, x_step, rows);
    case 3:
      return copy_short_runs<3>(y, y_step, x, x_step, rows);
    case 4:
      return copy_short_runs<4>(y, y_step, x, x_step, rows);
    default:
      for (int64_t r = 0; r < rows; ++r) copy_run(y + r * y_step, x + r * x_step, count);
  }
}

// Lines that are not read first need whole aligned vectors.
CNNFAST_INLINE void copy_run_past_cache(float* y, const float* x, int64_t count) {
  int64_t i = 0;
  for (; i < count && reinterpret_cast<uintptr_t>(y + i) % 64; ++i) y[i] = x[i];
  for (; i + VL <= count; i += VL) store_past_cache(y + i, load(x + i));
  for (; i < count; ++i) y[i] = x[i];
}

static void join_rows(float* y, const cnnfast::ConcatPart* parts, int64_t count, int64_t rows,
                      bool past_cache) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t p = 0; p < count; ++p) {
      const int64_t columns = parts[p].columns;
      if (past_cache)
        copy_run_past_cache(y, parts[p].x + r * columns, columns);
      else
        copy_run(y, parts[p].x + r * columns, columns);
      y += columns;
    }
  if (past_cache) finish_past_cache();
}

static void copy_pixels(float* y, const float* x, int64_t step, int64_t c, int64_t n) {
  if (step == -c && c > 0 && 2 * c <= VL) {
    // As many pixels as a vector holds change places within it. What it reads before them, and writes behind
    // them, belongs to the pixels that are still to come.
    const int64_t held = VL / c;
    vi from = {};
    for (int l = 0; l < held * c; ++l) from[l] = static_cast<int32_t>(VL - c - l / c * c + l % c);
    for (; n > held; n -= held, x -= held * c, y += held * c)
      store(y, __builtin_shuffle(load(x + c - VL), from));
  }
  copy_runs(y, c, x, step, c, n);
}

static void fill_run(float* y, float value, int64_t count) {
  int64_t i = 0;
  for (; i + VL <= count; i += VL) store(y + i, splat(value));
  for (; i < count; ++i) y[i] = value;
}

template <int V>
CNNFAST_INLINE void blend_at(float* y, const float* const* rows, const float* weights, int64_t n, int64_t i) {
  vf sum[V];
  CNNFAST_UNROLL
  for (int v = 0; v < V; ++v) sum[v] = splat(weights[0]) * load(rows[0] + i + v * VL);
  for (int64_t r = 1; r < n; ++r) {
    const vf w = splat(weights[r]);
    CNNFAST_UNROLL
    for (int v = 0; v < V; ++v) sum[v] = fma(w, load(rows[r] + i + v * VL), sum[v]);
  }
  CNNFAST_UNROLL
  for (int v = 0; v < V; ++v) store(y + i + v * VL, sum[v]);
}

static void blend_rows(float* y, const float* const* rows, const float* weights, int64_t n, int64_t count) {
  int64_t i = 0;
  if (count >= VL) {
    for (; i + 4 * VL <= count; i += 4 * VL) blend_at<4>(y, rows, weights, n, i);
    for (; i < count; i += VL) blend_at<1>(y, rows, weights, n, min_int(i, count - VL));
    return;
  }
  const int lanes = static_cast<int>(count);
  vf sum = splat(weights[0]) * load_n(rows[0], lanes);
  for (int64_t r = 1; r < n; ++r) sum = fma(splat(weights[r]), load_n(rows[r], lanes), sum);
  store_n(y, sum, lanes);
}

static void blend_narrow(float* y, const float* x, int64_t readable, const cnnfast::ResampleTable* t,
                         int64_t c, int64_t n) {
  const int lanes = static_cast<int>(c);
  for (int64_t q = 0; q < n; ++q) {
    const int32_t taps = t->count[q];
    const float* w = t->weights + q * t->taps;
    const float* from = x + t->start[q] * c;
    vf sum;
    if ((t->start[q] + taps - 1) * c + VL <= readable) {
      sum = splat(w[0]) * load(from);
      for (int32_t k = 1; k < taps; ++k) sum = fma(splat(w[k]), load(from + k * c), sum);
    } else {
      sum = splat(w[0]) * load_n(from, lanes);
      for (int32_t k = 1; k < taps; ++k) sum = fma(splat(w[k]), load_n(from + k * c, lanes), sum);
    }
    if ((n - q) * c >= VL)
      store(y + q * c, sum);
    else
      store_n(y + q * c, sum, lanes);
  }
}

template <int C>
static void blend_short(float* y, const float* x, int64_t readable, const cnnfast::ResampleTable* t,
                        int64_t n) {
  const float* w = t->weights;
  int64_t q = 0;
  if (C > 1) {
    // Windows never move back, so whole vectors are safe up to some pixel.
    int64_t safe = n;
    while (safe > 0 && ((n - safe + 1) * C < 4 || (t->start[safe - 1] + t->taps - 1) * C + 4 > readable))
      --safe;
    for (; q < safe; ++q, w += t->taps) {
      const int32_t taps = t->count[q];
      const float* from = x + t->start[q] * C;
      f4 sum = w[0] * load4(from);
      if (taps == 2)
        sum = fma4(w[1], load4(from + C), sum);
      else
        for (int32_t k = 1; k < taps; ++k) sum = fma4(w[k], load4(from + k * C), sum);
      store4(y + q * C, sum);
    }
  }
  for (; q < n; ++q, w += t->taps) {
    const int32_t taps = t->count[q];
    const float* from = x + t->start[q] * C;
    CNNFAST_UNROLL
    for (int i = 0; i < C; ++i) {
      float sum = w[0] * from[i];
      if (taps == 2)
        sum = fma1(w[1], from[C + i], sum);
      else
        for (int32_t k = 1; k < taps; ++k) sum = fma1(w[k], from[k * C + i], sum);
      y[q * C + i] = sum;
    }
  }
}

static void blend_pixels(float* y, const float* x, int64_t readable, const cnnfast::ResampleTable* t,
                         int64_t c, int64_t n) {
  if (c == 1) return blend_short<1>(y, x, readable, t, n);
  if (c == 2) return blend_short<2>(y, x, readable, t, n);
  if (c == 3) return blend_short<3>(y, x, readable, t, n);
  if (c == 4) return blend_short<4>(y, x, readable, t, n);
  if (c < VL) return blend_narrow(y, x, readable, t, c, n);
  for (int64_t q = 0; q < n; ++q) {
    const int32_t taps = t->count[q];
    const float* w = t->weights + q * t->taps;
    const float* from = x + t->start[q] * c;
    float* to = y + q * c;
    if (taps == 2) {
      const vf w0 = splat(w[0]), w1 = splat(w[1]);
      for (int64_t i = 0; i < c; i += VL) {
        const int64_t k = min_int(i, c - VL);
        store(to + k, fma(w1, load(from + c + k), w0 * load(from + k)));
      }
    } else {
      for (int64_t i = 0; i < c; i += VL) {
        const int64_t k = min_int(i, c - VL);
        vf sum = splat(w[0]) * load(from + k);
        for (int32_t j = 1; j < taps; ++j) sum = fma(splat(w[j]), load(from + j * c + k), sum);
        store(to + k, sum);
      }
    }
  }
}

template <int C>
static void pick_short(float* y, const float* x, int64_t readable, const int64_t* start, int64_t n) {
  int64_t q = 0;
  if (C > 2)
    for (; (n - q) * C >= 4 && start[q] * C + 4 <= readable; ++q) store4(y + q * C, load4(x + start[q] * C));
  for (; q < n; ++q) {
    CNNFAST_UNROLL
    for (int k = 0; k < C; ++k) y[q * C + k] = x[start[q] * C + k];
  }
}

static void pick_pixels(float* y, const float* x, int64_t readable, const int64_t* start, int64_t c,
                        int64_t n) {
  if (c == 1) return pick_short<1>(y, x, readable, start, n);
  if (c == 2) return pick_short<2>(y, x, readable, start, n);
  if (c == 3) return pick_short<3>(y, x, readable, start, n);
  if (c == 4) return pick_short<4>(y, x, readable, start, n);
  for (int64_t q = 0; q < n; ++q) {
    if (c < VL && start[q] * c + VL <= readable && (n - q) * c >= VL)
      store(y + q * c, load(x + start[q] * c));
    else
      copy_run(y + q * c, x + start[q] * c, c);
  }
}

constexpr cnnfast::ResampleKernels resample_kernels() {
  return {copy_runs, copy_pixels, fill_run, blend_rows, blend_pixels, join_rows, pick_pixels};
}

}  // namespace
