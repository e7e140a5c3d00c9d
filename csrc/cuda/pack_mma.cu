// Weights and channels as the convolutions on tensor cores read them.
#include "cuda/conv_mma.h"
#include "cuda/index.h"

namespace cnnfast::cuda {
namespace {

// One thread writes one element; neighbours in the packed array lie o apart in w, which is read once and
// small.
template <class From, class To>
__global__ void __launch_bounds__(256)
    pack_kernel(const PackMma s, int64_t count, const From* w, To* packed) {
  ptx::begin_kernel();
  const int64_t rows = s.adjoint ? s.c : s.o, inner = s.adjoint ? s.o : s.c;
  const int64_t taps = s.rows * s.columns;
  for (int64_t i = blockIdx.x * 256ll + threadIdx.x; i < count; i += gridDim.x * 256ll) {
    const int64_t k = i % s.padded, tap = i / s.padded % taps, row = i / s.padded / taps % rows;
    const int64_t group = i / s.padded / taps / rows;
    float value = 0;
    if (k < inner) {
      const int64_t t = s.adjoint ? taps - 1 - tap : tap;
      const int64_t r = s.first_row + t / s.columns * s.step_row,
                    c = s.first_column + t % s.columns * s.step_column;
      const int64_t channel = s.adjoint ? row : k, output = s.adjoint ? k : row;
      value = to_float(w[((r * s.kw + c) * s.c + channel) * s.groups * s.o + group * s.o + output]);
    }
    packed[i] = from_float<To>(value);
  }
}

template <class From, class To>
__global__ void __launch_bounds__(256)
    copy_rows_kernel(const From* x, To* y, int64_t count, int c, Divider to_c) {
  ptx::begin_kernel();
  for (int64_t i = blockIdx.x * 256ll + threadIdx.x; i < count; i += gridDim.x * 256ll) {
    const Divided at = to_c.divide(i);
    y[i] = from_float<To>(at.rest < c ? to_float(x[at.quotient * c + at.rest]) : 0.0f);
  }
}

}  // namespace

void pack_mma(DType from, DType to, const PackMma& s, const void* w, void* packed, cudaStream_t stream) {
  dispatch_float(from, [&](auto source) {
    dispatch_float(to, [&](auto target) {
      using From = decltype(source);
      using To = decltype(target);
      if (s.size() == 0) return;
      CNNFAST_LAUNCH((pack_kernel<From, To>), dim3(blocks_for(s.size(), 256)), dim3(256), 0, stream, s,
                     s.size(), static_cast<const From*>(w), static_cast<To*>(packed));
    });
  });
}

void copy_rows(DType from, DType to, int64_t rows, int64_t c, int64_t to_c, const void* x, void* y,
               cudaStream_t stream) {
  if (rows == 0) return;
  dispatch_float(from, [&](auto source) {
    dispatch_float(to, [&](auto target) {
      using From = decltype(source);
      using To = decltype(target);
      CNNFAST_LAUNCH((copy_rows_kernel<From, To>), dim3(blocks_for(rows * to_c, 256)), dim3(256), 0, stream,
                     static_cast<const From*>(x), static_cast<To*>(y), rows * to_c, static_cast<int>(c),
                     Divider(to_c));
    });
  });
}

}  // namespace cnnfast::cuda
