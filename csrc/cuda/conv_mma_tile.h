// What the convolutions by mma.sync share: products of fragments, results of a warp handed on row by row, and
// how a sum is cut into parts.
#pragma once
#include <algorithm>
#include <numeric>

#include "cuda/conv_mma_arguments.h"

namespace cnnfast::cuda {

__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                         BFloat16) {
  ptx::mma_m16n8k16_bf16(d, a, b);
}
__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                         Half) {
  ptx::mma_m16n8k16_f16(d, a, b);
}
__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                         float) {
  ptx::mma_m16n8k8_tf32(d, a, b);
}

// Elements as the tensor core takes them: float32 is rounded to tf32.
template <class T, int N>
__device__ __forceinline__ void rounded(uint32_t (&r)[N]) {
  if constexpr (sizeof(T) == 4) {
#pragma unroll
    for (int i = 0; i < N; ++i) r[i] = ptx::to_tf32(__uint_as_float(r[i]));
  }
}

// Hands the warp's results on, N neighbouring columns of one row at a time: put(row, column, values, asked),
// from the first of the block on; `asked` is what ask(row, column) gave one call before. All copies have
// been waited for.
template <class Tile, int N, class Ask, class Put>
__device__ __forceinline__ void put_results(const float (&sums)[Tile::WM / 16][Tile::WN / 8][4],
                                            float* shared, Ask&& ask, Put&& put) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int first_row = warp % Tile::kWarpsM * Tile::WM, first_column = warp / Tile::kWarpsM * Tile::WN;
  float* own = shared + warp * 16 * Tile::kLd;
  constexpr int kPerRow = Tile::WN / N, kSteps = 16 * kPerRow / 32, kAll = Tile::WM / 16 * kSteps;
  const auto row_of = [&](int step) { return (32 * step + lane) / kPerRow; };
  const auto column_of = [&](int step) { return (32 * step + lane) % kPerRow * N; };
  const auto asked = [&](int step) { return ask(first_row + row_of(step), first_column + column_of(step)); };
  auto next = asked(0);
  __syncthreads();  // others may still read operands there
#pragma unroll 1    // what follows the sums is long: it is there once, for all rows of the warp
  for (int i = 0; i < Tile::WM / 16; ++i) {
#pragma unroll
    for (int of = 0; of < Tile::WM / 16; ++of) {  // registers have no index
      if (of != i) continue;
#pragma unroll
      for (int j = 0; j < Tile::WN / 8; ++j) {
        float* at = own + lane / 4 * Tile::kLd + 8 * j + lane % 4 * 2;
        *reinterpret_cast<float2*>(at) = make_float2(sums[of][j][0], sums[of][j][1]);
        *reinterpret_cast<float2*>(at + 8 * Tile::kLd) = make_float2(sums[of][j][2], sums[of][j][3]);
      }
    }
    __syncwarp();
#pragma unroll 1
    for (int e = 0; e < kSteps; ++e) {
      const int step = i * kSteps + e, row = row_of(e), column = column_of(e);
      const auto now = next;
      if (step + 1 < kAll) next = asked(step + 1);
      float values[N];
#pragma unroll
      for (int k = 0; k < N; k += 4) {
        const float4 v = *reinterpret_cast<const float4*>(own + row * Tile::kLd + column + k);
        values[k] = v.x, values[k + 1] = v.y, values[k + 2] = v.z, values[k + 3] = v.w;
      }
      put(first_row + 16 * i + row, first_column + column, values, now);
    }
    __syncwarp();
  }
}

// Sums of part `part` for the second pass.
template <int N, class T>
__device__ __forceinline__ void put_partial(const Arguments<T>& a, int64_t row, int column, int columns,
                                            const float (&values)[N]) {
  float* at = a.partial + row * columns + column;
  if (column + N <= columns && columns % 4 == 0) {
#pragma unroll
    for (int k = 0; k < N; k += 4)
      *reinterpret_cast<float4*>(at + k) =
          make_float4(values[k], values[k + 1], values[k + 2], values[k + 3]);
    return;
  }
#pragma unroll
  for (int k = 0; k < N; ++k)
    if (column + k < columns) at[k] = values[k];
}

// --- choice of block -------------------------------------------------------------------------------

struct BlockShape {
  int m, n, step;  // step in bytes
};

inline int64_t blocks(const BlockShape& shape, int64_t rows, int64_t columns, int64_t groups) {
  return ceil_div(rows, shape.m) * ceil_div(columns, shape.n) * groups;
}

// Parts of a sum of so many steps: as many as keep the device busy, none shorter than eight steps.
inline int choose_splits(int64_t have, int64_t steps) {
  const int64_t wanted = 2 * multiprocessors() / std::max<int64_t>(have, 1);
  return static_cast<int>(std::clamp<int64_t>(std::min(wanted, steps / 8), 1, 32));
}

// The parts that are not empty.
inline int used_splits(int64_t steps, int splits) {
  return static_cast<int>(ceil_div(steps, ceil_div(steps, std::max(splits, 1))));
}

// Bytes of neighbouring channels that every pixel has, aligned: 16, 8 or 0.
inline int piece(DType type, const ConvMma& s) {
  const int64_t size = size_of(type), bytes = std::gcd(s.c, s.ldx) * size;
  return bytes % 16 == 0 ? 16 : bytes % 8 == 0 ? 8 : 0;
}

}  // namespace cnnfast::cuda
