// Pooling by windows and its gradients, NHWC. (Whole pictures are reductions: reduce.h.)
#pragma once
#include <cstdint>

#include "cuda/check.h"
#include "cuda/element.h"

namespace cnnfast::cuda {

// The numbers of python/cnnfast/ops/pool.py, in its order. kernel, top and left leave out taps that no window
// has inside the picture; size and pads are as asked for, and divide averages.
struct PoolShape {
  int64_t n;
  int h, w, c;
  int kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, top, left;
  int p, q;
  int64_t size_h, size_w, pad_top, pad_bottom, pad_left, pad_right;
  bool include_pad;
};

// `positions`, or null: h * width + w of each maximum, the first of equal ones.
void max_pool2d(DType type, const PoolShape& s, const void* x, void* y, int64_t* positions,
                cudaStream_t stream);
void avg_pool2d(DType type, const PoolShape& s, const void* x, void* y, cudaStream_t stream);
// Root of the sum of squares of each window.
void l2_pool2d(DType type, const PoolShape& s, const void* x, void* y, cudaStream_t stream);

// `positions`: workspace, one per element of g.
void max_pool2d_grad(DType type, const PoolShape& s, const void* g, const void* x, void* dx,
                     int64_t* positions, cudaStream_t stream);
void avg_pool2d_grad(DType type, const PoolShape& s, const void* g, void* dx, cudaStream_t stream);

// dx[n, positions[n, c], c] = g[n, c], and 0 elsewhere.
void scatter_rows(DType type, int64_t n, int64_t rows, int64_t channels, const void* g,
                  const int64_t* positions, void* dx, cudaStream_t stream);

}  // namespace cnnfast::cuda
