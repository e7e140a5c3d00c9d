// The gradient of a convolution's input. With stride 1 it is a convolution of the gradient with the kernel
// turned by 180 degrees and its channels exchanged; with others the transpose convolution, phase by phase.
#include <algorithm>
#include <vector>

#include "core/threads.h"
#include "cpu/conv2d.h"
#include "cpu/conv_grad.h"
#include "cpu/winograd.h"

namespace cnnfast {
namespace {

// The convolution of g that gives dx for stride 1; its padding is not negative where `s` pads no more than
// its kernel reaches.
Conv2dSpec turned(const Conv2dSpec& s) {
  return {s.n,
          s.p,
          s.q,
          s.o,
          s.kh,
          s.kw,
          s.c,
          s.groups,
          1,
          1,
          s.dh,
          s.dw,
          (s.kh - 1) * s.dh - s.pt,
          (s.kw - 1) * s.dw - s.pl,
          s.h,
          s.w,
          s.o,
          s.c};
}

// Taps last to first, each with its rows and columns exchanged.
PackedMatrix pack_turned(const Conv2dSpec& s, const float* w, int threads) {
  const int64_t cg = s.c / s.groups, og = s.o / s.groups, taps = s.kh * s.kw;
  std::vector<const float*> sources;
  for (int64_t tap = taps; tap-- > 0;) sources.push_back(w + tap * cg * s.o);
  return PackedMatrix(sources.data(), taps, og, s.groups, cg, og, 1, s.o, threads);
}

// The same as an array o x c per tap.
Buffer turn(const Conv2dSpec& s, const float* w, int threads) {
  const int64_t taps = s.kh * s.kw, plane = s.c * s.o;
  Buffer out(static_cast<size_t>(taps * plane) * sizeof(float));
  constexpr int64_t kStrip = 16;  // rows of the result: a cache line of w
  const int64_t strips = (s.o + kStrip - 1) / kStrip;
  parallel_for(taps * strips, threads, [&](int64_t task) {
    const int64_t tap = task / strips, first = task % strips * kStrip, last = std::min(s.o, first + kStrip);
    const float* from = w + (taps - 1 - tap) * plane;
    float* to = out.floats() + tap * plane;
    for (int64_t c = 0; c < s.c; ++c)
      for (int64_t o = first; o < last; ++o) to[o * s.c + c] = from[c * s.o + o];
  });
  return out;
}

// The tile that Winograd takes in a batch of usual size, or 0: the same for every batch and number of
// threads.
int tile_for(const Conv2dSpec& turned) {
  constexpr int kUsualThreads = 2, kUsualBatch = 16, kLargestTile = 4;
  Conv2dSpec usual = turned;
  usual.n = kUsualBatch;
  return winograd_tile(usual, kUsualThreads, kLargestTile, true);
}

void by_transpose(const Conv2dSpec& s, const float* g, const float* w, float* dx, int threads) {
  const ConvTransposeSpec t{s.n,  s.p,  s.q,  s.o,  s.kh, s.kw, s.c, s.groups, s.sh,
                            s.sw, s.dh, s.dw, s.pt, s.pl, s.h,  s.w, s.o,      s.c};
  conv2d_transpose(t, g, w, PackedTranspose(t, w, threads), Epilogue{}, dx);
}

}  // namespace

void conv2d_grad_input(const Conv2dSpec& spec, const float* g, const float* w, bool winograd, float* dx) {
  Conv2dSpec s = spec;
  // A single row or column of outputs knows no stride.
  if (s.p == 1) s.sh = 1;
  if (s.q == 1) s.sw = 1;
  if (s.n * s.h * s.w * s.c == 0) return;
  const int threads = threads_for(gemm_nanoseconds(s.flops()));
  const Conv2dSpec t = turned(s);
  const bool depthwise = s.groups == s.c && s.o == s.c && s.c > 1;
  if (depthwise && (s.sh != 1 || s.sw != 1 || t.pt < 0 || t.pl < 0)) return depthwise_grad_input(s, g, w, dx);
  if (s.sh != 1 || s.sw != 1 || t.pt < 0 || t.pl < 0) return by_transpose(s, g, w, dx, threads);
  const int64_t weights = s.kh * s.kw * (s.c / s.groups) * s.o;
  if (depthwise) {
    // 0 * inf is NaN, and there are no zeros around g.
    if (!all_finite(w, weights)) return depthwise_grad_input(s, g, w, dx);
    Buffer reversed(static_cast<size_t>(weights) * sizeof(float));
    for (int64_t tap = 0; tap < s.kh * s.kw; ++tap)
      std::copy_n(w + tap * s.c, s.c, reversed.floats() + (s.kh * s.kw - 1 - tap) * s.c);
    return depthwise_conv2d(t, g, reversed.floats(), true, Epilogue{}, dx);
  }
  if (const int tile = winograd ? tile_for(t) : 0; tile && all_finite(w, weights)) {
    const PackedWinograd packed(turn(s, w, threads).floats(), t.c, t.o, tile, threads);
    return conv2d_winograd(t, g, packed, Epilogue{}, dx);
  }
  const PackedMatrix packed = pack_turned(s, w, threads);
  if (!packed.view().finite) return by_transpose(s, g, w, dx, threads);
  conv2d(t, g, nullptr, &packed, Epilogue{}, dx);
}

}  // namespace cnnfast
