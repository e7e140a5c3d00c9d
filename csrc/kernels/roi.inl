// Pooling of regions of interest, one row of bins at a time. Algorithm: channels across lanes, a tile of
// four vectors per pass over the pixels of a bin. RoIAlign's bilinear samples are summed beforehand into
// one weight per row and one per column of the image, so every pixel of a bin is read once.
// Accumulators: one vector per VL channels, pixels in row-major order.
#pragma once
#include "kernels/roi.h"
#include "kernels/simd.h"

namespace {

// The larger one; once NaN, always NaN.
CNNFAST_INLINE vf roi_max(vf sum, vf x) { return select(sum == sum, vmax(sum, x), sum); }

template <int T>
CNNFAST_INLINE void roi_pool_bin(const cnnfast::RoiPoolRow* r, int64_t q, int64_t c, int lanes) {
  vf best[T];
  const bool empty = r->top >= r->bottom || r->left[q] >= r->right[q];
  CNNFAST_UNROLL
  for (int t = 0; t < T; ++t) best[t] = empty ? vf{} : splat(-__builtin_inff());
  for (int64_t i = r->top; i < r->bottom; ++i) {
    const float* x = r->image + (i * r->w + r->left[q]) * r->c + c;
    for (int64_t j = r->left[q]; j < r->right[q]; ++j, x += r->c) CNNFAST_UNROLL
    for (int t = 0; t < T; ++t) best[t] = roi_max(best[t], T > 1 ? load(x + t * VL) : load_n(x, lanes));
  }
  float* y = r->y + q * r->c + c;
  CNNFAST_UNROLL
  for (int t = 0; t < T; ++t)
    if (T > 1)
      store(y + t * VL, best[t]);
    else
      store_n(y, best[t], lanes);
}

static void roi_pool_row(const cnnfast::RoiPoolRow* r) {
  for (int64_t q = 0; q < r->q; ++q) {
    int64_t c = 0;
    for (; c + 4 * VL <= r->c; c += 4 * VL) roi_pool_bin<4>(r, q, c, VL);
    for (; c < r->c; c += VL) roi_pool_bin<1>(r, q, c, static_cast<int>(min_int(VL, r->c - c)));
  }
}

template <int T>
CNNFAST_INLINE void roi_align_bin(const cnnfast::RoiAlignRow* r, int64_t q, int64_t c, int lanes) {
  vf sum[T];
  CNNFAST_UNROLL
  for (int t = 0; t < T; ++t) sum[t] = vf{};
  for (int64_t i = 0; i < r->rows; ++i) {
    const float* x = r->image + r->row[i] * (r->w * r->c) + c;
    for (int64_t j = r->start[q]; j < r->start[q + 1]; ++j) {
      const vf weight = splat(r->row_weight[i] * r->column_weight[j]);
      const float* pixel = x + r->column[j] * r->c;
      CNNFAST_UNROLL
      for (int t = 0; t < T; ++t)
        sum[t] = fma(T > 1 ? load(pixel + t * VL) : load_n(pixel, lanes), weight, sum[t]);
    }
  }
  float* y = r->y + q * r->c + c;
  CNNFAST_UNROLL
  for (int t = 0; t < T; ++t)
    if (T > 1)
      store(y + t * VL, sum[t]);
    else
      store_n(y, sum[t], lanes);
}

static void roi_align_row(const cnnfast::RoiAlignRow* r) {
  for (int64_t q = 0; q < r->q; ++q) {
    int64_t c = 0;
    for (; c + 4 * VL <= r->c; c += 4 * VL) roi_align_bin<4>(r, q, c, VL);
    for (; c < r->c; c += VL) roi_align_bin<1>(r, q, c, static_cast<int>(min_int(VL, r->c - c)));
  }
}

constexpr cnnfast::RoiKernels roi_kernels() { return {roi_pool_row, roi_align_row}; }

}  // namespace
