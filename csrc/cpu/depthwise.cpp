// Depthwise convolution and groups of few channels: bands of output rows, and blocks of channels where those
// are few, over threads.
#include <algorithm>
#include <cstring>

#include "core/threads.h"
#include "cpu/conv2d.h"
#include "kernels/table.h"

namespace cnnfast {
namespace {

constexpr int64_t kBand = 14, kTallBand = 56;  // output rows

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

// Neighbouring pixels that lie a multiple of 4 KiB apart share one set of the first-level cache, which
// then holds only a few of them: such a band runs on packed copies of 64 channels at a time.
constexpr int64_t kPageFloats = 1024, kCopied = 64;

void copy_pixels(const float* from, int64_t from_stride, float* to, int64_t to_stride, int64_t pixels) {
  for (int64_t i = 0; i < pixels; ++i)
    std::memcpy(to + i * to_stride, from + i * from_stride, kCopied * sizeof(float));
}

void band_by_copies(const DepthwiseImage& image, int64_t p0, int64_t p1, int64_t c0, int64_t c1) {
  const int64_t first = std::max<int64_t>(0, p0 * image.sh - image.pt);
  const int64_t last = std::min(image.h, (p1 - 1) * image.sh - image.pt + (image.kh - 1) * image.dh + 1);
  const int64_t in = std::max<int64_t>(0, last - first) * image.w, out = (p1 - p0) * image.q;
  const int64_t taps = image.kh * image.kw * image.group, residual = image.residual ? out : 0;
  auto* scratch = static_cast<float*>(thread_scratch(
      Slot::kImage, static_cast<size_t>((in + out + residual + taps + 1) * kCopied) * sizeof(float)));
  DepthwiseImage part = image;
  float *x = scratch, *y = x + in * kCopied, *r = y + out * kCopied, *w = r + residual * kCopied,
        *bias = w + taps * kCopied;
  part.c = kCopied;
  part.h = last - first, part.p = p1 - p0;
  part.pt = image.pt - p0 * image.sh + first;
  part.x = x, part.y = y, part.weights = w;
  part.fold = part.ring = 0;
  if (image.bias) part.bias = bias;
  if (image.residual) part.residual = r;
  for (int64_t c = c0; c < c1; c += kCopied) {
    for (int64_t row = first; row < last; ++row) {
      const int64_t lies = row - (row >= image.fold ? image.ring : 0);
      copy_pixels(image.x + lies * image.w * image.c + c, image.c, x + (row - first) * image.w * kCopied,
                  kCopied, image.w);
    }
    copy_pixels(image.weights + c, image.c, w, kCopied, taps);
    if (image.bias) std::memcpy(bias, image.bias + c, kCopied * sizeof(float));
    const int64_t to = p0 * image.q * image.c + c;
    if (image.residual) copy_pixels(image.residual + to, image.c, r, kCopied, out);
    kernels().depthwise.band(&part, 0, part.p, 0, kCopied);
    copy_pixels(y, kCopied, image.y + to, image.c, out);
  }
}

}  // namespace

DepthwiseImage depthwise_image(const Conv2dSpec& s, const float* w, bool finite, const Epilogue& epilogue) {
  DepthwiseImage image{};
  image.weights = w;
  image.bias = epilogue.bias;
  image.zero = zeros(static_cast<size_t>(kernels().vl));
  image.h = s.h, image.w = s.w, image.c = s.o, image.p = s.p, image.q = s.q;
  image.group = s.c / s.groups;
  image.kh = s.kh, image.kw = s.kw, image.sh = s.sh, image.sw = s.sw, image.dh = s.dh, image.dw = s.dw;
  image.pt = s.pt, image.pl = s.pl;
  image.activation = epilogue.activation, image.slope = epilogue.slope;
  image.skip_padding = finite;
  return image;
}

bool depthwise_aliases(const DepthwiseImage& image) { return image.c % kPageFloats == 0 && image.q > 1; }

void depthwise_band(const DepthwiseImage& image, int64_t p0, int64_t p1, int64_t c0, int64_t c1) {
  if (depthwise_aliases(image))
    band_by_copies(image, p0, p1, c0, c1);
  else
    kernels().depthwise.band(&image, p0, p1, c0, c1);
}

bool all_finite(const float* values, int64_t count) { return kernels().depthwise.all_finite(values, count); }

void depthwise_conv2d(const Conv2dSpec& s, const float* x, const float* w, bool finite,
                      const Epilogue& epilogue, float* y) {
  if (s.n * s.p * s.q * s.o == 0) return;
  Buffer repeated;
  if (s.o != s.c) {
    repeated = repeat_channels(x, s.n * s.h * s.w, s.c, s.o / s.c);
    x = repeated.floats();
  }
  const int64_t c = s.o;
  const int64_t vl = kernels().vl;
  const DepthwiseImage image = depthwise_image(s, w, finite, epilogue);

  // Memory, not arithmetic, sets the pace: count both.
  const double nanoseconds = s.flops() / 60 + static_cast<double>(s.n * (s.h * s.w + s.p * s.q) * c) * 0.05;
  const int threads = threads_for(nanoseconds);
  const bool aliased = depthwise_aliases(image);
  // Tall bands read few rows twice and begin seldom; short ones share the work out, and the copies of their
  // input stay in the second-level cache.
  const int64_t share = threads > 1 ? s.n * s.p / (4 * threads) : kTallBand;
  const int64_t height = aliased ? kBand : std::clamp(share, kBand, kTallBand);
  const int64_t bands = (s.p + height - 1) / height;
  // Small pictures are split by channels too, two vectors at least: the last ones overlap.
  const int64_t vectors = (c + vl - 1) / vl;
  const int64_t copies = c / kCopied;
  int64_t blocks = 1;
  if (threads > 1 && s.n * bands < 4 * threads)
    blocks = std::max<int64_t>(
        1, std::min(aliased ? copies : vectors / 2, (4 * threads + s.n * bands - 1) / (s.n * bands)));
  parallel_for(s.n * bands * blocks, threads, [&](int64_t task) {
    const int64_t block = task % blocks, band = task / blocks % bands, n = task / blocks / bands;
    DepthwiseImage one = image;
    one.x = x + n * s.h * s.w * c;
    one.y = y + n * s.p * s.q * c;
    one.residual = epilogue.residual ? epilogue.residual + n * s.p * s.q * c : nullptr;
    const int64_t p0 = band * s.p / bands, p1 = (band + 1) * s.p / bands;
    const int64_t unit = aliased ? kCopied : vl, units = aliased ? copies : vectors;
    depthwise_band(one, p0, p1, block * units / blocks * unit,
                   std::min(c, (block + 1) * units / blocks * unit));
  });
}

}  // namespace cnnfast
