#include "cpu/row_winograd.h"

#include <algorithm>

#include "core/arena.h"
#include "core/threads.h"
#include "cpu/gemm.h"
#include "kernels/table.h"

namespace cnnfast {
namespace {

// V of a band of rows, in the second-level cache.
constexpr int64_t kBandFloats = 48 << 10;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

bool row_winograd_applies(const Conv2dSpec& s) {
  const int64_t taps = row_winograd_taps(s);
  return taps >= 3 && taps <= 5 && s.groups == 1 && s.dh == 1 && s.dw == 1 && s.pt < s.kh && s.pl < s.kw &&
         s.c >= 3 && s.c < 8;
}

double row_winograd_nanoseconds(const Conv2dSpec& s, int threads) {
  // A vector of sums: six products for each value, then the transform of the output. A vector of V: six
  // products and their loads.
  constexpr double kOutput = 24, kInput = 6;
  const double vl = kernels().vl;
  const double tiles = static_cast<double>(ceil_div(s.q, row_winograd_tile(row_winograd_taps(s))) * s.n);
  const double outputs = static_cast<double>(s.p * ceil_div(s.o, kernels().vl));
  const double depth = static_cast<double>(s.kh * s.sw * s.c);
  const double lines = static_cast<double>((s.p - 1) * s.sh + s.kh);
  const double sums = tiles * outputs * (kRowWinogradSide * depth + kOutput);
  const double input = tiles * lines * static_cast<double>(s.sw * s.c) * kInput;
  return 2 * vl * (sums + input) / kProductFlops / std::max(1, threads);
}

int64_t row_winograd_floats(const Conv2dSpec& s) {
  const int64_t vl = kernels().vl;
  return ceil_div(s.o, vl) * vl * kRowWinogradSide * s.kh * s.sw * s.c;
}

void pack_row_winograd(const Conv2dSpec& s, const float* w, float* packed) {
  const RowWinogradWeights g{static_cast<int>(row_winograd_taps(s)), s.kh, s.kw, s.sw, s.c, s.o, w, packed};
  kernels().row_winograd.weights(&g);
}

void conv2d_row_winograd(const Conv2dSpec& s, const float* x, const float* packed, const Epilogue& epilogue,
                         float* y) {
  if (s.n * s.p * s.q * s.o == 0) return;
  const int64_t taps = row_winograd_taps(s), tile = row_winograd_tile(taps), tiles = ceil_div(s.q, tile);
  const int64_t c = s.sw * s.c, line = tiles * c * kRowWinogradRoom;
  const int threads = threads_for(gemm_nanoseconds(s.flops()));
  const int64_t most = std::max<int64_t>(10, (kBandFloats / line - s.kh) / s.sh + 1);
  const int64_t share = threads == 1 ? s.p : ceil_div(s.n * s.p, 4 * threads);
  // In groups of as many rows as the kernel sums at a time.
  const int64_t groups = ceil_div(s.p, kRowWinogradRows);
  const int64_t bands = std::min(groups, ceil_div(s.p, std::min(most, share)));
  parallel_for(s.n * bands, threads, [&](int64_t task) {
    const int64_t band = task % bands, image = task / bands;
    const int64_t p0 = band * groups / bands * kRowWinogradRows;
    const int64_t p1 = std::min(s.p, (band + 1) * groups / bands * kRowWinogradRows);
    const int64_t lines = (p1 - p0 - 1) * s.sh + s.kh;
    auto** at =
        static_cast<const float**>(thread_scratch(Slot::kRows, static_cast<size_t>(lines) * sizeof(float*)));
    for (int64_t i = 0; i < lines; ++i) {
      const int64_t row = p0 * s.sh - s.pt + i;
      at[i] = row < 0 || row >= s.h ? nullptr : x + (image * s.h + row) * s.w * s.ldx;
    }
    auto* v =
        static_cast<float*>(thread_scratch(Slot::kImage, static_cast<size_t>(lines * line) * sizeof(float)));
    const RowWinogradInput input{at, lines, s.w, s.c, s.ldx, s.pl, s.sw, tiles, tile, v};
    kernels().row_winograd.input(&input);
    RowWinogradRows g{};
    g.taps = static_cast<int>(taps);
    g.depth = s.kh * c, g.lines = lines, g.c = c;
    g.stride = s.sh;
    g.rows = p1 - p0, g.tiles = tiles, g.q = s.q, g.o = s.o;
    g.v = v, g.u = packed;
    g.ldy = s.ldy, g.row_step = s.q * s.ldy;
    const int64_t to = (image * s.p + p0) * g.row_step;
    g.bias = epilogue.bias;
    g.residual = epilogue.residual ? epilogue.residual + to : nullptr;
    g.activation = epilogue.activation, g.slope = epilogue.slope;
    g.y = y + to;
    kernels().row_winograd.rows(&g);
  });
}

}  // namespace cnnfast
