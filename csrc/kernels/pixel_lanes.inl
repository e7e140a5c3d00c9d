// Convolution with few output channels. Algorithm: neighbouring pixels of a row lie across the lanes, weights
// are broadcast; finished planes are turned into pixels in squares of four. Sums run over kernel rows, then
// over what lies under one, as in the implicit GEMM, so the bits are the same.
// Accumulators: a vector for each of O channels, times 2 (up to 2 channels: 4; 16 registers and more than 6
// channels: 1). Pooling compares two rows of sums, then neighbouring lanes.
#pragma once
#include "kernels/pixel_lanes.h"
#include "kernels/simd.h"

namespace {

template <int O>
constexpr int kPixelVectors = O <= 2               ? 4
                              : O <= 6 || VL == 16 ? 2
                                                   : 1;

static void pixel_planes(const cnnfast::PixelPlanes* g) {
  const int64_t stride = g->stride;
  for (int64_t line = 0; line < g->lines; ++line) {
    const float* x = g->x + line * g->line_step;
    for (int64_t k = 0; k < g->c; ++k)
      for (int64_t s = 0; s < stride; ++s) {
        float* to = g->to + line * g->to_step + (k * stride + s) * g->plane;
        // Values begin .. end lie in the picture.
        const int64_t skipped = g->left - s, inside = g->w + skipped;
        const int64_t begin = min_int(g->plane, skipped > 0 ? (skipped + stride - 1) / stride : 0);
        const int64_t end =
            max_int(begin, min_int(g->plane, inside > 0 ? (inside + stride - 1) / stride : 0));
        const float* from = x + (begin * stride - skipped) * g->ldx + k;
        const int64_t step = stride * g->ldx;
        int64_t i = 0;
        for (; i < begin; ++i) to[i] = 0.0f;
        if (step == 1) {
          for (; i + VL <= end; i += VL, from += VL) store(to + i, load(from));
          if (i < end) store_n(to + i, load_n(from, static_cast<int>(end - i)), static_cast<int>(end - i));
          i = end;
        }
        for (; i < end; ++i, from += step) to[i] = *from;
        for (; i < g->plane; ++i) to[i] = 0.0f;
      }
  }
}

// Sums of NV vectors of pixels from q on, finished but for pooling.
template <int O, int NV>
CNNFAST_INLINE void pixel_sums(const cnnfast::PixelRows& g, const float* const* lines, int64_t q,
                               vf (&acc)[O][NV]) {
  CNNFAST_UNROLL
  for (int o = 0; o < O; ++o) CNNFAST_UNROLL
  for (int v = 0; v < NV; ++v) acc[o][v] = vf{};
  const float* w = g.w;
  for (int64_t i = 0; i < g.kh; ++i) {
    const float* line = lines[i] + q;
    for (int64_t t = 0; t < g.values; ++t, w += O) {
      const float* x = line + g.at[t];
      vf in[NV];
      CNNFAST_UNROLL
      for (int v = 0; v < NV; ++v) in[v] = load(x + v * VL);
      CNNFAST_UNROLL
      for (int o = 0; o < O; ++o) {
        const vf s = splat(w[o]);
        CNNFAST_UNROLL
        for (int v = 0; v < NV; ++v) acc[o][v] = fma(s, in[v], acc[o][v]);
      }
    }
  }
  if (g.bias) {
    CNNFAST_UNROLL
    for (int o = 0; o < O; ++o) CNNFAST_UNROLL
    for (int v = 0; v < NV; ++v) acc[o][v] += splat(g.bias[o]);
  }
  if (g.activation == cnnfast::kRelu) {
    CNNFAST_UNROLL
    for (int o = 0; o < O; ++o) CNNFAST_UNROLL
    for (int v = 0; v < NV; ++v) acc[o][v] = vmax(vf{}, acc[o][v]);
  } else if (g.activation) {
    float sums[O * NV * VL];
    CNNFAST_UNROLL
    for (int o = 0; o < O; ++o) CNNFAST_UNROLL
    for (int v = 0; v < NV; ++v) store(sums + (o * NV + v) * VL, acc[o][v]);
    float* row = sums;
    activate_rows(g.activation, g.slope, &row, 1, O * NV * VL);
    CNNFAST_UNROLL
    for (int o = 0; o < O; ++o) CNNFAST_UNROLL
    for (int v = 0; v < NV; ++v) acc[o][v] = load(sums + (o * NV + v) * VL);
  }
}

constexpr int even_lanes(int l) { return 2 * l; }
constexpr int odd_lanes(int l) { return 2 * l + 1; }
// The larger ones of neighbouring lanes, those of a before those of b.
CNNFAST_INLINE vf larger_neighbours(vf a, vf b) {
  return maximum(pick_lanes<even_lanes>(a, b), pick_lanes<odd_lanes>(a, b));
}

typedef float four_floats __attribute__((vector_size(16), aligned(4), may_alias));

// `count` pixels of O channels out of planes. Four channels are written at once, over what follows in the
// row; `ends`: nothing that may be written follows the last pixel.
template <int O>
CNNFAST_INLINE void store_pixels(const vf* planes, float* y, int64_t ldy, int64_t count, bool ends) {
  if (O == 1 && ldy == 1) return store_n(y, planes[0], static_cast<int>(count));
  constexpr int kFours = (O + 3) / 4;
  float lanes[kFours][4 * VL];
  CNNFAST_UNROLL
  for (int f = 0; f < kFours; ++f) {
    vf v[4];
    CNNFAST_UNROLL
    for (int i = 0; i < 4; ++i) v[i] = 4 * f + i < O ? planes[4 * f + i < O ? 4 * f + i : 0] : vf{};
    turn_fours(v);
    CNNFAST_UNROLL
    for (int i = 0; i < 4; ++i) store(lanes[f] + i * VL, v[i]);
  }
  // Pixel 4 * g + i: channels 4 * f .. are four lanes of the ith vector.
  const auto at = [](int64_t pixel) { return pixel % 4 * VL + pixel / 4 * 4; };
  const int64_t whole = ldy != O && O % 4 ? 0 : ends && O % 4 ? count - 1 : count;
  for (int64_t l = 0; l < whole; ++l) {
    CNNFAST_UNROLL
    for (int f = 0; f < kFours; ++f)
      *reinterpret_cast<four_floats*>(y + l * ldy + 4 * f) =
          *reinterpret_cast<const four_floats*>(lanes[f] + at(l));
  }
  for (int64_t l = whole; l < count; ++l) {
    CNNFAST_UNROLL
    for (int o = 0; o < O; ++o) y[l * ldy + o] = lanes[o / 4][at(l) + o % 4];
  }
}

template <int O, int NV>
CNNFAST_INLINE void pixel_tile(const cnnfast::PixelRows& g, int64_t p, int64_t q) {
  vf acc[O][NV];
  pixel_sums<O, NV>(g, g.lines + p * g.kh, q, acc);
  float* y = g.y + (g.pools ? p / 2 * g.row_step + q / 2 * g.ldy : p * g.row_step + q * g.ldy);
  int64_t left = g.q - q;
  int used = NV;
  if (g.pools) {
    vf upper[O][NV];
    CNNFAST_UNROLL
    for (int o = 0; o < O; ++o) CNNFAST_UNROLL
    for (int v = 0; v < NV; ++v) upper[o][v] = acc[o][v];
    pixel_sums<O, NV>(g, g.lines + (p + 1) * g.kh, q, acc);
    CNNFAST_UNROLL
    for (int o = 0; o < O; ++o) {
      CNNFAST_UNROLL
      for (int v = 0; v < NV; ++v) acc[o][v] = maximum(upper[o][v], acc[o][v]);
      CNNFAST_UNROLL
      for (int v = 0; v < NV; v += 2)
        acc[o][v / 2] = larger_neighbours(acc[o][v], acc[o][v + 1 < NV ? v + 1 : v]);
    }
    left /= 2, used = (NV + 1) / 2;
  }
  CNNFAST_UNROLL
  for (int v = 0; v < NV; ++v) {
    if (v >= used || left <= v * VL) return;
    vf planes[O];
    CNNFAST_UNROLL
    for (int o = 0; o < O; ++o) planes[o] = acc[o][v];
    const int64_t most = g.pools && NV == 1 ? VL / 2 : VL, count = min_int(most, left - v * VL);
    store_pixels<O>(planes, y + v * VL * g.ldy, g.ldy, count, left - v * VL == count);
  }
}

template <int O>
static void pixel_rows_of(const cnnfast::PixelRows* g) {
  constexpr int NV = kPixelVectors<O>;
  for (int64_t p = 0; p < g->rows; p += g->pools ? 2 : 1) {
    int64_t q = 0;
    for (; g->q - q > (NV - 1) * VL; q += NV * VL) pixel_tile<O, NV>(*g, p, q);
    for (; q < g->q; q += VL) pixel_tile<O, 1>(*g, p, q);
  }
}

static void pixel_rows(const cnnfast::PixelRows* g) {
  typedef void (*RowsFn)(const cnnfast::PixelRows*);
  static constexpr RowsFn kRows[cnnfast::kPixelOutputs] = {
      pixel_rows_of<1>, pixel_rows_of<2>, pixel_rows_of<3>, pixel_rows_of<4>,
      pixel_rows_of<5>, pixel_rows_of<6>, pixel_rows_of<7>, pixel_rows_of<8>};
  kRows[g->o - 1](g);
}

constexpr cnnfast::PixelKernels pixel_kernels() { return {pixel_planes, pixel_rows}; }

}  // namespace
