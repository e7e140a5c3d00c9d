#pragma once
#include <cstdint>

namespace cnnfast {

// Regions are rows image, x1, y1, x2, y2; y has k * p * q * c floats. The Python side has checked that
// the images exist and that coordinates and numbers of samples are within their limits.
struct RoiSpec {
  int64_t h, w, c;  // images, NHWC
  int64_t k;        // regions
  int64_t p, q;     // bins per region
  float scale;      // pixels of x per unit of the boxes
};

void roi_pool(const RoiSpec& spec, const float* x, const float* boxes, float* y);
// samples: per side of a bin, 0 for one per pixel.
void roi_align(const RoiSpec& spec, const float* x, const float* boxes, int64_t samples, bool aligned,
               float* y);
// dx of n images from the gradient g of y; regions are added in their order.
void roi_pool_grad(const RoiSpec& spec, int64_t n, const float* x, const float* boxes, const float* g,
                   float* dx);
void roi_align_grad(const RoiSpec& spec, int64_t n, const float* boxes, const float* g, int64_t samples,
                    bool aligned, float* dx);

}  // namespace cnnfast
