#include "cpu/pixel_lanes.h"

#include <algorithm>

#include "core/arena.h"
#include "core/threads.h"
#include "cpu/gemm.h"
#include "kernels/table.h"

namespace cnnfast {
namespace {

// Planes of a band of rows, in the first- or second-level cache.
constexpr int64_t kBandFloats = 16384;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Adds the residual to finished sums, then the activation.
void finish_rows(const Conv2dSpec& s, const Epilogue& e, int64_t row, int64_t rows, float* y) {
  const bool dense = s.ldy == s.o;
  const int64_t pixels = rows * s.q, pieces = dense ? 1 : pixels, length = dense ? pixels * s.o : s.o;
  for (int64_t piece = 0; piece < pieces; ++piece) {
    const int64_t at = (row * s.q + piece) * s.ldy;
    for (int64_t i = 0; i < length; ++i) y[at + i] += e.residual[at + i];
    if (e.activation) kernels().pointwise.activate(e.activation, e.slope, y + at, y + at, length);
  }
}

}  // namespace

bool pixels_across_lanes(const Conv2dSpec& s) {
  if (s.groups != 1 || s.o > kPixelOutputs || s.kh * s.kw == 1 || s.depth() > kLineLength) return false;
  // Vectors of products for a pixel and an input channel, in lanes. Values that do not lie side by side are
  // collected one by one; GEMM fills its lanes with 8 channels.
  const int64_t vl = kernels().vl, taps = s.kh * s.kw;
  const int64_t collecting = s.c * s.sw == 1 ? 0 : 16 * s.sh * s.sw;
  return (collecting + taps * s.o) * s.q + taps * s.o * (ceil_div(s.q, vl) * vl - s.q) <= 8 * taps * s.q;
}

bool pools_sums(const Conv2dSpec& s, const PoolSpec& pool) {
  const bool side_by_side = (pool.sh == 2 || pool.p == 1) && (pool.sw == 2 || pool.q == 1);
  const bool inside = pool.pt == 0 && pool.pl == 0 && 2 * pool.p <= s.p && 2 * pool.q <= s.q;
  return pixels_across_lanes(s) && pool.kh == 2 && pool.kw == 2 && pool.dh == 1 && pool.dw == 1 &&
         side_by_side && inside;
}

void conv2d_by_pixels(const Conv2dSpec& s, const PoolSpec* pool, const float* x, const float* w,
                      const Epilogue& epilogue, float* y) {
  const int64_t vl = kernels().vl, height = pool ? 2 : 1;  // sums behind a row of y
  const int64_t rows = pool ? pool->p : s.p, q = pool ? 2 * pool->q : s.q, ldy = pool ? pool->ldy : s.ldy;
  const int64_t row_step = (pool ? pool->q : s.q) * ldy;
  if (s.n * rows * q == 0) return;

  const int64_t reach = (s.kw - 1) * s.dw, plane = ceil_div(ceil_div(q, vl) * vl + reach / s.sw, vl) * vl;
  const int64_t line = s.c * s.sw * plane, values = s.kw * s.c;
  Buffer offsets(static_cast<size_t>(values) * sizeof(int64_t));
  auto* at = offsets.as<int64_t>();
  for (int64_t j = 0; j < s.kw; ++j)
    for (int64_t k = 0; k < s.c; ++k)
      at[j * s.c + k] = (k * s.sw + j * s.dw % s.sw) * plane + j * s.dw / s.sw;

  PixelRows block{};
  block.kh = s.kh, block.values = values;
  block.at = at;
  block.w = w;
  block.bias = epilogue.bias;
  block.activation = epilogue.residual ? kNone : epilogue.activation;
  block.slope = epilogue.slope;
  block.q = q, block.o = s.o;
  block.pools = pool != nullptr;
  block.ldy = ldy, block.row_step = row_step;

  const int threads = threads_for(gemm_nanoseconds(s.flops()));
  const int64_t most = std::max<int64_t>(1, kBandFloats / line / (s.sh * height));
  const int64_t share = threads == 1 ? rows : ceil_div(s.n * rows, 4 * threads);
  const int64_t bands = ceil_div(rows, std::max<int64_t>(1, std::min(most, share)));
  const float* zero = zeros(static_cast<size_t>(line));
  parallel_for(s.n * bands, threads, [&](int64_t task) {
    const int64_t band = task % bands, image = task / bands;
    const int64_t r0 = band * rows / bands, r1 = (band + 1) * rows / bands;
    const int64_t p0 = r0 * height, p1 = r1 * height;
    const int64_t top = std::max<int64_t>(0, p0 * s.sh - s.pt);
    const int64_t bottom = std::min(s.h, (p1 - 1) * s.sh - s.pt + (s.kh - 1) * s.dh + 1);
    const int64_t count = std::max<int64_t>(0, bottom - top);
    auto* to = static_cast<float*>(
        thread_scratch(Slot::kImage, static_cast<size_t>(count * line + 1) * sizeof(float)));
    const float* from = x + (image * s.h + top) * s.w * s.ldx;
    const PixelPlanes planes{from, count, s.w * s.ldx, s.w, s.c, s.ldx, s.pl, s.sw, to, line, plane};
    kernels().pixels.planes(&planes);
    auto** lines = static_cast<const float**>(
        thread_scratch(Slot::kRows, static_cast<size_t>((p1 - p0) * s.kh) * sizeof(float*)));
    for (int64_t p = p0; p < p1; ++p)
      for (int64_t i = 0; i < s.kh; ++i) {
        const int64_t iy = p * s.sh - s.pt + i * s.dh;
        lines[(p - p0) * s.kh + i] = iy < 0 || iy >= s.h ? zero : to + (iy - top) * line;
      }
    PixelRows own = block;
    own.lines = lines;
    own.rows = p1 - p0;
    own.y = y + (image * rows + r0) * row_step;
    kernels().pixels.rows(&own);
    if (epilogue.residual) finish_rows(s, epilogue, image * rows + r0, r1 - r0, y);
  });
}

}  // namespace cnnfast
