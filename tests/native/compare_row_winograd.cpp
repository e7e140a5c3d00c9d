// Winograd's algorithm along rows: weights, input and sums together, as their layouts depend on the vector.
#include <algorithm>

#include "harness.h"

CNNFAST_EXPECT_KERNELS(RowWinogradKernels, void (*input)(const cnnfast::RowWinogradInput*);
                       void (*rows)(const cnnfast::RowWinogradRows*);
                       void (*weights)(const cnnfast::RowWinogradWeights*);)

namespace compare {
namespace {

struct Problem {
  int64_t h, w, c, kh, kw, o, stride_y, stride_x, top, left, q;
  int activation, gap;  // channels between those of x and of y
  bool bias, residual;
};

struct Operands {
  const Floats &x, &weights, &bias, &residual;
};

int64_t rows_of(const Problem& p) { return (p.h + 2 * p.top - p.kh) / p.stride_y + 1; }

void run(const KernelTable& table, const Problem& p, Guard guard, const Operands& of, const Floats& y) {
  const int64_t taps = (p.kw + p.stride_x - 1) / p.stride_x, tile = cnnfast::row_winograd_tile(taps);
  const int64_t tiles = (p.q + tile - 1) / tile, rows = rows_of(p), lines = (rows - 1) * p.stride_y + p.kh;
  const int64_t c = p.stride_x * p.c, depth = p.kh * c, vectors = (p.o + table.vl - 1) / table.vl;
  const Floats u = filled(vectors * table.vl * depth * cnnfast::kRowWinogradSide, guard, NAN);
  const cnnfast::RowWinogradWeights packing{static_cast<int>(taps), p.kh,    p.kw, p.stride_x, p.c, p.o,
                                            of.weights.data(),      u.data()};
  table.row_winograd.weights(&packing);
  Array<const float*> at(lines, guard);
  const int64_t ldx = p.c + p.gap, ldy = p.o + p.gap;
  for (int64_t i = 0; i < lines; ++i) {
    const int64_t row = i - p.top;
    at[i] = row < 0 || row >= p.h ? nullptr : of.x.data() + row * p.w * ldx;
  }
  const Floats v = filled(tiles * lines * c * cnnfast::kRowWinogradRoom, guard, NAN);
  const cnnfast::RowWinogradInput input{at.data(), lines,      p.w,   p.c,  ldx,
                                        p.left,    p.stride_x, tiles, tile, v.data()};
  table.row_winograd.input(&input);
  cnnfast::RowWinogradRows g{};
  g.taps = static_cast<int>(taps);
  g.depth = depth, g.lines = lines, g.c = c, g.stride = p.stride_y;
  g.rows = rows, g.tiles = tiles, g.q = p.q, g.o = p.o;
  g.v = v.data(), g.u = u.data();
  g.bias = p.bias ? of.bias.data() : nullptr;
  g.residual = p.residual ? of.residual.data() : nullptr;
  g.activation = p.activation, g.slope = 0.125f;
  g.y = y.data();
  g.ldy = ldy, g.row_step = p.q * ldy;
  table.row_winograd.rows(&g);
}

// The greatest sum of absolute products.
double scale_of(const Problem& p, const Operands& of) {
  double greatest = 0;
  for (int64_t r = 0; r < rows_of(p); ++r)
    for (int64_t q = 0; q < p.q; ++q)
      for (int64_t o = 0; o < p.o; ++o) {
        double sum = 0;
        for (int64_t i = 0; i < p.kh; ++i)
          for (int64_t j = 0; j < p.kw; ++j) {
            const int64_t y = r * p.stride_y + i - p.top, x = q * p.stride_x + j - p.left;
            if (y < 0 || y >= p.h || x < 0 || x >= p.w) continue;
            for (int64_t k = 0; k < p.c; ++k)
              sum += std::fabs(static_cast<double>(of.x[(y * p.w + x) * (p.c + p.gap) + k]) *
                               of.weights[((i * p.kw + j) * p.c + k) * p.o + o]);
          }
        greatest = std::max(greatest, sum);
      }
  return greatest;
}

void compare_one(const KernelTable& base, const KernelTable& level, const Problem& p, Guard guard,
                 Random& random, Report& report) {
  // The last pixel ends with its last channel.
  const int64_t outputs = rows_of(p) * p.q * (p.o + p.gap) - p.gap;
  const Floats x = random.floats(p.h * p.w * (p.c + p.gap) - p.gap, guard);
  const Floats weights = random.floats(p.kh * p.kw * p.c * p.o, guard);
  const Floats bias = random.floats(p.o, guard), residual = random.floats(outputs, guard);
  const Operands of{x, weights, bias, residual};
  // What lies between the pixels of y stays as it is.
  const Floats expected = filled(outputs, guard, 7.0f), got = filled(outputs, guard, 7.0f);
  run(base, p, guard, of, expected);
  run(level, p, guard, of, got);
  const double scale = scale_of(p, of) + 2;
  std::vector<double> bounds;
  for (int64_t i = 0; i < outputs; ++i) bounds.push_back(i % (p.o + p.gap) >= p.o ? 0 : 64 * kUnit * scale);
  char what[160];
  std::snprintf(what, sizeof what,
                "%dx%dx%d kernel %dx%d to %d stride %dx%d padding %dx%d columns %d activation %d gap %d",
                static_cast<int>(p.h), static_cast<int>(p.w), static_cast<int>(p.c), static_cast<int>(p.kh),
                static_cast<int>(p.kw), static_cast<int>(p.o), static_cast<int>(p.stride_y),
                static_cast<int>(p.stride_x), static_cast<int>(p.top), static_cast<int>(p.left),
                static_cast<int>(p.q), p.activation, p.gap);
  report.same(what, expected.data(), got.data(), outputs, &bounds);
}

}  // namespace

void compare_row_winograd(const KernelTable& base, const KernelTable& level, Guard guard, Report& report) {
  Random random(12);
  for (int i = 0; i < 200; ++i) {
    Problem p{};
    p.stride_y = 1 + random.below(3), p.stride_x = 1 + random.below(4);
    const int64_t taps = 3 + random.below(3);
    p.kh = 1 + random.below(5), p.kw = (taps - 1) * p.stride_x + 1 + random.below(p.stride_x);
    p.h = p.kh + random.below(14), p.w = p.kw + random.below(24);
    p.c = 1 + random.below(7), p.o = 1 + random.below(40);
    p.top = random.below(p.kh), p.left = random.below(p.kw);
    p.q = (p.w + p.left + random.below(p.kw) - p.kw) / p.stride_x + 1;
    p.activation = static_cast<int>(random.below(8));
    p.gap = static_cast<int>(random.below(2) * random.below(4));
    p.bias = random.below(2) == 0, p.residual = random.below(2) == 0;
    compare_one(base, level, p, guard, random, report);
  }
}

}  // namespace compare
