// Tiles of up to 1024 keys are sorted in shared memory, as many of short rows in a block as fit; then runs
// are merged in pairs, where every key finds its place by a binary search.
#include "cuda/sort.h"

#include <utility>

#include "cuda/index.h"

namespace cnnfast::cuda {
namespace {

constexpr int kTileKeys = 1024, kSortThreads = 512;

struct Tiles {
  int64_t rows, n, per_row;
  int keys;  // of a tile: a power of two
};

// Batcher, "Sorting networks and their applications", 1968: the bitonic network.
__global__ void __launch_bounds__(kSortThreads) sort_kernel(Tiles s, Divider per_row, Key* keys) {
  ptx::begin_kernel();
  CNNFAST_SHARED(Key, room, [kTileKeys]);
  const int t = threadIdx.x;
  // Where key i of the block lies, or -1: beyond the end of its row.
  const auto place = [&](int i) -> int64_t {
    const int64_t tile = static_cast<int64_t>(blockIdx.x) * (kTileKeys / s.keys) + i / s.keys;
    const Divided at = per_row.divide(tile);
    const int64_t k = at.rest * s.keys + i % s.keys;
    return at.quotient < s.rows && k < s.n ? at.quotient * s.n + k : -1;
  };
  for (int i = t; i < kTileKeys; i += kSortThreads) {
    const int64_t at = place(i);
    room[i] = at < 0 ? kNoKey : keys[at];
  }
  __syncthreads();
  for (int run = 2; run <= s.keys; run *= 2)
    for (int step = run / 2; step > 0; step /= 2) {
      const int i = 2 * t - (t & (step - 1)), j = i + step;
      const Key a = room[i], b = room[j];
      const bool rising = run == s.keys || (i & run) == 0;
      if ((a > b) == rising) room[i] = b, room[j] = a;
      __syncthreads();
    }
  for (int i = t; i < kTileKeys; i += kSortThreads) {
    const int64_t at = place(i);
    if (at >= 0) keys[at] = room[i];
  }
}

// Runs of `run` keys of every row to runs of twice as many. Equal keys of the first run come first.
__global__ void __launch_bounds__(kThreads)
    merge_kernel(int64_t rows, int64_t n, Divider length, int64_t run, const Key* keys, Key* merged) {
  ptx::begin_kernel();
  CNNFAST_EACH(at, rows * n) {
    const Divided divided = length.divide(at);
    const int64_t i = divided.rest, row = divided.quotient * n;
    const Key* from = keys + row;
    const int64_t pair = i & ~(2 * run - 1), middle = pair + run < n ? pair + run : n;
    const int64_t end = pair + 2 * run < n ? pair + 2 * run : n;
    const bool second = i >= middle;
    const Key key = from[i];
    int64_t low = second ? pair : middle, high = second ? middle : end;
    const int64_t start = low;
    while (low < high) {
      const int64_t half = (low + high) / 2;
      if (from[half] < key || (second && from[half] == key))
        low = half + 1;
      else
        high = half;
    }
    merged[row + pair + (i - (second ? middle : pair)) + (low - start)] = key;
  }
}

}  // namespace

Key* sort_rows(int64_t rows, int64_t n, Key* keys, Key* spare, cudaStream_t stream) {
  if (rows * n == 0) return keys;
  Tiles s{rows, n, 1, 2};
  while (s.keys < n && s.keys < kTileKeys) s.keys *= 2;
  s.per_row = ceil_div(n, s.keys);
  const int64_t blocks = ceil_div(rows * s.per_row, kTileKeys / s.keys);
  CNNFAST_LAUNCH((sort_kernel), static_cast<unsigned>(blocks), kSortThreads, 0, stream, s, Divider(s.per_row),
                 keys);
  for (int64_t run = s.keys; run < n; run *= 2) {
    CNNFAST_LAUNCH((merge_kernel), blocks_for(rows * n, kThreads), kThreads, 0, stream, rows, n, Divider(n),
                   run, keys, spare);
    std::swap(keys, spare);
  }
  return keys;
}

}  // namespace cnnfast::cuda
