// The CUDA language for an ordinary C++ compiler: kernels run on the host, the threads of a block as fibers,
// one block after the other. What it is strict about, so that a kernel that passes is likely to be right on a
// GPU:
//  - shared memory is NaN at the start of every block, and cp.async destinations until they are waited for;
//  - all live threads of a block must reach the same __syncthreads, and all lanes of a mask the same warp
//    operation, or the launch fails with the line, block and thread;
//  - threads run as far as they can, to the next barrier, warp by warp: a missing barrier reads NaN or old
//    values. The order is the schedule: "warp-greedy" (ascending), "reverse", "shuffled" (seeded).
// Under AddressSanitizer every access outside of an array is reported with its line.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>

#include "cuda/element.h"
#include "cuda/host_runtime.h"

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __grid_constant__

namespace cnnfast::shim {

// Where a thread waits.
struct Place {
  const char* what;
  const char* file;
  int line;
};
#define CNNFAST_HERE(what) \
  ::cnnfast::shim::Place { what, file, line }
#define CNNFAST_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()

// What a running thread sees of itself.
struct Thread {
  dim3 tid;
  int lane = 0, warp = 0;
  bool begun = false;  // by ptx::begin_kernel
};
struct Block {
  dim3 grid, block, id;
  unsigned char* dynamic = nullptr;
};
// Of the one launch that runs.
extern Thread* current_thread;
extern Block* current_block;

// Ends the launch: CudaError with this text, the kernel, block and thread.
[[noreturn]] void fail(const char* text);
[[noreturn]] void fail_at(const char* text, const Place& place);

void barrier(const Place& place);
// __syncthreads_count and its kin: the sum of `value` over the block.
int barrier_sum(int value, const Place& place);

// One operation of all lanes in `mask`. The last lane to come calls combine(lanes), where lanes[i] holds the
// operands of lane i, or null; then all go on.
struct LaneArguments {
  const void* in;
  void* out;
};
using Combine = void (*)(const LaneArguments* const lanes[32]);
void collective(unsigned mask, const void* in, void* out, Combine combine, const Place& place);

// Static shared memory of the block for one declaration, NaN when first asked for.
void* static_shared(const void* key, size_t bytes);

void launch(const char* kernel, const char* file, int line, dim3 grid, dim3 block, size_t shared_bytes,
            cudaStream_t stream, std::function<void()> body);

template <class... Parameters, class... Arguments>
void launch_kernel(const char* name, const char* file, int line, dim3 grid, dim3 block, size_t shared_bytes,
                   cudaStream_t stream, void (*kernel)(Parameters...), const Arguments&... arguments) {
  // Copied now, as a launch copies them.
  std::tuple<std::decay_t<Parameters>...> held(static_cast<Parameters>(arguments)...);
  launch(name, file, line, grid, block, shared_bytes, stream,
         [kernel, held = std::move(held)] { std::apply(kernel, held); });
}

// cp.async of this thread.
void copy_async(void* shared, const void* global, int bytes, bool valid);
void copy_commit();
void copy_wait(int groups);

// What hardware does by itself, some time after it was asked to: work of this block that is done when
// somebody waits for `key`, in the order it was put off in. A block must not end before.
void put_off(const void* key, std::function<void()> work);
// Does it, or the first `most` of it; whether there was any.
bool catch_up(const void* key, int most = 1 << 30);
// Lets others run until one of them calls wake; the launch fails when nobody is left to.
void wait(const Place& place);
void wake();

}  // namespace cnnfast::shim

#define threadIdx (::cnnfast::shim::current_thread->tid)
#define blockIdx (::cnnfast::shim::current_block->id)
#define blockDim (::cnnfast::shim::current_block->block)
#define gridDim (::cnnfast::shim::current_block->grid)
constexpr int warpSize = 32;

#define CNNFAST_SHARED(T, name, ...)              \
  typedef T name##_shared_type __VA_ARGS__;       \
  static const char name##_shared_key = 0;        \
  auto& name = *static_cast<name##_shared_type*>( \
      ::cnnfast::shim::static_shared(&name##_shared_key, sizeof(name##_shared_type)))
#define CNNFAST_DYNAMIC_SHARED(T, name) \
  T* name = reinterpret_cast<T*>(::cnnfast::shim::current_block->dynamic)
#define CNNFAST_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                   \
  ::cnnfast::shim::launch_kernel(#kernel, __FILE__, __LINE__, (grid), (block), (shared_bytes), (stream), \
                                 CNNFAST_UNWRAP kernel, __VA_ARGS__)

// --- synchronisation -------------------------------------------------------------------------------

inline void __syncthreads(CNNFAST_CALLER) { ::cnnfast::shim::barrier(CNNFAST_HERE("__syncthreads")); }
inline int __syncthreads_count(int predicate, CNNFAST_CALLER) {
  return ::cnnfast::shim::barrier_sum(predicate != 0, CNNFAST_HERE("__syncthreads_count"));
}
inline int __syncthreads_or(int predicate, CNNFAST_CALLER) {
  return ::cnnfast::shim::barrier_sum(predicate != 0, CNNFAST_HERE("__syncthreads_or")) != 0;
}
inline void __syncwarp(unsigned mask = ~0u, CNNFAST_CALLER) {
  ::cnnfast::shim::collective(
      mask, nullptr, nullptr, [](const ::cnnfast::shim::LaneArguments* const*) {},
      CNNFAST_HERE("__syncwarp"));
}
inline void __threadfence() {}
inline void __threadfence_block() {}

// --- warp collectives ------------------------------------------------------------------------------

namespace cnnfast::shim {

template <class T>
struct Shuffle {
  T value;
  int from;  // lane, or -1 for the lane's own value
};
template <class T>
T shuffle(unsigned mask, T value, int from, const Place& place) {
  Shuffle<T> in{value, from};
  T out = value;
  collective(
      mask, &in, &out,
      [](const LaneArguments* const lanes[32]) {
        for (int i = 0; i < 32; ++i) {
          if (!lanes[i]) continue;
          const auto* mine = static_cast<const Shuffle<T>*>(lanes[i]->in);
          if (mine->from >= 0 && !lanes[mine->from]) fail("a shuffle reads a lane that does not take part");
          const int from = mine->from < 0 ? i : mine->from;
          *static_cast<T*>(lanes[i]->out) = static_cast<const Shuffle<T>*>(lanes[from]->in)->value;
        }
      },
      place);
  return out;
}
inline int lane() { return current_thread->lane; }
// First lane of the part of the warp that a shuffle stays within.
inline int part(int width) { return lane() & ~(width - 1); }

}  // namespace cnnfast::shim

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, CNNFAST_CALLER) {
  using namespace cnnfast::shim;
  return shuffle(mask, value, part(width) + (source & (width - 1)), CNNFAST_HERE("__shfl_sync"));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, CNNFAST_CALLER) {
  using namespace cnnfast::shim;
  const int from = lane() ^ lanes;
  return shuffle(mask, value, from < part(width) + width ? from : -1, CNNFAST_HERE("__shfl_xor_sync"));
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, CNNFAST_CALLER) {
  using namespace cnnfast::shim;
  const int from = lane() + static_cast<int>(delta);
  return shuffle(mask, value, from < part(width) + width ? from : -1, CNNFAST_HERE("__shfl_down_sync"));
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, CNNFAST_CALLER) {
  using namespace cnnfast::shim;
  const int from = lane() - static_cast<int>(delta);
  return shuffle(mask, value, from >= part(width) ? from : -1, CNNFAST_HERE("__shfl_up_sync"));
}
inline unsigned __ballot_sync(unsigned mask, int predicate, CNNFAST_CALLER) {
  using namespace cnnfast::shim;
  unsigned out = 0;
  collective(
      mask, &predicate, &out,
      [](const LaneArguments* const lanes[32]) {
        unsigned votes = 0;
        for (int i = 0; i < 32; ++i)
          if (lanes[i] && *static_cast<const int*>(lanes[i]->in)) votes |= 1u << i;
        for (int i = 0; i < 32; ++i)
          if (lanes[i]) *static_cast<unsigned*>(lanes[i]->out) = votes;
      },
      CNNFAST_HERE("__ballot_sync"));
  return out;
}
inline int __any_sync(unsigned mask, int predicate, CNNFAST_CALLER) {
  return __ballot_sync(mask, predicate, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, CNNFAST_CALLER) {
  return __ballot_sync(mask, !predicate, file, line) == 0;
}

// --- atomics: of integers alone; sums of floats in any order are not deterministic -------------------

namespace cnnfast::shim {
template <class T>
using WholeNumber = std::enable_if_t<std::is_integral_v<T>, T>;
}
template <class T>
cnnfast::shim::WholeNumber<T> atomicAdd(T* p, std::common_type_t<T> v) {
  return std::exchange(*p, static_cast<T>(*p + v));
}
template <class T>
cnnfast::shim::WholeNumber<T> atomicMax(T* p, std::common_type_t<T> v) {
  return std::exchange(*p, std::max(*p, v));
}
template <class T>
cnnfast::shim::WholeNumber<T> atomicMin(T* p, std::common_type_t<T> v) {
  return std::exchange(*p, std::min(*p, v));
}
template <class T>
cnnfast::shim::WholeNumber<T> atomicOr(T* p, std::common_type_t<T> v) {
  return std::exchange(*p, *p | v);
}
template <class T>
cnnfast::shim::WholeNumber<T> atomicAnd(T* p, std::common_type_t<T> v) {
  return std::exchange(*p, *p & v);
}
template <class T>
cnnfast::shim::WholeNumber<T> atomicExch(T* p, std::common_type_t<T> v) {
  return std::exchange(*p, v);
}
template <class T>
cnnfast::shim::WholeNumber<T> atomicCAS(T* p, std::common_type_t<T> expected, std::common_type_t<T> v) {
  return *p == expected ? std::exchange(*p, v) : *p;
}

// --- built-in types and functions ------------------------------------------------------------------

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

using std::max;
using std::min;
inline long long max(long long a, int b) { return a < b ? b : a; }
inline long long min(long long a, int b) { return b < a ? b : a; }

template <class T>
T __ldg(const T* p) {
  return *p;
}
inline unsigned __float_as_uint(float x) { return cnnfast::cuda::detail::bit_cast<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return cnnfast::cuda::detail::bit_cast<float>(x); }
inline int __float_as_int(float x) { return cnnfast::cuda::detail::bit_cast<int>(x); }
inline float __int_as_float(int x) { return cnnfast::cuda::detail::bit_cast<float>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((static_cast<uint64_t>(a) * b) >> 32);
}
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1 / a; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1) : 0; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline double rsqrt(double x) { return 1 / std::sqrt(x); }

// --- the wrappers of ptx.h -------------------------------------------------------------------------

namespace cnnfast::cuda::ptx {

inline void begin_kernel() { shim::current_thread->begun = true; }

template <int Bytes>
void cp_async(void* shared, const void* global, bool valid = true) {
  static_assert(Bytes == 16 || Bytes == 8 || Bytes == 4, "sizes of cp.async");
  shim::copy_async(shared, global, Bytes, valid);
}
inline void cp_commit() { shim::copy_commit(); }
template <int N>
void cp_wait() {
  shim::copy_wait(N);
}

namespace detail {
// Element (row, column) of an 8x8 tile whose rows start at the addresses that lanes 8 `tile`... gave.
inline uint16_t tile_element(const shim::LaneArguments* const lanes[32], int tile, int row, int column) {
  const auto* start = *static_cast<const char* const*>(lanes[tile * 8 + row]->in);
  if (reinterpret_cast<uintptr_t>(start) % 16) shim::fail("ldmatrix: a row is not aligned to 16 bytes");
  uint16_t value;
  memcpy(&value, start + 2 * column, 2);
  return value;
}
inline void expect_whole_warp(const shim::LaneArguments* const lanes[32]) {
  for (int l = 0; l < 32; ++l)
    if (!lanes[l]) shim::fail("an operation of whole warps in a warp of fewer than 32 threads");
}
template <int Tiles, bool Transposed>
void load_tiles(const shim::LaneArguments* const lanes[32]) {
  expect_whole_warp(lanes);
  for (int l = 0; l < 32; ++l)
    for (int tile = 0; tile < Tiles; ++tile) {
      uint32_t both = 0;
      for (int half = 0; half < 2; ++half) {
        const int i = l / 4, j = 2 * (l % 4) + half;
        both |= static_cast<uint32_t>(Transposed ? tile_element(lanes, tile, j, i)
                                                 : tile_element(lanes, tile, i, j))
                << (16 * half);
      }
      static_cast<uint32_t*>(lanes[l]->out)[tile] = both;
    }
}
}  // namespace detail

inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, CNNFAST_CALLER) {
  shim::collective(~0u, &row, r, detail::load_tiles<4, false>, CNNFAST_HERE("ldmatrix"));
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, CNNFAST_CALLER) {
  shim::collective(~0u, &row, r, detail::load_tiles<4, true>, CNNFAST_HERE("ldmatrix.trans"));
}
inline void ldmatrix_x2(uint32_t (&r)[2], const void* row, CNNFAST_CALLER) {
  shim::collective(~0u, &row, r, detail::load_tiles<2, false>, CNNFAST_HERE("ldmatrix"));
}

namespace detail {
struct Fragments {
  uint32_t a[4], b[2];
};
inline float pair_value(uint32_t bits, int half, BFloat16) {
  return to_float(BFloat16{static_cast<uint16_t>(bits >> (16 * half))});
}
inline float pair_value(uint32_t bits, int half, Half) {
  return to_float(Half{static_cast<uint16_t>(bits >> (16 * half))});
}
// d += a b for the whole warp, once all lanes have come: fragments to matrices and back.
template <int K, class Read>
void multiply(const shim::LaneArguments* const lanes[32], Read read) {
  expect_whole_warp(lanes);
  float a[16][K], b[K][8];
  for (int l = 0; l < 32; ++l) read(*static_cast<const Fragments*>(lanes[l]->in), l, a, b);
  for (int l = 0; l < 32; ++l)
    for (int i = 0; i < 4; ++i) {
      const int row = l / 4 + 8 * (i / 2), column = 2 * (l % 4) + i % 2;
      float& d = static_cast<float*>(lanes[l]->out)[i];
      float sum = d;
      for (int k = 0; k < K; ++k) sum += a[row][k] * b[k][column];
      d = sum;
    }
}
template <class T>
void multiply_pairs(const shim::LaneArguments* const lanes[32]) {
  multiply<16>(lanes, [](const Fragments& f, int l, float(*a)[16], float(*b)[8]) {
    for (int half = 0; half < 2; ++half) {
      for (int i = 0; i < 4; ++i)
        a[l / 4 + 8 * (i % 2)][2 * (l % 4) + half + 8 * (i / 2)] = pair_value(f.a[i], half, T{});
      for (int i = 0; i < 2; ++i) b[2 * (l % 4) + half + 8 * i][l / 4] = pair_value(f.b[i], half, T{});
    }
  });
}
inline void multiply_tf32(const shim::LaneArguments* const lanes[32]) {
  multiply<8>(lanes, [](const Fragments& f, int l, float(*a)[8], float(*b)[8]) {
    const auto value = [](uint32_t bits) { return __uint_as_float(bits & 0xffffe000u); };
    for (int i = 0; i < 4; ++i) a[l / 4 + 8 * (i % 2)][l % 4 + 4 * (i / 2)] = value(f.a[i]);
    for (int i = 0; i < 2; ++i) b[l % 4 + 4 * i][l / 4] = value(f.b[i]);
  });
}
inline void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], shim::Combine combine,
                const shim::Place& place) {
  const Fragments in{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  shim::collective(~0u, &in, d, combine, place);
}
}  // namespace detail

inline void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], CNNFAST_CALLER) {
  detail::mma(d, a, b, detail::multiply_pairs<BFloat16>, CNNFAST_HERE("mma.m16n8k16.bf16"));
}
inline void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], CNNFAST_CALLER) {
  detail::mma(d, a, b, detail::multiply_pairs<Half>, CNNFAST_HERE("mma.m16n8k16.f16"));
}
inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], CNNFAST_CALLER) {
  detail::mma(d, a, b, detail::multiply_tf32, CNNFAST_HERE("mma.m16n8k8.tf32"));
}
inline uint32_t to_tf32(float x) {
  const uint32_t bits = __float_as_uint(x);
  return (bits & 0x7fffffffu) > 0x7f800000u ? 0x7fffffffu : (bits + 0x1000u) & 0xffffe000u;
}

}  // namespace cnnfast::cuda::ptx
