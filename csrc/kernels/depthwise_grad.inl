// Gradients of depthwise convolution. Algorithm: channels across lanes.
// weight: the KW sums of one kernel row stay in registers while lines and pixels pass; columns whose taps
//   lie outside are added tap by tap. Accumulators: KW * NV vectors, in the order of the pixels.
// input: four vectors of a pixel at a time, taps in order.
#pragma once
#include "kernels/depthwise_grad.h"
#include "kernels/simd.h"

namespace {

// Taps j .. j + KW of NV vectors from channel k on; `lanes` of the last vector are in use.
template <int KW, int NV>
static __attribute__((noinline)) void depthwise_grad_taps(const cnnfast::DepthwiseGradWeight* t, int64_t j,
                                                          int64_t k, int lanes) {
  const int64_t c = t->c, tap = t->dw * c, step = t->sw * c;
  const auto read = [lanes](const float* p, int v) __attribute__((always_inline)) {
    return v == NV - 1 && lanes < VL ? load_n(p + v * VL, lanes) : load(p + v * VL);
  };
  // Pixels q0 .. q1 see all taps inside; first and last are those of taps j and j + KW - 1.
  const int64_t first = t->pl - j * t->dw, last = t->w - 1 + t->pl - (j + KW - 1) * t->dw;
  const int64_t q0 = min_int(t->q, first > 0 ? (first + t->sw - 1) / t->sw : 0);
  const int64_t q1 = last < 0 ? q0 : max_int(q0, min_int(t->q, last / t->sw + 1));
  vf acc[KW][NV];
  CNNFAST_UNROLL
  for (int i = 0; i < KW; ++i) CNNFAST_UNROLL
  for (int v = 0; v < NV; ++v) acc[i][v] = vf{};
  for (int64_t l = 0; l < t->line_count; ++l) {
    const float *x = t->lines[l].x + k, *g = t->lines[l].g + k;
    const auto edge = [&](int64_t from, int64_t to) __attribute__((always_inline)) {
      for (int64_t q = from; q < to; ++q) {
        CNNFAST_UNROLL
        for (int i = 0; i < KW; ++i) {
          const int64_t column = q * t->sw - t->pl + (j + i) * t->dw;
          if (column < 0 || column >= t->w) continue;
          CNNFAST_UNROLL
          for (int v = 0; v < NV; ++v)
            acc[i][v] = fma(read(x + column * c, v), read(g + q * c, v), acc[i][v]);
        }
      }
    };
    edge(0, q0);
    if (q0 < q1) {
      const float *from = x + (q0 * t->sw - t->pl + j * t->dw) * c, *of = g + q0 * c;
      for (int64_t q = q0; q < q1; ++q, from += step, of += c) {
        vf gv[NV];
        CNNFAST_UNROLL
        for (int v = 0; v < NV; ++v) gv[v] = read(of, v);
        CNNFAST_UNROLL
        for (int i = 0; i < KW; ++i) CNNFAST_UNROLL
        for (int v = 0; v < NV; ++v) acc[i][v] = fma(read(from + i * tap, v), gv[v], acc[i][v]);
      }
    }
    edge(q1, t->q);
  }
  CNNFAST_UNROLL
  for (int i = 0; i < KW; ++i) CNNFAST_UNROLL
  for (int v = 0; v < NV; ++v) {
    float* y = t->y + (j + i) * c + k + v * VL;
    if (v == NV - 1 && lanes < VL)
      store_n(y, acc[i][v], lanes);
    else
      store(y, acc[i][v]);
  }
}

template <int KW, int NV>
static void depthwise_grad_channels(const cnnfast::DepthwiseGradWeight* t, int64_t j) {
  int64_t k = 0;
  for (; k + NV * VL <= t->channels; k += NV * VL) depthwise_grad_taps<KW, NV>(t, j, k, VL);
  for (; k < t->channels; k += VL)
    depthwise_grad_taps<KW, 1>(t, j, k, static_cast<int>(min_int(VL, t->channels - k)));
}

static void depthwise_grad_weight(const cnnfast::DepthwiseGradWeight* t) {
  int64_t j = 0;
  if (t->kw == 5) {
    depthwise_grad_channels<5, 1>(t, 0);
    j = 5;
  }
  for (; j + 3 <= t->kw; j += 3) depthwise_grad_channels<3, 2>(t, j);
  for (; j < t->kw; ++j) depthwise_grad_channels<1, 4>(t, j);
}

static void depthwise_grad_input(const float* const* g, const float* const* w, int64_t taps, int64_t channels,
                                 float* y) {
  int64_t k = 0;
  for (; k + 4 * VL <= channels; k += 4 * VL) {
    vf sum[4];
    CNNFAST_UNROLL
    for (int v = 0; v < 4; ++v) sum[v] = vf{};
    for (int64_t t = 0; t < taps; ++t) {
      CNNFAST_UNROLL
      for (int v = 0; v < 4; ++v) sum[v] = fma(load(g[t] + k + v * VL), load(w[t] + k + v * VL), sum[v]);
    }
    CNNFAST_UNROLL
    for (int v = 0; v < 4; ++v) store(y + k + v * VL, sum[v]);
  }
  for (; k < channels; k += VL) {
    const int lanes = static_cast<int>(min_int(VL, channels - k));
    vf sum = {};
    for (int64_t t = 0; t < taps; ++t) sum = fma(load_n(g[t] + k, lanes), load_n(w[t] + k, lanes), sum);
    store_n(y + k, sum, lanes);
  }
}

constexpr cnnfast::DepthwiseGradKernels depthwise_grad_kernels() {
  return {depthwise_grad_weight, depthwise_grad_input};
}

}  // namespace
