// Depthwise convolution: one output row per kernel call, bands of rows over threads.
#include <algorithm>

#include "core/threads.h"
#include "cpu/conv2d.h"
#include "kernels/table.h"

namespace cnnfast {
namespace {

// With a channel multiplier every input channel is written M times, then the plain kernel runs.
Buffer repeat_channels(const float* x, int64_t pixels, int64_t c, int64_t m) {
  Buffer out(static_cast<size_t>(pixels * c * m) * sizeof(float));
  parallel_for((pixels + 255) / 256, threads_for(static_cast<double>(pixels * c * m)), [&](int64_t block) {
    const int64_t begin = block * 256 * c, end = std::min(pixels * c, begin + 256 * c);
    float* to = out.floats() + begin * m;
    for (int64_t i = begin; i < end; ++i)
      for (int64_t k = 0; k < m; ++k) *to++ = x[i];
  });
  return out;
}

}  // namespace

void depthwise_conv2d(const Conv2dSpec& s, const float* x, const float* w, const Epilogue& epilogue, float* y) {
  if (s.n * s.p * s.q * s.o == 0) return;
  Buffer repeated;
  if (s.o != s.c) {
    repeated = repeat_channels(x, s.n * s.h * s.w, s.c, s.o / s.c);
    x = repeated.floats();
  }
  const int64_t c = s.o, lines = s.n * s.p;
  const float* zero = zeros(static_cast<size_t>(s.w * c));
  // Memory, not arithmetic, sets the pace: count both.
  const double nanoseconds = s.flops() / 25 + static_cast<double>(s.n * (s.h * s.w + s.p * s.q) * c) * 0.1;
  const int threads = threads_for(nanoseconds);
  const int64_t band = std::max<int64_t>(1, std::min<int64_t>(8, lines / (4 * threads)));
  parallel_for((lines + band - 1) / band, threads, [&](int64_t task) {
    auto** rows = static_cast<const float**>(thread_scratch(Slot::kRows, static_cast<size_t>(s.kh) * sizeof(float*)));
    DepthwiseRow row{rows, w, nullptr, epilogue.bias, nullptr, s.w, c, s.q, s.kh, s.kw, s.sw, s.dw, s.pl,
                     epilogue.activation, epilogue.slope};
    for (int64_t line = task * band; line < std::min(lines, (task + 1) * band); ++line) {
      const int64_t image = line / s.p, p = line % s.p;
      for (int64_t i = 0; i < s.kh; ++i) {
        const int64_t iy = p * s.sh - s.pt + i * s.dh;
        rows[i] = iy < 0 || iy >= s.h ? zero : x + (image * s.h + iy) * s.w * c;
      }
      row.y = y + line * s.q * c;
      row.residual = epilogue.residual ? epilogue.residual + line * s.q * c : nullptr;
      kernels().depthwise.row(&row);
    }
  });
}

}  // namespace cnnfast
