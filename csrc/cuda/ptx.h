// All inline PTX: thin wrappers, each emulated by host_shim.h under the same name. Instructions of compute
// capability 8.0 and up trap on older devices, whose launchers never choose them.
#pragma once
#include <cstdint>

namespace cnnfast::cuda::ptx {

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// --- dependent launches (sm_90) ---------------------------------------------------------------------

// The first thing in every kernel. Lets blocks of the next kernel come as soon as there is room for them, and
// waits until the kernel before is over and what it wrote can be seen. As every kernel does, a kernel runs
// after all before it. Does nothing after an ordinary launch.
__device__ __forceinline__ void begin_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;\ngriddepcontrol.wait;\n" ::: "memory");
#endif
}

// --- cp.async: global to shared memory without registers (sm_80) -----------------------------------

// 16 bytes, past the first level of cache, or 8 or 4, for channels that are no multiple of 16 bytes; zeros
// where `valid` is false: `global` is not read then. Both addresses are multiples of the size.
template <int Bytes>
__device__ __forceinline__ void cp_async(void* shared, const void* global, bool valid = true) {
  static_assert(Bytes == 16 || Bytes == 8 || Bytes == 4, "sizes of cp.async");
#if __CUDA_ARCH__ >= 800
  const int bytes = valid ? Bytes : 0;
  if constexpr (Bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(shared)), "l"(global),
                 "r"(bytes)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %3, %2;\n" ::"r"(shared_address(shared)), "l"(global),
                 "r"(bytes), "n"(Bytes)
                 : "memory");
#else
  __trap();
#endif
}
__device__ __forceinline__ void cp_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
}
// Waits until at most N of this thread's groups are on their way; a barrier must follow before others read.
template <int N>
__device__ __forceinline__ void cp_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;\n" ::"n"(N) : "memory");
#endif
}

// --- ldmatrix: 8x8 tiles of 2-byte elements (sm_75) ------------------------------------------------

// Lane l gives the address of row l % 8 of tile l / 8; it receives elements 2 (l % 4) and the next of row l /
// 4 of every tile.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
// As above with every tile transposed: elements (2 (l % 4), l / 4) and (2 (l % 4) + 1, l / 4).
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];\n"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}

// --- mma: d += a b on tensor cores, float32 sums (sm_80) -------------------------------------------
// a is row-major 16 x K, b column-major K x 8. Lane l holds d at rows l / 4 and l / 4 + 8, columns
// 2 (l % 4) and the next.

#if __CUDA_ARCH__ >= 800
#define CNNFAST_MMA(name, shape, type)                                                               \
  __device__ __forceinline__ void name(float(&d)[4], const uint32_t(&a)[4], const uint32_t(&b)[2]) { \
    asm volatile("mma.sync.aligned." shape ".row.col.f32." type "." type                             \
                 ".f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};\n"                         \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                    \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                \
  }
#else
#define CNNFAST_MMA(name, shape, type) \
  __device__ __forceinline__ void name(float(&)[4], const uint32_t(&)[4], const uint32_t(&)[2]) { __trap(); }
#endif
CNNFAST_MMA(mma_m16n8k16_bf16, "m16n8k16", "bf16")
CNNFAST_MMA(mma_m16n8k16_f16, "m16n8k16", "f16")
// float32 bits of which the tensor core reads the upper 19; round with to_tf32 first.
CNNFAST_MMA(mma_m16n8k8_tf32, "m16n8k8", "tf32")
#undef CNNFAST_MMA
// To the nearest tf32, ties away from zero.
__device__ __forceinline__ uint32_t to_tf32(float x) {
#if __CUDA_ARCH__ >= 800
  uint32_t r;
  asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(r) : "f"(x));
  return r;
#else
  __trap();
  return 0;
#endif
}

}  // namespace cnnfast::cuda::ptx
