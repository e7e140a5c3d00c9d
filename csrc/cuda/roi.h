// Pooling of regions of interest and its gradients. Boxes are rows image, x1, y1, x2, y2 of float32, checked
// by the caller; a box that names no image is left out all the same.
#pragma once
#include <cstdint>

#include "cuda/check.h"
#include "cuda/element.h"

namespace cnnfast::cuda {

struct RoiShape {
  int64_t n, k;  // pictures, boxes
  int h, w, c, p, q;
  float scale;
  int sampling_ratio;  // samples per side of a bin; 0: as many as pixels
  bool aligned;
};

int64_t roi_pool_workspace(const RoiShape& s, bool gradient);
void roi_pool(DType type, const RoiShape& s, const void* x, const float* boxes, void* y, void* workspace,
              cudaStream_t stream);
void roi_pool_grad(DType type, const RoiShape& s, const void* x, const float* boxes, const void* g, void* dx,
                   void* workspace, cudaStream_t stream);

void roi_align(DType type, const RoiShape& s, const void* x, const float* boxes, void* y,
               cudaStream_t stream);
int64_t roi_align_grad_workspace(const RoiShape& s);
void roi_align_grad(DType type, const RoiShape& s, const float* boxes, const void* g, void* dx,
                    void* workspace, cudaStream_t stream);

}  // namespace cnnfast::cuda
