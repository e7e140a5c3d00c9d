// Included first by every .cu file: the CUDA language, PTX, element types and the launch of a kernel.
// Compiled by nvcc, or by an ordinary C++ compiler against host_shim.h.
#pragma once
#include "cuda/check.h"
#include "cuda/element.h"

#if defined(CNNFAST_SHIM)
#include "cuda/host_shim.h"
#else
#include <cuda_runtime.h>

#include <utility>

#include "cuda/ptx.h"

// Static shared memory: CNNFAST_SHARED(float, tile, [32][33]).
#define CNNFAST_SHARED(T, name, ...) __shared__ T name __VA_ARGS__
// The block's dynamic shared memory as T*, aligned to 1024 bytes.
#define CNNFAST_DYNAMIC_SHARED(T, name)                                     \
  extern __shared__ __align__(1024) unsigned char cnnfast_dynamic_shared[]; \
  T* name = reinterpret_cast<T*>(cnnfast_dynamic_shared)

namespace cnnfast::cuda {
template <class... P, class... A>
cudaError_t launch_dependent(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
                             cudaStream_t stream, A&&... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = block, config.dynamicSmemBytes = shared_bytes;
  config.stream = stream, config.attrs = &attribute, config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, std::forward<A>(arguments)...);
}
}  // namespace cnnfast::cuda

// CNNFAST_LAUNCH((kernel<float, 4>), grid, block, bytes of dynamic shared memory, stream, arguments...)
#define CNNFAST_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                      \
  do {                                                                                                      \
    const auto cnnfast_kernel = CNNFAST_UNWRAP kernel;                                                      \
    const size_t cnnfast_shared = (shared_bytes);                                                           \
    if (cnnfast_shared > 48 * 1024)                                                                         \
      CNNFAST_CUDA_CHECK(cudaFuncSetAttribute(cnnfast_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,  \
                                              static_cast<int>(cnnfast_shared)));                           \
    if (::cnnfast::cuda::dependent_launches())                                                              \
      CNNFAST_CUDA_CHECK(::cnnfast::cuda::launch_dependent(cnnfast_kernel, (grid), (block), cnnfast_shared, \
                                                           (stream), __VA_ARGS__));                         \
    else                                                                                                    \
      cnnfast_kernel<<<(grid), (block), cnnfast_shared, (stream)>>>(__VA_ARGS__);                           \
    ::cnnfast::cuda::after_launch(#kernel, (stream), __FILE__, __LINE__);                                   \
  } while (false)
#endif

#define CNNFAST_UNWRAP(...) __VA_ARGS__

namespace cnnfast::cuda {

template <class T>
__device__ __forceinline__ float load(const T* p) {
  return to_float(*p);
}
template <class T>
__device__ __forceinline__ void store(T* p, float value) {
  *p = from_float<T>(value);
}

// N elements that are read and written at once.
template <class T, int N>
struct alignas(sizeof(T) * N) Vector {
  T values[N];
};
template <int N, class T>
__device__ __forceinline__ void load_vector(const T* p, float (&values)[N]) {
  const Vector<T, N> v = *reinterpret_cast<const Vector<T, N>*>(p);
#pragma unroll
  for (int i = 0; i < N; ++i) values[i] = to_float(v.values[i]);
}
template <int N, class T>
__device__ __forceinline__ void store_vector(T* p, const float (&values)[N]) {
  Vector<T, N> v;
#pragma unroll
  for (int i = 0; i < N; ++i) v.values[i] = from_float<T>(values[i]);
  *reinterpret_cast<Vector<T, N>*>(p) = v;
}

// Whether all pointers are multiples of so many bytes.
template <class... P>
bool aligned(size_t bytes, P... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % bytes == 0) && ...);
}

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Blocks of a grid-stride loop over `count` items: enough to fill any GPU, few enough to be worth starting.
inline unsigned blocks_for(int64_t count, int per_block) {
  const int64_t blocks = ceil_div(count, per_block);
  return static_cast<unsigned>(blocks < 1 ? 1 : blocks > 132 * 16 ? 132 * 16 : blocks);
}

}  // namespace cnnfast::cuda
