// Operators along one axis of an array seen as outer x k x inner: sums, maxima, softmax, statistics. Each
// column of k elements belongs to by threads of a block (by a power of two), next to bx columns that are
// neighbours in memory, so that a warp reads contiguous elements whatever the axis; short columns share a
// block. Combined by xor shuffles, then over the warps of a column in their order: the same bits in every
// run.
#pragma once
#include "cuda/index.h"

namespace cnnfast::cuda {

constexpr int kColumnThreads = 256;

struct Columns {
  int64_t outer, k, inner;
  int log_x, log_y;       // columns side by side, and threads per column
  int64_t splits, share;  // parts of each column, for a block (blockIdx.y) each, and their length

  __host__ __device__ int64_t count() const { return outer * inner; }
  dim3 grid() const {
    const int64_t per_block = kColumnThreads >> (log_x + log_y);
    const int64_t blocks = ceil_div(outer, per_block) * ceil_div(inner, int64_t{1} << log_x);
    return {static_cast<unsigned>(blocks), static_cast<unsigned>(splits)};
  }
  // Into at most so many parts.
  void split(int64_t parts) {
    if (parts > 65535) parts = 65535;
    if (parts < 2 || k == 0) return;
    share = ceil_div(k, parts);
    splits = ceil_div(k, share);
  }
};

// `each`: elements that a thread should have, at least.
inline Columns columns(int64_t outer, int64_t k, int64_t inner, int64_t each = 4) {
  Columns c{outer, k, inner, 0, 0, 1, k};
  while (c.log_x < 5 && (int64_t{1} << c.log_x) < inner) ++c.log_x;
  while (c.log_x + c.log_y < 8 && (each << c.log_y) < k) ++c.log_y;
  return c;
}

// Cuts long columns into parts where there are too few of them to fill a GPU.
inline Columns split_columns(int64_t outer, int64_t k, int64_t inner, int64_t each = 16) {
  Columns c = columns(outer, k, inner, each);
  constexpr int64_t kBlocks = 512;
  const int64_t wanted = ceil_div(kBlocks, c.grid().x), most = ceil_div(k, each << c.log_y);
  if (c.count() > 0) c.split(wanted < most ? wanted : most);
  return c;
}

// What a thread has of its column: elements first, first + step, ... below end.
struct ColumnPart {
  int64_t outer, inner, first, end, step;
  bool inside;  // threads outside take part in barriers alone; for them first == end

  __device__ __forceinline__ explicit ColumnPart(const Columns& c) {
    const int t = threadIdx.x, x = t & ((1 << c.log_x) - 1), y = (t >> c.log_x) & ((1 << c.log_y) - 1);
    const auto tiles = static_cast<uint32_t>(((c.inner - 1) >> c.log_x) + 1), tile = blockIdx.x % tiles;
    const int64_t columns = kColumnThreads >> (c.log_x + c.log_y);
    outer = blockIdx.x / tiles * columns + (t >> (c.log_x + c.log_y));
    inner = (static_cast<int64_t>(tile) << c.log_x) + x;
    inside = outer < c.outer && inner < c.inner;
    const int64_t begin = blockIdx.y * c.share;
    end = begin + c.share < c.k ? begin + c.share : c.k;
    first = begin + y;
    step = int64_t{1} << c.log_y;
    if (!inside) first = end;
    lead = inside && y == 0;
  }
  bool lead;  // the first thread of its column

  __device__ __forceinline__ int64_t index(const Columns& c, int64_t k) const {
    return (outer * c.k + k) * c.inner + inner;
  }
};

// f over the values of all threads of each column, for all of them. `room` is shared memory of one T per
// thread. All threads of the block must come.
template <class T, class F>
__device__ __forceinline__ T combine(const Columns& c, T value, T* room, F f) {
  const int bx = 1 << c.log_x, width = 1 << (c.log_x + c.log_y);
  for (int step = bx; step < width && step < 32; step <<= 1)
    value = f(value, __shfl_xor_sync(~0u, value, step));
  if (width <= 32) return value;
  const int t = threadIdx.x, base = t & ~(width - 1);
  room[t] = value;
  __syncthreads();
  // Lane x of every warp of the column holds what that warp found for column x.
  value = room[base + (t & (bx - 1))];
  for (int warp = 32; warp < width; warp += 32) value = f(value, room[base + warp + (t & (bx - 1))]);
  __syncthreads();
  return value;
}

struct Add {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};
// The larger one; NaN if either is.
struct Larger {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a > b || a != a ? a : b;
  }
};
struct Smaller {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a < b || a != a ? a : b;
  }
};

}  // namespace cnnfast::cuda
