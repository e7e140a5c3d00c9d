// Windows of pictures as operands of tiles.h.
#pragma once
#include "core/spec.h"
#include "cuda/tiles.h"

namespace cnnfast::cuda {

// How a window lies on a picture of NHWC: pixel (p, q) of the result begins at row p sh + top, column q sw +
// left, and tap (i, j) lies i dh, j dw further. Taps are counted with the channels of a group innermost.
struct Window {
  int h, w, c;  // of the picture; c: channels of all groups
  int sh, sw, dh, dw;
  int top, left;
  Divisor taps_wide;  // taps side by side
  Divisor channels;   // of a group
  Divisor pixels;     // of the result, in one picture
  Divisor columns;    // of the result
};

// What the windows see: (pixel, tap) with pixels outer and contiguous along K for products with weights, or
// taps outer and pixels along K for the gradient of weights.
template <class T, int V, bool PixelsOuter>
struct WindowOperand {
  static constexpr int kVector = V;
  static constexpr bool kAlongK = PixelsOuter;
  struct Pixel {
    int64_t offset;
    int row, column;
  };
  struct Tap {
    int64_t offset;
    int row, column;
  };
  const T* data;
  Window window;

  __device__ Pixel pixel(int m, int count) const {
    if (m >= count) return {0, kNowhere, kNowhere};
    const Window& s = window;
    const int n = s.pixels.quotient(m), rest = s.pixels.remainder(m, n);
    const int p = s.columns.quotient(rest), q = s.columns.remainder(rest, p);
    const int row = p * s.sh + s.top, column = q * s.sw + s.left;
    return {((static_cast<int64_t>(n) * s.h + row) * s.w + column) * s.c, row, column};
  }
  __device__ Tap tap(int k, int count) const {
    if (k >= count) return {0, kNowhere, kNowhere};
    const Window& s = window;
    const int t = s.channels.quotient(k), c = s.channels.remainder(k, t);
    const int i = s.taps_wide.quotient(t), j = s.taps_wide.remainder(t, i);
    const int row = i * s.dh, column = j * s.dw;
    return {(static_cast<int64_t>(row) * s.w + column) * s.c + c, row, column};
  }
  __device__ auto outer(int i, int count) const {
    if constexpr (PixelsOuter)
      return pixel(i, count);
    else
      return tap(i, count);
  }
  __device__ auto inner(int k, int count) const {
    if constexpr (PixelsOuter)
      return tap(k, count);
    else
      return pixel(k, count);
  }
  using Outer = std::conditional_t<PixelsOuter, Pixel, Tap>;
  using Inner = std::conditional_t<PixelsOuter, Tap, Pixel>;

  __device__ void read(const Outer& o, const Inner& i, float (&values)[V]) const {
    const int row = o.row + i.row, column = o.column + i.column;
    if (static_cast<unsigned>(row) < static_cast<unsigned>(window.h) &&
        static_cast<unsigned>(column) < static_cast<unsigned>(window.w)) {
      load_vector<V>(data + (o.offset + i.offset), values);
    } else {
#pragma unroll
      for (int v = 0; v < V; ++v) values[v] = 0.0f;
    }
  }
};

// That of a convolution.
inline Window window_of(const Conv2dSpec& s) {
  Window window;
  window.h = checked(s.h);
  window.w = checked(s.w);
  window.c = checked(s.c);
  window.sh = checked(s.sh);
  window.sw = checked(s.sw);
  window.dh = checked(s.dh);
  window.dw = checked(s.dw);
  window.top = -checked(s.pt);
  window.left = -checked(s.pl);
  window.taps_wide = Divisor(s.kw);
  window.channels = Divisor(s.c / s.groups);
  window.pixels = Divisor(s.p * s.q);
  window.columns = Divisor(s.q);
  // The furthest tap of the last pixel is counted in 32 bits.
  checked(s.p * s.sh + s.kh * s.dh);
  checked(s.q * s.sw + s.kw * s.dw);
  return window;
}

}  // namespace cnnfast::cuda
