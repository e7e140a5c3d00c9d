// Shapes and parameters of an operator call as named integers. The Python side has validated them.
#pragma once
#include <cstdint>

namespace cnnfast {

struct Conv2dSpec {
  int64_t n, h, w, c;  // input, NHWC
  int64_t kh, kw, o;   // weight HWIO; o counts the channels of all groups
  int64_t groups;
  int64_t sh, sw, dh, dw;  // stride, dilation
  int64_t pt, pl;          // zero rows above, zero columns left; below and right follow from p, q
  int64_t p, q;            // output rows, columns
  int64_t ldx, ldy;        // floats from pixel to pixel: c and o, more where x or y is part of wider pixels

  int64_t depth() const { return kh * kw * (c / groups); }
  double flops() const {
    return 2.0 * static_cast<double>(n * p * q) * static_cast<double>(o) * static_cast<double>(depth());
  }
};

// Whether the kernel lies on the whole picture, pixel on pixel: a dense layer.
inline bool covers_picture(const Conv2dSpec& s) {
  return s.groups == 1 && s.p == 1 && s.q == 1 && s.kh == s.h && s.kw == s.w && s.pt == 0 && s.pl == 0 &&
         (s.kh == 1 || s.dh == 1) && (s.kw == 1 || s.dw == 1);
}

// Transpose convolution: weight KH,KW,C_out/groups,C_in; y[i*s + k*d - pad] += x[i] w[k].
struct ConvTransposeSpec {
  int64_t n, h, w, c;
  int64_t kh, kw, o;
  int64_t groups;
  int64_t sh, sw, dh, dw;
  int64_t pt, pl;
  int64_t p, q;
  int64_t ldx, ldy;
};

}  // namespace cnnfast
