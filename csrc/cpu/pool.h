// Pooling, NHWC.
#pragma once
#include <cstdint>

namespace cnnfast {

struct PoolSpec {
  int64_t n, h, w, c;
  // Windows: taps that no window has inside the picture are cut off already.
  int64_t kh, kw, sh, sw, dh, dw;
  int64_t pt, pl;  // rows above and columns left of the picture where the first window starts
  int64_t p, q;
  // Averages divide by the part of this window that lies in the padded picture, or in the picture.
  int64_t window_h, window_w;
  int64_t top, bottom, left, right;
  bool count_padding;
  int64_t ldx, ldy;  // floats from pixel to pixel: c, more where x or y is part of wider pixels
};

// positions: index h * W + w of each maximum in its plane, or null.
void max_pool2d(const PoolSpec& s, const float* x, float* y, int64_t* positions);
void avg_pool2d(const PoolSpec& s, const float* x, float* y);
// Root of the sum of squares of every window of `size` pixels: x and y are dense, s that of the average.
void l2_pool2d(const PoolSpec& s, int64_t size, const float* x, float* y);
// Over `pixels` pixels of each picture.
// x has ldx floats from pixel to pixel.
void global_max_pool(int64_t n, int64_t pixels, int64_t c, int64_t ldx, const float* x, float* y);
void global_avg_pool(int64_t n, int64_t pixels, int64_t c, int64_t ldx, const float* x, float* y);

}  // namespace cnnfast
