// Convolution of few output channels with neighbouring pixels across the lanes, and maximum pooling of its
// sums.
#pragma once
#include "core/epilogue.h"
#include "core/spec.h"
#include "cpu/pool.h"

namespace cnnfast {

// Whether neighbouring pixels are expected to fill more lanes than output channels do.
bool pixels_across_lanes(const Conv2dSpec& s);
// The same, and sums can be pooled in registers: windows of 2x2 pixels, side by side.
bool pools_sums(const Conv2dSpec& s, const PoolSpec& pool);
// pool: null, or what pools_sums accepts: y holds the maxima, and there is no residual.
void conv2d_by_pixels(const Conv2dSpec& s, const PoolSpec* pool, const float* x, const float* w,
                      const Epilogue& epilogue, float* y);

}  // namespace cnnfast
