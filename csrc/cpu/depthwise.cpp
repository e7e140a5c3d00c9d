// Depthwise convolution: bands of output rows, and blocks of channels where those are few, over threads.
#include <algorithm>

#include "core/threads.h"
#include "cpu/conv2d.h"
#include "kernels/table.h"

namespace cnnfast {
namespace {

constexpr int64_t kBand = 14;  // output rows

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
  const int64_t c = s.o;
  const KernelTable& k = kernels();
  DepthwiseImage image{};
  image.weights = w;
  image.bias = epilogue.bias;
  image.zero = zeros(static_cast<size_t>(k.vl));
  image.h = s.h, image.w = s.w, image.c = c, image.p = s.p, image.q = s.q;
  image.kh = s.kh, image.kw = s.kw, image.sh = s.sh, image.sw = s.sw, image.dh = s.dh, image.dw = s.dw;
  image.pt = s.pt, image.pl = s.pl;
  image.activation = epilogue.activation, image.slope = epilogue.slope;
  image.skip_padding = std::all_of(w, w + s.kh * s.kw * c, [](float v) { return v - v == 0; });

  // Memory, not arithmetic, sets the pace: count both.
  const double nanoseconds = s.flops() / 60 + static_cast<double>(s.n * (s.h * s.w + s.p * s.q) * c) * 0.05;
  const int threads = threads_for(nanoseconds);
  // Tall bands read few rows twice; short ones keep a band's input in the second-level cache.
  const int64_t bands = (s.p + kBand - 1) / kBand;
  // Small pictures are split by channels too, two vectors at least: the last ones overlap.
  const int64_t vectors = (c + k.vl - 1) / k.vl;
  int64_t blocks = 1;
  if (threads > 1 && s.n * bands < 4 * threads)
    blocks = std::max<int64_t>(1, std::min(vectors / 2, (4 * threads + s.n * bands - 1) / (s.n * bands)));
  parallel_for(s.n * bands * blocks, threads, [&](int64_t task) {
    const int64_t block = task % blocks, band = task / blocks % bands, n = task / blocks / bands;
    DepthwiseImage one = image;
    one.x = x + n * s.h * s.w * c;
    one.y = y + n * s.p * s.q * c;
    one.residual = epilogue.residual ? epilogue.residual + n * s.p * s.q * c : nullptr;
    k.depthwise.band(&one, band * s.p / bands, (band + 1) * s.p / bands, block * vectors / blocks * k.vl,
                     std::min(c, (block + 1) * vectors / blocks * k.vl));
  });
}

}  // namespace cnnfast
