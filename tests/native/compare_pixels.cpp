// Convolution with few output channels.
#include "harness.h"

CNNFAST_EXPECT_KERNELS(PixelKernels, void (*planes)(const cnnfast::PixelPlanes*);
                       void (*rows)(const cnnfast::PixelRows*);)

namespace compare {
namespace {

struct Problem {
  int64_t h, w, c, kh, kw, o, stride, dilation, pad;
  bool pools;
  int activation, gap;  // channels between those of x and of y
};

int64_t up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

void run(const KernelTable& table, const Problem& p, Guard guard, const Floats& x, const Floats& weights,
         const Floats* bias, int activation, const Floats& y) {
  const int64_t reach = (p.kw - 1) * p.dilation, taps = p.kw * p.c, padded = p.h + 2 * p.pad;
  int64_t rows = padded - (p.kh - 1) * p.dilation, q = (p.w + 2 * p.pad - reach - 1) / p.stride + 1;
  if (p.pools) rows = rows / 2 * 2, q = q / 2 * 2;
  const int64_t plane = up(q, table.vl) + reach / p.stride, line = p.c * p.stride * plane;
  const Floats planes = filled(p.h * line, guard, NAN), zero = filled(line, guard, 0.0f);
  const int64_t ldx = p.c + p.gap, ldy = p.o + p.gap;
  const cnnfast::PixelPlanes to{x.data(), p.h,      p.w * ldx,     p.w,  p.c,  ldx,
                                p.pad,    p.stride, planes.data(), line, plane};
  table.pixels.planes(&to);
  Array<const float*> lines(rows * p.kh, guard);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < p.kh; ++i) {
      const int64_t row = r + i * p.dilation - p.pad;
      lines[r * p.kh + i] = row < 0 || row >= p.h ? zero.data() : planes.data() + row * line;
    }
  Array<int64_t> at(taps, guard);
  for (int64_t j = 0; j < p.kw; ++j)
    for (int64_t k = 0; k < p.c; ++k)
      at[j * p.c + k] = (k * p.stride + j * p.dilation % p.stride) * plane + j * p.dilation / p.stride;
  cnnfast::PixelRows block{};
  block.lines = lines.data();
  block.kh = p.kh, block.values = taps;
  block.at = at.data();
  block.w = weights.data();
  block.bias = bias ? bias->data() : nullptr;
  block.activation = activation;
  block.slope = 0.125f;
  block.rows = rows, block.q = q, block.o = p.o;
  block.pools = p.pools;
  block.y = y.data();
  block.ldy = ldy, block.row_step = (p.pools ? q / 2 : q) * ldy;
  table.pixels.rows(&block);
}

Floats absolute(const Floats& from, Guard guard) {
  Floats to(from.size(), guard);
  for (int64_t i = 0; i < from.size(); ++i) to[i] = std::fabs(from[i]);
  return to;
}

void compare_one(const KernelTable& base, const KernelTable& level, const Problem& p, Guard guard,
                 Random& random, Report& report) {
  int64_t rows = p.h + 2 * p.pad - (p.kh - 1) * p.dilation;
  int64_t q = (p.w + 2 * p.pad - (p.kw - 1) * p.dilation - 1) / p.stride + 1;
  if (p.pools) rows /= 2, q /= 2;
  // The last pixel ends with its last channel.
  const int64_t outputs = rows * q * (p.o + p.gap) - p.gap;
  const Floats x = random.floats(p.h * p.w * (p.c + p.gap) - p.gap, guard);
  const Floats weights = random.floats(p.kh * p.kw * p.c * p.o, guard), bias = random.floats(p.o, guard);
  const Floats* b = p.activation % 2 == 0 ? &bias : nullptr;
  // What lies between the pixels of y stays as it is.
  Floats expected = filled(outputs, guard, 7.0f), got = filled(outputs, guard, 7.0f),
         sums = filled(outputs, guard, 7.0f);
  run(base, p, guard, x, weights, b, p.activation, expected);
  run(level, p, guard, x, weights, b, p.activation, got);
  const Floats sizes = absolute(bias, guard);
  run(base, p, guard, absolute(x, guard), absolute(weights, guard), b ? &sizes : nullptr, 0, sums);
  std::vector<double> bounds;
  for (int64_t i = 0; i < outputs; ++i) {
    const bool between = i % (p.o + p.gap) >= p.o;
    const double products = static_cast<double>(p.kh * p.kw * p.c + 1);
    bounds.push_back(between ? 0
                             : 1.5 * 2.0 * products * kUnit * sums[i] +
                                   (p.activation ? 8e-7 * std::fabs(expected[i]) + 1e-37 : 0));
  }
  char what[160];
  std::snprintf(what, sizeof what,
                "%dx%dx%d kernel %dx%d to %d stride %d dilation %d padding %d pools %d activation %d gap %d",
                static_cast<int>(p.h), static_cast<int>(p.w), static_cast<int>(p.c), static_cast<int>(p.kh),
                static_cast<int>(p.kw), static_cast<int>(p.o), static_cast<int>(p.stride),
                static_cast<int>(p.dilation), static_cast<int>(p.pad), p.pools, p.activation, p.gap);
  report.same(what, expected.data(), got.data(), outputs, &bounds);
}

}  // namespace

void compare_pixels(const KernelTable& base, const KernelTable& level, Guard guard, Report& report) {
  Random random(11);
  for (int64_t o = 1; o <= cnnfast::kPixelOutputs; ++o)
    for (int64_t w : {5, 16, 20, 37, 70})
      for (bool pools : {false, true})
        compare_one(base, level, {7, w, 1 + o % 3, 3, 3, o, 1, 1, 1, pools, 0, 0}, guard, random, report);
  for (int i = 0; i < 200; ++i) {
    Problem p{};
    p.kh = 1 + random.below(4), p.kw = 1 + random.below(5);
    p.dilation = 1 + random.below(2), p.stride = 1 + random.below(3);
    p.h = (p.kh - 1) * p.dilation + 2 + random.below(5);
    p.w = (p.kw - 1) * p.dilation + 1 + p.stride + random.below(60);
    p.c = 1 + random.below(5), p.o = 1 + random.below(cnnfast::kPixelOutputs);
    p.pad = random.below(3), p.pools = random.below(2) == 0;
    p.activation = static_cast<int>(random.below(8));
    p.gap = static_cast<int>(random.below(2) * random.below(4));
    compare_one(base, level, p, guard, random, report);
  }
}

}  // namespace compare
