// Depthwise convolution, one output row at a time. Algorithm: channels across lanes; a tile of
// kTile neighbouring pixels is summed in registers, so each weight is loaded once per tile and each
// input vector once per kernel row. Pixels whose window leaves the row sum their valid taps alone.
// Accumulators: one vector per pixel, taps in row-major order. The last channels overlap their
// neighbours instead of being masked (they are computed twice, with the same result).
#pragma once
#include "kernels/activation.inl"
#include "kernels/depthwise.h"
#include "kernels/simd.h"

namespace {

#if defined(CNNFAST_LEVEL_V4) || defined(CNNFAST_LEVEL_NEON)
constexpr int kDepthwiseTile = 8;
#else
constexpr int kDepthwiseTile = 4;
#endif

CNNFAST_INLINE void depthwise_finish(const cnnfast::DepthwiseRow* r, int64_t q, int64_t c, vf sum, int lanes) {
  if (r->bias) sum += load_n(r->bias + c, lanes);
  if (r->residual) sum += load_n(r->residual + q * r->c + c, lanes);
  store_n(r->y + q * r->c + c, activate(r->activation, sum, r->slope), lanes);
}

static void depthwise_pixel(const cnnfast::DepthwiseRow* r, int64_t q, int64_t c, int lanes) {
  const int64_t x0 = q * r->sw - r->pl;
  int64_t j0 = 0, j1 = r->kw;
  if (x0 < 0) j0 = min_int(r->kw, (-x0 + r->dw - 1) / r->dw);
  while (j1 > j0 && x0 + (j1 - 1) * r->dw >= r->w) --j1;
  vf sum = {};
  for (int64_t i = 0; i < r->kh; ++i) {
    const float* x = r->x[i] + c;
    const float* w = r->weights + i * r->kw * r->c + c;
    for (int64_t j = j0; j < j1; ++j)
      sum = fma(load_n(x + (x0 + j * r->dw) * r->c, lanes), load_n(w + j * r->c, lanes), sum);
  }
  depthwise_finish(r, q, c, sum, lanes);
}

template <int KW, int S, int T>
static void depthwise_tile(const cnnfast::DepthwiseRow* r, int64_t q, int64_t c) {
  const int64_t step = r->c;
  vf acc[T];
  CNNFAST_UNROLL
  for (int t = 0; t < T; ++t) acc[t] = vf{};
  for (int64_t i = 0; i < r->kh; ++i) {
    const float* x = r->x[i] + (q * S - r->pl) * step + c;
    const float* w = r->weights + i * KW * step + c;
    vf in[(T - 1) * S + KW];
    CNNFAST_UNROLL
    for (int t = 0; t < (T - 1) * S + KW; ++t) in[t] = load(x + t * step);
    CNNFAST_UNROLL
    for (int j = 0; j < KW; ++j) {
      vf weight = load(w + j * step);
      CNNFAST_UNROLL
      for (int t = 0; t < T; ++t) acc[t] = fma(in[t * S + j], weight, acc[t]);
    }
  }
  const vf bias = r->bias ? load(r->bias + c) : vf{};
  CNNFAST_UNROLL
  for (int t = 0; t < T; ++t) {
    vf sum = r->bias ? acc[t] + bias : acc[t];
    if (r->residual) sum += load(r->residual + (q + t) * step + c);
    if (r->activation == cnnfast::kRelu)
      sum = vmax(vf{}, sum);
    else if (r->activation == cnnfast::kRelu6)
      sum = vmin(splat(6.0f), vmax(vf{}, sum));
    store(r->y + (q + t) * step + c, sum);
  }
  if (r->activation > cnnfast::kRelu6)
    for (int t = 0; t < T; ++t) {
      float* y = r->y + (q + t) * step + c;
      store(y, activate(r->activation, load(y), r->slope));
    }
}

template <int KW, int S>
static int64_t depthwise_interior(const cnnfast::DepthwiseRow* r, int64_t q, int64_t q_end) {
  auto sweep = [&](auto tile, int64_t width) {
    for (; q + width <= q_end; q += width)
      for (int64_t c = 0; c < r->c; c += VL) tile(r, q, min_int(c, r->c - VL));
  };
  sweep(depthwise_tile<KW, S, kDepthwiseTile>, kDepthwiseTile);
  sweep(depthwise_tile<KW, S, kDepthwiseTile / 2>, kDepthwiseTile / 2);
  sweep(depthwise_tile<KW, S, 1>, 1);
  return q;
}

static void depthwise_row(const cnnfast::DepthwiseRow* r) {
  auto pixels = [&](int64_t q, int64_t q_end) {
    for (; q < q_end; ++q)
      for (int64_t c = 0; c < r->c; c += VL)
        depthwise_pixel(r, q, c, static_cast<int>(min_int(VL, r->c - c)));
  };
  // Pixels q0..q1 have their whole window inside the row.
  const int64_t span = (r->kw - 1) * r->dw + 1;
  const int64_t q0 = min_int(r->q, (r->pl + r->sw - 1) / r->sw);
  const int64_t room = r->w - span + r->pl;
  const int64_t q1 = room < 0 ? q0 : max_int(q0, min_int(r->q, room / r->sw + 1));
  pixels(0, q0);
  int64_t q = q0;
  if (r->c >= VL && r->dw == 1) {
    if (r->kw == 3 && r->sw == 1) q = depthwise_interior<3, 1>(r, q, q1);
    if (r->kw == 3 && r->sw == 2) q = depthwise_interior<3, 2>(r, q, q1);
    if (r->kw == 5 && r->sw == 1) q = depthwise_interior<5, 1>(r, q, q1);
    if (r->kw == 5 && r->sw == 2) q = depthwise_interior<5, 2>(r, q, q1);
    if (r->kw == 7 && r->sw == 1) q = depthwise_interior<7, 1>(r, q, q1);
  }
  pixels(q, r->q);
}

constexpr cnnfast::DepthwiseKernels depthwise_kernels() { return {depthwise_row}; }

}  // namespace
