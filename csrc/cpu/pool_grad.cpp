// Gradients of pooling: pictures, and blocks of their channels, over threads, so that windows that overlap
// always add in the same order.
#include <algorithm>

#include "core/arena.h"
#include "core/threads.h"
#include "cpu/train.h"
#include "kernels/table.h"

namespace cnnfast {
namespace {

// Part of a window that counts for the average.
double counted(int64_t start, int64_t window, int64_t size, int64_t after, bool count_padding) {
  const int64_t end = std::min(start + window, size + after);
  if (count_padding) return static_cast<double>(end - start);
  return static_cast<double>(std::min(end, size) - std::max<int64_t>(start, 0));
}

// x: of maxima; null for averages.
void pool_grad(const PoolSpec& s, const float* g, const float* x, float* dx) {
  const int64_t pixels = s.h * s.w;
  if (s.n * pixels * s.c == 0) return;
  const PoolGradKernels& k = kernels().pool_grad;
  Buffer divisors;
  if (!x) {
    divisors = Buffer(static_cast<size_t>(s.q) * sizeof(double));
    for (int64_t q = 0; q < s.q; ++q)
      divisors.as<double>()[q] = counted(q * s.sw - s.left, s.window_w, s.w, s.right, s.count_padding);
  }
  const int64_t most_rows = std::min(s.kh, (s.h + s.dh - 1) / s.dh);
  const double taps = static_cast<double>(most_rows * std::min(s.kw, s.w));
  const int threads = threads_for(static_cast<double>(s.n * s.p * s.q * s.c) * taps * (x ? 0.3 : 0.1));
  constexpr int64_t kLine = 16;  // floats
  const int64_t lines = (s.c + kLine - 1) / kLine;
  // Each pixel is in one window at most; and if there is none without.
  const bool apart = (s.kh == 1 || s.sh > (s.kh - 1) * s.dh) && (s.kw == 1 || s.sw > (s.kw - 1) * s.dw);
  const bool everywhere = apart && s.pt == 0 && s.pl == 0 && s.sh == s.kh && s.sw == s.kw &&
                          s.p * s.sh == s.h && s.q * s.sw == s.w;
  const int64_t blocks =
      s.n < 4 * threads ? std::max<int64_t>(1, std::min(lines, (4 * threads + s.n - 1) / s.n)) : 1;
  parallel_for(s.n * blocks, threads, [&](int64_t task) {
    const int64_t image = task / blocks, block = task % blocks;
    const int64_t c0 = block * lines / blocks * kLine;
    const int64_t c1 = std::min(s.c, (block + 1) * lines / blocks * kLine);
    float* to = dx + image * pixels * s.c + c0;
    if (blocks == 1 && !everywhere)
      std::fill_n(to, pixels * s.c, 0.0f);
    else if (!everywhere)
      for (int64_t i = 0; i < pixels; ++i) std::fill_n(to + i * s.c, c1 - c0, 0.0f);
    auto** rows = static_cast<const float**>(
        thread_scratch(Slot::kRows, static_cast<size_t>(2 * most_rows) * sizeof(float*)));
    auto** sums = const_cast<float**>(rows + most_rows);
    PoolGradRow row{rows, sums,    0,     nullptr, s.w,
                    s.q,  c1 - c0, s.c,   s.kw,    s.sw,
                    s.dw, s.pl,    apart, 1.0,     divisors.as<double>()};
    for (int64_t p = 0; p < s.p; ++p) {
      const int64_t y0 = p * s.sh - s.pt, first = y0 < 0 ? (-y0 + s.dh - 1) / s.dh : 0;
      row.rows = 0;
      for (int64_t i = first; i < s.kh && y0 + i * s.dh < s.h; ++i) {
        const int64_t at = (y0 + i * s.dh) * s.w * s.c;
        rows[row.rows] = x ? x + image * pixels * s.c + c0 + at : nullptr;
        sums[row.rows++] = to + at;
      }
      row.g = g + (image * s.p + p) * s.q * s.c + c0;
      if (x) {
        k.max_row(&row);
      } else {
        row.divisor = counted(p * s.sh - s.top, s.window_h, s.h, s.bottom, s.count_padding);
        k.average_row(&row);
      }
    }
  });
}

}  // namespace

void max_pool2d_grad(const PoolSpec& s, const float* g, const float* x, float* dx) { pool_grad(s, g, x, dx); }

void avg_pool2d_grad(const PoolSpec& s, const float* g, float* dx) { pool_grad(s, g, nullptr, dx); }

}  // namespace cnnfast
