// The gradient of a convolution's input. With stride 1 it is a convolution of the gradient with the kernel
// turned by 180 degrees and its channels exchanged; with others the transpose convolution, phase by phase.
// Few channels would leave most lanes of either empty: then every pixel of the gradient times the whole
// kernel, a matrix product, is added to the pixels under the window.
#include <algorithm>
#include <vector>

#include "core/threads.h"
#include "cpu/conv2d.h"
#include "cpu/conv_grad.h"
#include "cpu/winograd.h"
#include "kernels/table.h"

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

// Up to so many channels, and outputs for each of them, the products of a pixel are scattered: measured
// against Winograd and the transpose convolution with vectors of 16.
constexpr int64_t kFewChannels = 6, kOutputsPerChannel = 2;
bool scatters(const Conv2dSpec& s) {
  return s.groups == 1 && s.c <= kFewChannels && s.kw > 1 && s.dw == 1 && s.o >= kOutputsPerChannel * s.c;
}

// Every value of dx adds up over blocks of lines of g, there first over p, then q, whatever the bands.
void by_scattering(const Conv2dSpec& s, const float* g, const float* w, float* dx, int threads) {
  constexpr int64_t kProducts = 1 << 15;  // floats that stay in the cache until they are added
  const int64_t columns = s.kh * s.kw * s.c, reach = (s.kh - 1) * s.dh + 1;
  const PackedMatrix packed(&w, 1, s.o, 1, columns, 0, 1, s.o, threads);
  const int64_t lines = std::max<int64_t>(1, std::min(s.p, kProducts / (s.q * columns)));
  // Bands of rows of dx; what two of them take from one row of g is worked out twice.
  const int64_t wanted = s.n < 4 * threads ? (4 * threads + s.n - 1) / s.n : 1;
  const int64_t bands = threads == 1 ? 1 : std::clamp<int64_t>(s.h / (4 * reach), 1, wanted);
  parallel_for(s.n * bands, threads, [&](int64_t task) {
    const int64_t image = task / bands, band = task % bands;
    const int64_t y0 = band * s.h / bands, y1 = (band + 1) * s.h / bands;
    float* picture = dx + image * s.h * s.w * s.c;
    std::fill(picture + y0 * s.w * s.c, picture + y1 * s.w * s.c, 0.0f);
    const int64_t above = std::max<int64_t>(0, y0 + s.pt - (reach - 1));
    const int64_t p0 = (above + s.sh - 1) / s.sh, p1 = std::min(s.p, (y1 - 1 + s.pt) / s.sh + 1);
    const Buffer products(static_cast<size_t>(lines * s.q * columns) * sizeof(float));
    std::vector<const float*> rows(static_cast<size_t>(s.kh));
    for (int64_t first = p0, last; first < p1; first = last) {
      last = std::min(p1, (first / lines + 1) * lines);  // blocks are the same for all bands
      dense_gemm(g + (image * s.p + first) * s.q * s.o, s.o, (last - first) * s.q, packed.view(), Epilogue{},
                 products.floats(), columns, 1);
      const int64_t end = std::min(y1, (last - 1) * s.sh - s.pt + reach);
      for (int64_t y = std::max(y0, first * s.sh - s.pt); y < end; ++y) {
        WindowRows t{rows.data(), 0,           s.q,        columns,
                     s.kw * s.c,  -s.pl * s.c, s.sw * s.c, picture + y * s.w * s.c,
                     s.w * s.c};
        for (int64_t i = s.kh; i-- > 0;) {
          const int64_t p = y + s.pt - i * s.dh;
          if (p % s.sh || p < first * s.sh || p >= last * s.sh) continue;
          rows[static_cast<size_t>(t.row_count++)] =
              products.floats() + (p / s.sh - first) * s.q * columns + i * s.kw * s.c;
        }
        if (t.row_count) kernels().outer.add_windows(&t);
      }
    }
  });
}

}  // namespace

void conv2d_grad_input(const Conv2dSpec& spec, const float* g, const float* w, bool winograd, float* dx) {
  Conv2dSpec s = spec;
  // A single row or column of outputs knows no stride.
  if (s.p == 1) s.sh = 1;
  if (s.q == 1) s.sw = 1;
  if (s.n * s.h * s.w * s.c == 0) return;
  if (covers_picture(s)) return linear_grad_input(s.n, s.depth(), s.o, g, w, dx);
  const int threads = threads_for(gemm_nanoseconds(s.flops()));
  const Conv2dSpec t = turned(s);
  const bool depthwise = s.groups == s.c && s.o == s.c && s.c > 1;
  if (depthwise && (s.sh != 1 || s.sw != 1 || t.pt < 0 || t.pl < 0)) return depthwise_grad_input(s, g, w, dx);
  if (scatters(s)) return by_scattering(s, g, w, dx, threads);
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
    const PackedWinograd packed(turn(s, w, threads).floats(), t.c, t.o, {tile, static_cast<int>(t.kh), 1},
                                false, threads);
    return conv2d_winograd(t, g, packed, Epilogue{}, dx);
  }
  const PackedMatrix packed = pack_turned(s, w, threads);
  if (!packed.view().finite) return by_transpose(s, g, w, dx, threads);
  conv2d(t, g, nullptr, &packed, Epilogue{}, dx);
}

}  // namespace cnnfast
