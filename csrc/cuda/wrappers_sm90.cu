#include "cuda/hopper.h"
#include "cuda/wrappers.h"

namespace cnnfast::cuda {
namespace {

constexpr int kTileBytes = 64 * 128;

struct Place {
  int kind;  // 2, 3: coordinates of a tile; 4: windows
  int at[4], tap[2];
};

// Any number of threads: one asks for the tile, all wait for it.
__device__ __forceinline__ void fetch(unsigned char* tile, uint64_t* barrier, const TensorMap& map,
                                      const Place& p) {
  if (threadIdx.x == 0) {
    ptx::barrier_init(barrier, 1);
    ptx::barrier_init_fence();
    ptx::barrier_expect(barrier, kTileBytes);
    if (p.kind == 2) ptx::copy_tile(tile, map, barrier, p.at[0], p.at[1]);
    if (p.kind == 3) ptx::copy_tile(tile, map, barrier, p.at[0], p.at[1], p.at[2]);
    if (p.kind == 4)
      ptx::copy_windows(tile, map, barrier, p.at[0], p.at[1], p.at[2], p.at[3], p.tap[0], p.tap[1]);
  }
  __syncthreads();
  ptx::barrier_wait(barrier, 0);
}

__global__ void __launch_bounds__(64)
    try_copy(const __grid_constant__ TensorMap map, Place p, uint32_t* out) {
  ptx::begin_kernel();
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(CNNFAST_SHIM)
  CNNFAST_DYNAMIC_SHARED(unsigned char, shared);
  fetch(shared, reinterpret_cast<uint64_t*>(shared + kTileBytes), map, p);
  const auto* words = reinterpret_cast<const uint32_t*>(shared);
  for (int i = static_cast<int>(threadIdx.x); i < kTileBytes / 4; i += 64) out[i] = words[i];
#endif
}

template <class T>
__global__ void __launch_bounds__(128)
    try_wgmma(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap w, int first,
              const float* given, float* out) {
  ptx::begin_kernel();
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(CNNFAST_SHIM)
  CNNFAST_DYNAMIC_SHARED(unsigned char, shared);
  auto* barriers = reinterpret_cast<uint64_t*>(shared + 2 * kTileBytes);
  const Place whole{2, {0, 0, 0, 0}, {0, 0}};
  fetch(shared, barriers, x, whole);
  fetch(shared + kTileBytes, barriers + 1, w, whole);
  const int lane = static_cast<int>(threadIdx.x) % 32,
            row = static_cast<int>(threadIdx.x) / 32 * 16 + lane / 4;
  float d[32];
#pragma unroll
  for (int i = 0; i < 32; ++i) d[i] = given[(row + i / 2 % 2 * 8) * 64 + i / 4 * 8 + lane % 4 * 2 + i % 2];
  ptx::wgmma_fence();
  ptx::wgmma(d, ptx::tile_descriptor(shared) + first / 8,
             ptx::tile_descriptor(shared + kTileBytes) + first / 8, true, T{});
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
#pragma unroll
  for (int i = 0; i < 32; ++i) out[(row + i / 2 % 2 * 8) * 64 + i / 4 * 8 + lane % 4 * 2 + i % 2] = d[i];
#endif
}

void launch_copy(const TensorMap& map, const Place& p, void* out, cudaStream_t stream) {
  CNNFAST_LAUNCH((try_copy), dim3(1), dim3(64), kTileBytes + 8, stream, map, p, static_cast<uint32_t*>(out));
}

}  // namespace

void run_copy_tile(const void* x, int64_t c, int64_t taps, int64_t rows, int at_c, int at_tap, int at_row,
                   void* out, cudaStream_t stream) {
  if (taps == 0)
    return launch_copy(tiled_map(false, x, 2, {c, rows, 1, 1}, 64), {2, {at_c, at_row, 0, 0}, {0, 0}}, out,
                       stream);
  launch_copy(tiled_map(false, x, 3, {c, taps, rows, 1}, 64), {3, {at_c, at_tap, at_row, 0}, {0, 0}}, out,
              stream);
}

void run_copy_windows(const void* x, const WindowsAt& s, void* out, cudaStream_t stream) {
  const TensorMap map = window_map(false, x, {s.c, s.w, s.h, s.n}, s.lower, s.upper, s.step, 64);
  launch_copy(map, {4, {s.at[0], s.at[1], s.at[2], s.at[3]}, {s.tap[0], s.tap[1]}}, out, stream);
}

void run_wgmma(bool half, const void* x, const void* w, int first, const float* d, float* out,
               cudaStream_t stream) {
  const TensorMap maps[2] = {tiled_map(half, x, 2, {64, 64, 1, 1}, 64),
                             tiled_map(half, w, 2, {64, 64, 1, 1}, 64)};
  const size_t shared = 2 * kTileBytes + 16;
  if (half)
    CNNFAST_LAUNCH((try_wgmma<Half>), dim3(1), dim3(128), shared, stream, maps[0], maps[1], first, d, out);
  else
    CNNFAST_LAUNCH((try_wgmma<BFloat16>), dim3(1), dim3(128), shared, stream, maps[0], maps[1], first, d,
                   out);
}

}  // namespace cnnfast::cuda
