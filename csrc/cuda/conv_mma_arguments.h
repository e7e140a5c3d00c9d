// What the kernels of tensor-core convolutions share: their arguments, and what follows the sums.
#pragma once
#include "cuda/activation.h"
#include "cuda/conv_mma.h"
#include "cuda/device.h"

namespace cnnfast::cuda {

// What a kernel reads, in 32 bits: ConvMma, arrays and epilogue.
template <class T>
struct Arguments {
  const T* x;
  const T* w;  // in gradients of weights, g
  T* y;
  float* partial;  // null where the sum is in one part
  const float* bias;
  const T* residual;
  int activation;
  float slope;
  int h, width, c, kh, kw, o, groups, sh, sw, dh, dw, pt, pl, p, q, rows, depth;
  int64_t ldx, y_picture, y_row, y_column;
  int tiles_m, tiles_n, steps;  // steps of a part
  bool rows_first, scattered;
  bool whole;  // vectors of channels lie wholly in y, bias and residual, aligned
};

inline void check_sizes(const ConvMma& s) {
  constexpr int64_t kMost = (int64_t{1} << 31) - 1;
  if (s.rows() + 128 > kMost || s.depth() + 128 > kMost || s.groups * s.o > kMost || s.groups > 65535 ||
      (s.h + s.kh * s.dh + 1) * (s.w + s.kw * s.dw + 1) > kMost / 2)
    throw std::invalid_argument("convolution on tensor cores: expected sizes that 32 bits can count");
}

template <class T>
Arguments<T> arguments(const ConvMma& s, const void* x, const void* w, void* y,
                       const MmaEpilogue& epilogue = {}) {
  check_sizes(s);
  Arguments<T> a{};
  const auto narrow = [](int64_t v) { return static_cast<int>(v); };
  a.x = static_cast<const T*>(x), a.w = static_cast<const T*>(w), a.y = static_cast<T*>(y);
  a.h = narrow(s.h), a.width = narrow(s.w), a.c = narrow(s.c), a.kh = narrow(s.kh), a.kw = narrow(s.kw);
  a.o = narrow(s.o), a.groups = narrow(s.groups), a.sh = narrow(s.sh), a.sw = narrow(s.sw);
  a.dh = narrow(s.dh), a.dw = narrow(s.dw), a.pt = narrow(s.pt), a.pl = narrow(s.pl);
  a.p = narrow(s.p), a.q = narrow(s.q), a.rows = narrow(s.rows()), a.depth = narrow(s.depth());
  a.ldx = s.ldx, a.y_picture = s.y_picture, a.y_row = s.y_row, a.y_column = s.y_column;
  constexpr int kValues = 16 / static_cast<int>(sizeof(T));
  a.bias = epilogue.bias, a.residual = static_cast<const T*>(epilogue.residual);
  a.activation = epilogue.activation, a.slope = epilogue.slope;
  a.whole = (s.o | s.y_column | s.y_row | s.y_picture) % kValues == 0 && aligned(16, y, epilogue.residual) &&
            aligned(4 * kValues, epilogue.bias);
  a.scattered = s.y_row != s.q * s.y_column || s.y_picture != s.p * s.y_row;
  return a;
}

// The block's tile; neighbours in time share what is read more of.
template <class T>
__device__ __forceinline__ void block_tile(const Arguments<T>& a, int block, int& m, int& n) {
  m = a.rows_first ? block % a.tiles_m : block / a.tiles_n;
  n = a.rows_first ? block / a.tiles_m : block % a.tiles_n;
}

// Where output pixel m lies.
template <class T>
__device__ __forceinline__ int64_t place(const Arguments<T>& a, int m) {
  if (!a.scattered) return m * a.y_column;
  const int q = m % a.q, p = m / a.q % a.p, n = m / a.q / a.p;
  return n * a.y_picture + p * a.y_row + q * a.y_column;
}

// 16 bytes that were asked for. In words: a compiler that sees elements takes them apart as they come, which
// is to wait for them.
using Asked = Vector<uint32_t, 4>;

// Those of the residual that finish() adds to the channels of output pixel m, asked for well before the sums
// are there: memory takes as long as a thousand instructions. Only where `whole`; nothing outside of the
// result.
template <class T>
__device__ __forceinline__ Asked ask(const Arguments<T>& a, int group, int m, int column) {
  Asked residual{};
  if (a.residual && a.whole && m < a.rows && column < a.o)
    residual = *reinterpret_cast<const Asked*>(a.residual + place(a, m) + group * a.o + column);
  return residual;
}

// Bias, residual (what ask() gave) and activation, and the result in T, for N channels of one output pixel.
template <class T, int N>
__device__ __forceinline__ void finish(const Arguments<T>& a, int group, int m, int column,
                                       float (&values)[N], const Asked& asked) {
  const int first = group * a.o + column, count = min(N, a.o - column);
  const int64_t at = place(a, m) + first;
  if (a.bias && a.whole) {
    float b[N];
    load_vector<N>(a.bias + first, b);
#pragma unroll
    for (int k = 0; k < N; ++k) values[k] += b[k];
  } else if (a.bias) {
#pragma unroll
    for (int k = 0; k < N; ++k)
      if (k < count) values[k] += a.bias[first + k];
  }
  if (a.residual && a.whole) {
    const auto residual = detail::bit_cast<Vector<T, N>>(asked);
#pragma unroll
    for (int k = 0; k < N; ++k) values[k] += to_float(residual.values[k]);
  } else if (a.residual) {
#pragma unroll
    for (int k = 0; k < N; ++k)
      if (k < count) values[k] += to_float(a.residual[at + k]);
  }
  activate_all(values, a.activation, a.slope);
  if (a.whole) {
    store_vector<N>(a.y + at, values);
    return;
  }
#pragma unroll
  for (int k = 0; k < N; ++k)
    if (k < count) a.y[at + k] = from_float<T>(values[k]);
}

}  // namespace cnnfast::cuda
