// Gradients of depthwise convolution. Of the weight: bands of output lines, each summed from zero in
// registers and then joined pairwise; the bands follow from the shape alone. Of the input with strides:
// every pixel from the few taps that reach it (without strides it is a depthwise convolution).
#include <algorithm>

#include "core/arena.h"
#include "core/threads.h"
#include "cpu/conv_grad.h"
#include "kernels/table.h"

namespace cnnfast {
namespace {

// Pixels summed in one go.
constexpr int64_t kSums = 512;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

double nanoseconds(const Conv2dSpec& s) {
  return s.flops() / 60 + static_cast<double>(s.n * (s.h * s.w + s.p * s.q) * s.c) * 0.05;
}

}  // namespace

void depthwise_grad_weight(const Conv2dSpec& s, const float* x, const float* g, float* dw) {
  const int64_t size = s.kh * s.kw * s.c, vl = kernels().vl;
  const int64_t band = std::max<int64_t>(1, kSums / s.q), bands = ceil_div(s.p, band), parts = s.n * bands;
  const int threads = threads_for(nanoseconds(s));
  Buffer partial(static_cast<size_t>(parts * size) * sizeof(float));
  const int64_t vectors = ceil_div(s.c, vl);
  const int64_t blocks =
      parts < 4 * threads ? std::min(ceil_div(vectors, 2), ceil_div(4 * threads, parts)) : 1;
  parallel_for(parts * blocks, threads, [&](int64_t task) {
    const int64_t block = task % blocks, part = task / blocks, image = part / bands;
    const int64_t p0 = part % bands * band, p1 = std::min(s.p, p0 + band);
    const int64_t c0 = block * vectors / blocks * vl, c1 = std::min(s.c, (block + 1) * vectors / blocks * vl);
    auto* lines = static_cast<DepthwiseGradLine*>(
        thread_scratch(Slot::kRows, static_cast<size_t>(band) * sizeof(DepthwiseGradLine)));
    for (int64_t i = 0; i < s.kh; ++i) {
      int64_t count = 0;
      for (int64_t p = p0; p < p1; ++p) {
        const int64_t row = p * s.sh - s.pt + i * s.dh;
        if (row < 0 || row >= s.h) continue;
        lines[count++] = {x + (image * s.h + row) * s.w * s.c + c0, g + (image * s.p + p) * s.q * s.c + c0};
      }
      const DepthwiseGradWeight t{lines,
                                  count,
                                  s.w,
                                  s.q,
                                  s.c,
                                  s.kw,
                                  s.sw,
                                  s.dw,
                                  s.pl,
                                  c1 - c0,
                                  partial.floats() + part * size + i * s.kw * s.c + c0};
      kernels().depthwise_grad.weight(&t);
    }
  });
  add_pairwise(partial.floats(), parts, size, dw, threads);
}

void depthwise_grad_input(const Conv2dSpec& s, const float* g, const float* w, float* dx) {
  const auto input = kernels().depthwise_grad.input;
  parallel_for(s.n * s.h, threads_for(nanoseconds(s)), [&](int64_t line) {
    const int64_t image = line / s.h, y = line % s.h;
    const auto taps = static_cast<size_t>(s.kh * s.kw);
    auto** from = static_cast<const float**>(thread_scratch(Slot::kRows, 2 * taps * sizeof(float*)));
    const float** weights = from + taps;
    for (int64_t column = 0; column < s.w; ++column) {
      int64_t count = 0;
      for (int64_t i = 0; i < s.kh; ++i) {
        const int64_t row = y + s.pt - i * s.dh;
        if (row < 0 || row % s.sh || row / s.sh >= s.p) continue;
        for (int64_t j = 0; j < s.kw; ++j) {
          const int64_t at = column + s.pl - j * s.dw;
          if (at < 0 || at % s.sw || at / s.sw >= s.q) continue;
          from[count] = g + ((image * s.p + row / s.sh) * s.q + at / s.sw) * s.c;
          weights[count++] = w + (i * s.kw + j) * s.c;
        }
      }
      input(from, weights, count, s.c, dx + (line * s.w + column) * s.c);
    }
  });
}

}  // namespace cnnfast
