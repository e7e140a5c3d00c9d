// What came with compute capability 9.0: barriers in shared memory that count arrivals and bytes (mbarrier),
// copies of whole tiles by a tensor map (TMA), products of a group of four warps with operands in shared
// memory (wgmma). Inline PTX, and its emulation on the host: a copy's destination is NaN until somebody waits
// for its barrier, and a product reads shared memory no earlier than when its sums are waited for.
#pragma once
#include "cuda/device.h"

#if defined(CNNFAST_SHIM)
#include <unordered_map>
#include <vector>
#else
#include <cuda.h>
#endif

namespace cnnfast::cuda {

// How copies find their way in an array of 2-byte elements. All rows that are written have 64 of them.
#if defined(CNNFAST_SHIM)
struct TensorMap {
  const char* data;
  int rank, rows;              // rows: of a tile
  int64_t size[4], stride[4];  // innermost first; bytes
  int lower[2], upper[2];      // windows: corners of the box of first pixels, columns then rows
  int step[2];
};
#else
using TensorMap = CUtensorMap;
#endif

// Of a dense array of bfloat16 or float16, sizes innermost first: tiles of so many rows of the outermost
// axis, one tap where there are three axes.
TensorMap tiled_map(bool half, const void* data, int rank, const int64_t (&size)[4], int rows);
// Of pictures (c, w, h, n): tiles of one tap of so many windows. Their first pixels lie in a box, from
// `lower` to `upper` beyond the last pixel, columns then rows, `step` apart.
TensorMap window_map(bool half, const void* data, const int64_t (&size)[4], const int (&lower)[2],
                     const int (&upper)[2], const int (&step)[2], int rows);

}  // namespace cnnfast::cuda

namespace cnnfast::cuda::ptx {

// A tile of 2-byte elements in rows of 128 bytes, 16-byte chunks exchanged by the row's number: what tensor
// maps write and wgmma reads. Steps of 16 elements along the rows add 2.
#if !defined(CNNFAST_SHIM)
__device__ __forceinline__ uint64_t tile_descriptor(const void* tile) {
  // Start, 1024 bytes from eight rows to the next eight, 128-byte swizzle; addresses in units of 16 bytes.
  return (shared_address(tile) >> 4 & 0x3fff) | uint64_t{1} << 16 | uint64_t{64} << 32 | uint64_t{1} << 62;
}

__device__ __forceinline__ void barrier_init(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(shared_address(barrier)), "r"(arrivals)
               : "memory");
}
// Makes initialised barriers visible to copies.
__device__ __forceinline__ void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async.shared::cta;\n" ::: "memory");
}
__device__ __forceinline__ void barrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(shared_address(barrier)) : "memory");
}
// Arrives, and lets the phase wait for so many bytes of copies besides.
__device__ __forceinline__ void barrier_expect(uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(shared_address(barrier)),
               "r"(bytes)
               : "memory");
}
// Until the phase of this parity is over; phases are 0, 1, 0, ...
__device__ __forceinline__ void barrier_wait(uint64_t* barrier, int parity) {
  asm volatile(
      "{\n.reg .pred done;\nagain:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n}\n" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

// Brings a tensor map near, so that the first copy does not wait for it.
__device__ __forceinline__ void prefetch_map(const TensorMap& map) {
  asm volatile("prefetch.tensormap [%0];\n" ::"l"(&map) : "memory");
}
// Copies by a tensor map, which arrive at the barrier in bytes. Coordinates innermost first; beyond the
// array: zeros.
__device__ __forceinline__ void copy_tile(void* shared, const TensorMap& map, uint64_t* barrier, int c,
                                          int row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, "
      "%3}], [%4];\n" ::"r"(shared_address(shared)),
      "l"(&map), "r"(c), "r"(row), "r"(shared_address(barrier))
      : "memory");
}
__device__ __forceinline__ void copy_tile(void* shared, const TensorMap& map, uint64_t* barrier, int c,
                                          int tap, int row) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3, %4}], [%5];\n" ::"r"(shared_address(shared)),
      "l"(&map), "r"(c), "r"(tap), "r"(row), "r"(shared_address(barrier))
      : "memory");
}
// One tap of neighbouring windows, from the one whose first pixel is (n, h, w) on.
__device__ __forceinline__ void copy_windows(void* shared, const TensorMap& map, uint64_t* barrier, int c,
                                             int w, int h, int n, int right, int down) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3, %4, %5}], [%6], {%7, %8};\n" ::"r"(shared_address(shared)),
      "l"(&map), "r"(c), "r"(w), "r"(h), "r"(n), "r"(shared_address(barrier)),
      "h"(static_cast<uint16_t>(right)), "h"(static_cast<uint16_t>(down))
      : "memory");
}

// Before the first product that writes to sums that ordinary instructions wrote to.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}
// Until at most N of the committed groups are under way.
template <int N>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(N) : "memory");
}
// Registers of each thread of a warp group from here on.
template <int N>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(N));
}
template <int N>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(N));
}

// d (64 x 2 |d|) = x w, or += where `add` is set: x 64 x 16 and w by columns, both by descriptor. Warp i of
// the four holds rows 16 i on, laid out as by mma.
#define CNNFAST_SUMS4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define CNNFAST_SUMS16(i) CNNFAST_SUMS4(i), CNNFAST_SUMS4(i + 4), CNNFAST_SUMS4(i + 8), CNNFAST_SUMS4(i + 12)
#define CNNFAST_SUMS32(i) CNNFAST_SUMS16(i), CNNFAST_SUMS16(i + 16)
#define CNNFAST_SUMS64(i) CNNFAST_SUMS32(i), CNNFAST_SUMS32(i + 32)
#define CNNFAST_SUMS128(i) CNNFAST_SUMS64(i), CNNFAST_SUMS64(i + 64)
// clang-format off
#define CNNFAST_NAMES32 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"\
  "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define CNNFAST_NAMES64 CNNFAST_NAMES32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"\
  "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define CNNFAST_NAMES128 CNNFAST_NAMES64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,"\
  "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,"\
  "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,"\
  "%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
// clang-format on
// x, w and `add` are the operands after the sums.
#define CNNFAST_WGMMA(sums, columns, x_, w_, add_, type, T)                                     \
  __device__ __forceinline__ void wgmma(float(&d)[sums], uint64_t x, uint64_t w, bool add, T) { \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " add_                                       \
                 ", 0;\n"                                                                       \
                 "wgmma.mma_async.sync.aligned.m64n" columns "k16.f32." type "." type           \
                 " {" CNNFAST_NAMES##sums "}, " x_ ", " w_ ", p, 1, 1, 0, 0;\n}\n"              \
                 : CNNFAST_SUMS##sums(0)                                                        \
                 : "l"(x), "l"(w), "r"(static_cast<int>(add)));                                 \
  }
CNNFAST_WGMMA(32, "64", "%32", "%33", "%34", "bf16", BFloat16)
CNNFAST_WGMMA(32, "64", "%32", "%33", "%34", "f16", Half)
CNNFAST_WGMMA(64, "128", "%64", "%65", "%66", "bf16", BFloat16)
CNNFAST_WGMMA(64, "128", "%64", "%65", "%66", "f16", Half)
CNNFAST_WGMMA(128, "256", "%128", "%129", "%130", "bf16", BFloat16)
CNNFAST_WGMMA(128, "256", "%128", "%129", "%130", "f16", Half)
#undef CNNFAST_WGMMA
#undef CNNFAST_NAMES128
#undef CNNFAST_NAMES64
#undef CNNFAST_NAMES32
#undef CNNFAST_SUMS128
#undef CNNFAST_SUMS64
#undef CNNFAST_SUMS32
#undef CNNFAST_SUMS16
#undef CNNFAST_SUMS4
#else

// Bytes of the block's shared memory, in units of 16; the rest of a descriptor is the same for all tiles.
inline uint64_t tile_descriptor(const void* tile) {
  return static_cast<uint64_t>(static_cast<const unsigned char*>(tile) - shim::current_block->dynamic) >> 4;
}

namespace detail {
// A barrier in its 64 bits.
struct Phases {
  uint64_t parity : 1, arrivals : 15, missing : 16;
  int64_t bytes : 32;
};
static_assert(sizeof(Phases) == 8, "a barrier has 64 bits");
inline void complete(Phases* b) {
  if (b->missing || b->bytes) return;
  b->parity ^= 1;
  b->missing = b->arrivals;
  shim::wake();
}
inline Phases* phases(uint64_t* barrier) { return reinterpret_cast<Phases*>(barrier); }
inline void arrive(uint64_t* barrier, int bytes) {
  Phases* b = phases(barrier);
  if (!b->missing) shim::fail("more arrivals at a barrier than it was made for");
  --b->missing;
  b->bytes += bytes;
  complete(b);
}
// Where byte `at` of a tile lies.
inline size_t exchanged(size_t at) { return at ^ (at >> 7 & 7) << 4; }

// Puts a copy off: row(i, bytes) is the 128 bytes of row i.
template <class Row>
void copy(void* shared, uint64_t* barrier, int rows, Row row) {
  auto* tile = static_cast<unsigned char*>(shared);
  if ((tile - shim::current_block->dynamic) % 1024) shim::fail("a tile is not aligned to 1024 bytes");
  memset(tile, 0xff, static_cast<size_t>(rows) * 128);
  shim::put_off(barrier, [=] {
    for (int i = 0; i < rows; ++i) {
      unsigned char bytes[128];
      row(i, bytes);
      for (size_t k = 0; k < 128; ++k) tile[exchanged(static_cast<size_t>(i) * 128 + k)] = bytes[k];
    }
    phases(barrier)->bytes -= rows * 128;
    complete(phases(barrier));
  });
}
// Elements from (c, ...) on that lie in the array, the others zero.
inline void read_row(const TensorMap& map, const int64_t (&at)[4], unsigned char (&bytes)[128]) {
  memset(bytes, 0, sizeof bytes);
  const char* from = map.data;
  for (int d = 1; d < map.rank; ++d) {
    if (at[d] < 0 || at[d] >= map.size[d]) return;
    from += at[d] * map.stride[d];
  }
  const int64_t count = std::min<int64_t>(64, map.size[0] - at[0]);
  if (count > 0) memcpy(bytes, from + at[0] * 2, static_cast<size_t>(count) * 2);
}
}  // namespace detail

inline void barrier_init(uint64_t* barrier, int arrivals) {
  *detail::phases(barrier) = {0, static_cast<uint64_t>(arrivals), static_cast<uint64_t>(arrivals), 0};
}
inline void barrier_init_fence() {}
inline void barrier_arrive(uint64_t* barrier) { detail::arrive(barrier, 0); }
inline void barrier_expect(uint64_t* barrier, int bytes) { detail::arrive(barrier, bytes); }
inline void barrier_wait(uint64_t* barrier, int parity, CNNFAST_CALLER) {
  while (detail::phases(barrier)->parity == static_cast<unsigned>(parity))
    if (!shim::catch_up(barrier)) shim::wait(CNNFAST_HERE("mbarrier.try_wait"));
}

inline void prefetch_map(const TensorMap&) {}
inline void copy_tile(void* shared, const TensorMap& map, uint64_t* barrier, int c, int row) {
  detail::copy(shared, barrier, map.rows, [map, c, row](int i, unsigned char(&bytes)[128]) {
    detail::read_row(map, {c, row + i, 0, 0}, bytes);
  });
}
inline void copy_tile(void* shared, const TensorMap& map, uint64_t* barrier, int c, int tap, int row) {
  detail::copy(shared, barrier, map.rows, [map, c, tap, row](int i, unsigned char(&bytes)[128]) {
    detail::read_row(map, {c, tap, row + i, 0}, bytes);
  });
}
inline void copy_windows(void* shared, const TensorMap& map, uint64_t* barrier, int c, int w, int h, int n,
                         int right, int down) {
  if (right < 0 || down < 0 || right > 255 || down > 255) shim::fail("im2col: a tap beyond 255 pixels");
  detail::copy(shared, barrier, map.rows, [=](int i, unsigned char(&bytes)[128]) {
    // The box of first pixels is walked through row by row, then picture by picture.
    const int64_t first_w = map.lower[0], first_h = map.lower[1];
    const int64_t columns = (map.size[1] - 1 + map.upper[0] - first_w) / map.step[0] + 1;
    const int64_t rows = (map.size[2] - 1 + map.upper[1] - first_h) / map.step[1] + 1;
    const int64_t pixel = (w - first_w) / map.step[0] + (h - first_h) / map.step[1] * columns + i;
    const int64_t x = first_w + pixel % columns * map.step[0],
                  y = first_h + pixel / columns % rows * map.step[1];
    detail::read_row(map, {c, x + right, y + down, n + pixel / columns / rows}, bytes);
  });
}

inline void wgmma_fence() {}

namespace detail {
// Groups of products that a thread has committed, and those since.
struct Products {
  int open = 0;
  std::vector<int> groups;
};
inline std::unordered_map<const shim::Thread*, Products> products;

template <class T, int N>
void multiply_rows(float* d, const unsigned char* shared, uint64_t x, uint64_t w, bool add, int lane,
                   int warp) {
  const auto element = [shared](uint64_t tile, int row, int k) {
    T value;
    memcpy(&value,
           shared + exchanged(tile * 16 + static_cast<size_t>(row) * 128 + static_cast<size_t>(k) * 2), 2);
    return to_float(value);
  };
  float mine[2][16];
  for (int half = 0; half < 2; ++half)
    for (int k = 0; k < 16; ++k) mine[half][k] = element(x, 16 * (warp % 4) + lane / 4 + 8 * half, k);
  for (int j = 0; j < N / 8; ++j)
    for (int side = 0; side < 2; ++side) {
      float theirs[16];
      for (int k = 0; k < 16; ++k) theirs[k] = element(w, 8 * j + 2 * (lane % 4) + side, k);
      for (int half = 0; half < 2; ++half) {
        float& sum = d[4 * j + 2 * half + side];
        float next = add ? sum : 0.0f;
        for (int k = 0; k < 16; ++k) next += mine[half][k] * theirs[k];
        sum = next;
      }
    }
}
}  // namespace detail

template <class T, int K>
void wgmma(float (&d)[K], uint64_t x, uint64_t w, bool add, T) {
  const shim::Thread* me = shim::current_thread;
  const unsigned char* shared = shim::current_block->dynamic;
  float* sums = d;
  ++detail::products[me].open;
  shim::put_off(me, [=] { detail::multiply_rows<T, 2 * K>(sums, shared, x, w, add, me->lane, me->warp); });
}
inline void wgmma_commit() {
  auto& p = detail::products[shim::current_thread];
  p.groups.push_back(std::exchange(p.open, 0));
}
template <int N>
void wgmma_wait(CNNFAST_CALLER) {
  __syncwarp(~0u, file, line);
  auto& p = detail::products[shim::current_thread];
  const size_t done = p.groups.size() > N ? p.groups.size() - N : 0;
  for (size_t i = 0; i < done; ++i) shim::catch_up(shim::current_thread, p.groups[i]);
  p.groups.erase(p.groups.begin(), p.groups.begin() + static_cast<ptrdiff_t>(done));
}
template <int N>
void give_registers() {}
template <int N>
void take_registers() {}
#endif

}  // namespace cnnfast::cuda::ptx
