// Pooling: one output row per kernel call, bands of rows over threads; whole pictures in fixed chunks
// of pixels, so that the order of summation is a matter of the picture's size alone.
#include "cpu/pool.h"

#include <algorithm>

#include "core/arena.h"
#include "core/epilogue.h"
#include "core/threads.h"
#include "cpu/pointwise.h"
#include "kernels/table.h"

namespace cnnfast {
namespace {

enum class Kind { kMax, kAverage, kPositions };

// Windows that the row kernels take straight from the picture; others have their rows merged first.
bool takes_rows_directly(const PoolSpec& s) {
  const bool square = s.kh == 2 && s.kw == 2 && s.dw == 1;
  if (s.c < kernels().vl) return s.kh == 1 || square;
  return s.kh == 1 || s.ldx != s.c || (s.dw == 1 && s.kh <= 3 && (s.kw == 2 || s.kw == 3) && s.sw <= 2);
}

// Length of the part of a window that counts for the average.
double counted(int64_t start, int64_t window, int64_t size, int64_t after, bool count_padding) {
  int64_t end = std::min(start + window, size + after);
  if (!count_padding) {
    start = std::max<int64_t>(start, 0);
    end = std::min(end, size);
  }
  return static_cast<double>(end - start);
}

void pool_rows(Kind kind, const PoolSpec& s, const float* x, float* y, int64_t* positions) {
  const int64_t lines = s.n * s.p;
  if (lines * s.q * s.c == 0) return;
  const PoolKernels& k = kernels().pool;
  const bool direct = kind == Kind::kPositions || takes_rows_directly(s);

  Buffer divisors;
  if (kind == Kind::kAverage) {
    divisors = Buffer(static_cast<size_t>(s.q) * sizeof(double));
    for (int64_t q = 0; q < s.q; ++q)
      divisors.as<double>()[q] = counted(q * s.sw - s.left, s.window_w, s.w, s.right, s.count_padding);
  }
  // Rows of the window that can lie in the picture at once.
  const int64_t most_rows = std::min(s.kh, (s.h + s.dh - 1) / s.dh);
  const double vectors = static_cast<double>((s.c + kernels().vl - 1) / kernels().vl);
  const double taps =
      static_cast<double>(direct ? most_rows * std::min(s.kw, s.w) : most_rows * s.sw + std::min(s.kw, s.w));
  const double nanoseconds =
      static_cast<double>(lines * s.q) * (vectors * taps * (kind == Kind::kPositions ? 2 : 0.7) + 2);
  const int threads = threads_for(nanoseconds);
  const int64_t share = threads == 1 ? lines : lines / (4 * threads);
  const int64_t band = std::max<int64_t>(1, std::min<int64_t>(8, share));
  parallel_for((lines + band - 1) / band, threads, [&](int64_t task) {
    auto** rows = static_cast<const float**>(
        thread_scratch(Slot::kRows, static_cast<size_t>(most_rows) * (sizeof(float*) + sizeof(int64_t))));
    auto* row_start = reinterpret_cast<int64_t*>(rows + most_rows);
    float* merged = nullptr;
    if (!direct)
      merged =
          static_cast<float*>(thread_scratch(Slot::kTile, static_cast<size_t>(s.w * s.c) * sizeof(float)));
    PoolRow row{rows,    0,        nullptr, s.w,  s.c,  s.q, s.ldx,
                s.ldy,   s.kw,     s.sw,    s.dw, s.pl, 1.0, divisors.as<double>(),
                nullptr, row_start};
    for (int64_t line = task * band; line < std::min(lines, (task + 1) * band); ++line) {
      const int64_t image = line / s.p, p = line % s.p, y0 = p * s.sh - s.pt;
      const int64_t first = y0 < 0 ? (-y0 + s.dh - 1) / s.dh : 0;
      row.rows = 0;
      for (int64_t i = first; i < s.kh && y0 + i * s.dh < s.h; ++i) {
        rows[row.rows] = x + (image * s.h + y0 + i * s.dh) * s.w * s.ldx;
        row_start[row.rows++] = (y0 + i * s.dh) * s.w;
      }
      if (!direct) {
        (kind == Kind::kMax ? k.merge_rows_max : k.merge_rows_sum)(merged, rows, row.rows, s.w * s.c);
        rows[0] = merged;
        row.rows = 1;
      }
      row.y = y + line * s.q * s.ldy;
      switch (kind) {
        case Kind::kMax:
          k.max_row(&row);
          break;
        case Kind::kAverage:
          row.divisor = counted(p * s.sh - s.top, s.window_h, s.h, s.bottom, s.count_padding);
          k.average_row(&row);
          break;
        case Kind::kPositions:
          row.positions = positions + line * s.q * s.c;
          k.position_row(&row);
      }
    }
  });
}

// y[image][channel] = max or sum. Partial results of the chunks are joined in double, in order.
void reduce_pictures(int64_t n, int64_t pixels, int64_t c, int64_t ldx, const float* x, float* y,
                     bool average) {
  if (n * c == 0) return;
  constexpr int64_t kChunk = 1024;  // pixels
  const int64_t chunks = (pixels + kChunk - 1) / kChunk;
  const double nanoseconds = static_cast<double>(n * pixels) * (static_cast<double>(c) * 0.1 + 0.2);
  const int threads = threads_for(nanoseconds);
  // Few pictures of few pixels: channels are shared out too, in whole cache lines.
  int64_t blocks = 1;
  if (n * chunks < 2 * threads) blocks = std::max<int64_t>(1, std::min<int64_t>(2 * threads, c / 64));
  const int64_t block = ((c + blocks - 1) / blocks + 15) / 16 * 16;
  blocks = (c + block - 1) / block;
  const auto reduce = average ? kernels().pool.reduce_sum : kernels().pool.reduce_max;
  Buffer partial(static_cast<size_t>(n * chunks * c) * sizeof(float));
  parallel_for(n * chunks * blocks, threads, [&](int64_t task) {
    const int64_t begin = task % blocks * block, chunk = task / blocks % chunks,
                  image = task / blocks / chunks;
    const int64_t first = chunk * kChunk, count = std::min(kChunk, pixels - first);
    reduce(partial.floats() + (image * chunks + chunk) * c + begin,
           x + (image * pixels + first) * ldx + begin, ldx, std::min(block, c - begin), count);
  });
  for (int64_t image = 0; image < n; ++image) {
    const float* from = partial.floats() + image * chunks * c;
    float* to = y + image * c;
    if (!average) {
      reduce(to, from, c, c, chunks);
      continue;
    }
    const auto count = static_cast<double>(pixels);
    for (int64_t k = 0; k < c; ++k) {
      double sum = from[k];
      for (int64_t i = 1; i < chunks; ++i) sum += static_cast<double>(from[i * c + k]);
      to[k] = static_cast<float>(sum / count);
    }
  }
}

}  // namespace

void max_pool2d(const PoolSpec& s, const float* x, float* y, int64_t* positions) {
  pool_rows(positions ? Kind::kPositions : Kind::kMax, s, x, y, positions);
}

void avg_pool2d(const PoolSpec& s, const float* x, float* y) { pool_rows(Kind::kAverage, s, x, y, nullptr); }

void global_max_pool(int64_t n, int64_t pixels, int64_t c, int64_t ldx, const float* x, float* y) {
  reduce_pictures(n, pixels, c, ldx, x, y, false);
}

void l2_pool2d(const PoolSpec& s, int64_t size, const float* x, float* y) {
  const int64_t values = s.n * s.h * s.w * s.c, results = s.n * s.p * s.q * s.c;
  const Buffer squares(static_cast<size_t>(values) * sizeof(float));
  binary_alike(Binary::kMul, values, x, x, kNone, 0.0f, squares.floats());
  avg_pool2d(s, squares.floats(), y);
  const auto pixels = static_cast<float>(size);
  binary(Binary::kMul, Broadcast({results}, {}), y, &pixels, kNone, 0.0f, y);
  unary(Unary::kSqrt, 0.0f, 0.0f, y, y, results);
}

void global_avg_pool(int64_t n, int64_t pixels, int64_t c, int64_t ldx, const float* x, float* y) {
  reduce_pictures(n, pixels, c, ldx, x, y, true);
}

}  // namespace cnnfast
