// Kernels that are wrong on purpose, with which the tests show that the stand-in finds what is wrong. Built
// for the host alone.
#include "cuda/selftest_shim.h"

#include "cuda/device.h"

namespace cnnfast::cuda {
namespace {

// y[i] = x[i + 32], around the end, through shared memory.
__global__ void rotate_kernel(const float* x, float* y, bool with_barrier) {
  ptx::begin_kernel();
  CNNFAST_SHARED(float, values, [256]);
  values[threadIdx.x] = x[threadIdx.x];
  if (with_barrier) __syncthreads();
  y[threadIdx.x] = values[(threadIdx.x + 32) % 256];
}

// Sums of 64 rows of 128 floats that pass a ring of four buffers in shared memory.
template <int Pending>
__global__ void ring_kernel(const float* x, float* y) {
  ptx::begin_kernel();
  constexpr int kStages = 4, kRows = 64, kWidth = 128;
  CNNFAST_DYNAMIC_SHARED(float, ring);
  const auto fetch = [&](int row) {
    if (row < kRows)
      ptx::cp_async<16>(ring + row % kStages * kWidth + 4 * threadIdx.x, x + row * kWidth + 4 * threadIdx.x);
    ptx::cp_commit();
  };
  for (int row = 0; row < kStages - 1; ++row) fetch(row);
  float sum[4] = {};
  for (int row = 0; row < kRows; ++row) {
    ptx::cp_wait<Pending>();
    __syncthreads();
    for (int i = 0; i < 4; ++i) sum[i] += ring[row % kStages * kWidth + threadIdx.x + 32 * i];
    __syncthreads();
    fetch(row + kStages - 1);
  }
  for (int i = 0; i < 4; ++i) y[threadIdx.x + 32 * i] = sum[i];
}

__global__ void late_kernel(float* y) { y[threadIdx.x] = 1; }

__global__ void half_barrier_kernel(float* y) {
  ptx::begin_kernel();
  if (threadIdx.x < 40)
    __syncthreads();
  else {
    __syncthreads();
  }
  y[threadIdx.x] = 1;
}

__global__ void half_shuffle_kernel(float* y) {
  ptx::begin_kernel();
  float v = 1;
  if (threadIdx.x < 16) v = __shfl_xor_sync(0xffffffffu, v, 1);
  y[threadIdx.x] = v;
}

__global__ void beside_kernel(float* y, int offset) {
  ptx::begin_kernel();
  y[offset] = 1;
}

// a is 16 x K, b is K x 8, both row-major; y = a b through fragments as the instruction wants them.
template <class T>
__global__ void mma_kernel(const float* a, const float* b, float* y) {
  ptx::begin_kernel();
  CNNFAST_SHARED(T, tile_a, [16 * 16]);
  CNNFAST_SHARED(T, tile_b, [16 * 16]);  // columns of b as rows, then zeros
  const int lane = threadIdx.x;
  for (int i = lane; i < 256; i += 32) {
    tile_a[i] = from_float<T>(a[i]);
    tile_b[i] = from_float<T>(i < 128 ? b[i % 16 * 8 + i / 16] : 0.0f);
  }
  __syncwarp();
  uint32_t fa[4], fb[4];
  ptx::ldmatrix_x4(fa, tile_a + lane % 16 * 16 + lane / 16 * 8);
  ptx::ldmatrix_x4(fb, tile_b + (lane % 8 + lane / 16 * 8) * 16 + lane / 8 % 2 * 8);
  float d[4] = {};
  const uint32_t column[2] = {fb[0], fb[1]};
  if constexpr (sizeof(T) == sizeof(Half) && std::is_same_v<T, Half>)
    ptx::mma_m16n8k16_f16(d, fa, column);
  else
    ptx::mma_m16n8k16_bf16(d, fa, column);
  for (int i = 0; i < 4; ++i) y[(lane / 4 + 8 * (i / 2)) * 8 + 2 * (lane % 4) + i % 2] = d[i];
}

}  // namespace

void selftest(const std::string& name, const float* a, const float* b, float* y, cudaStream_t stream) {
  if (name == "rotate" || name == "rotate without barrier")
    CNNFAST_LAUNCH((rotate_kernel), 1, 256, 0, stream, a, y, name == "rotate");
  else if (name == "ring")
    CNNFAST_LAUNCH((ring_kernel<2>), 1, 32, 4 * 128 * 4, stream, a, y);
  else if (name == "ring that waits too short")
    CNNFAST_LAUNCH((ring_kernel<3>), 1, 32, 4 * 128 * 4, stream, a, y);
  else if (name == "no beginning")
    CNNFAST_LAUNCH((late_kernel), 1, 32, 0, stream, y);
  else if (name == "two barriers")
    CNNFAST_LAUNCH((half_barrier_kernel), 1, 64, 0, stream, y);
  else if (name == "half a shuffle")
    CNNFAST_LAUNCH((half_shuffle_kernel), 1, 32, 0, stream, y);
  else if (name == "write beside")
    CNNFAST_LAUNCH((beside_kernel), 1, 1, 0, stream, y, 256);
  else if (name == "bfloat16 mma")
    CNNFAST_LAUNCH((mma_kernel<BFloat16>), 1, 32, 0, stream, a, b, y);
  else if (name == "float16 mma")
    CNNFAST_LAUNCH((mma_kernel<Half>), 1, 32, 0, stream, a, b, y);
  else
    throw std::invalid_argument("selftest: unknown name");
}

}  // namespace cnnfast::cuda
