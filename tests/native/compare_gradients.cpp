// Sums of outer products over pixels, and the gradients of depthwise convolution.
#include <algorithm>

#include "harness.h"

CNNFAST_EXPECT_KERNELS(OuterKernels, int64_t widest; int64_t (*rows)(); void (*block)();)
CNNFAST_EXPECT_KERNELS(DepthwiseGradKernels, void (*weight)(); void (*input)();)

namespace compare {

void compare_outer(const KernelTable& base, const KernelTable& level, Guard guard, Report& report) {
  Random random(21);
  for (int64_t n : {1, 3, 4, 7, 8, 9, 15, 16, 17, 24, 31, 33, 40, 48, 50, 64}) {
    if (n > level.outer.widest) continue;
    const int64_t vl = level.vl, b_step = (n + vl - 1) / vl * vl, rows = level.outer.rows(n), ldy = n + 3;
    for (int64_t m = 1; m <= rows; ++m) {
      const int64_t pixels = 23, a_step = 2 * m;
      // A run with a step, a short one, an empty list now and then.
      const cnnfast::OuterRun runs[] = {{1, 2, 9}, {20, 15, 1}, {22, 16, 7}};
      const int64_t count = random.below(8) ? 3 : 0;
      const Floats a = random.floats((22 + 2 * 6) * m + m, guard), b = random.floats(pixels * b_step, guard);
      const Floats start = random.floats((m - 1) * ldy + n, guard);
      const bool first = random.below(2);
      Floats got(start.size(), guard), expected(start.size(), guard);
      std::copy(start.begin(), start.end(), got.begin());
      std::copy(start.begin(), start.end(), expected.begin());
      const cnnfast::OuterBlock t{runs,   count, a.data(), b.data(),   m,   a_step,
                                  b_step, m,     n,        got.data(), ldy, first};
      level.outer.block(&t);
      // The portable level may take narrower tiles: there it goes by single columns and rows.
      std::vector<double> bounds(static_cast<size_t>(start.size()), 0.0);
      for (int64_t i = 0; i < m; ++i)
        for (int64_t j = 0; j < n; ++j) {
          double size = std::fabs(start[i * ldy + j]);
          for (int64_t r = 0; r < count; ++r)
            for (int64_t k = 0; k < runs[r].count; ++k)
              size += std::fabs(a[runs[r].a * m + k * a_step + i] * b[(runs[r].b + k) * b_step + j]);
          bounds[static_cast<size_t>(i * ldy + j)] = 40 * kUnit * size;
        }
      for (int64_t i = 0; i < m; ++i)
        for (int64_t j = 0; j < n; j += base.vl) {
          const int64_t part = std::min<int64_t>(base.vl, n - j);
          cnnfast::OuterBlock one = t;
          one.m = 1, one.n = part;
          one.a = a.data() + i, one.b = b.data() + j;
          one.y = expected.data() + i * ldy + j;
          base.outer.block(&one);
        }
      report.same("outer", expected.data(), got.data(), start.size(), &bounds);
    }
  }
}

void compare_depthwise_grad(const KernelTable& base, const KernelTable& level, Guard guard, Report& report) {
  Random random(22);
  for (int64_t c : {1, 3, 8, 16, 17, 33, 64, 70})
    for (int64_t kw : {1, 2, 3, 4, 5, 7, 8})
      for (int64_t step : {1, 2})
        for (int64_t dilation : {1, 3}) {
          const int64_t w = 9, pl = kw / 2 * dilation, span = dilation * (kw - 1) + 1;
          const int64_t q = (w + 2 * pl - span) / step + 1, lines = 2, rest = c > 20 ? 2 : 0;
          const Floats x = random.floats(lines * w * c, guard), g = random.floats(lines * q * c, guard);
          // Channels `rest` .. c of wider pixels.
          cnnfast::DepthwiseGradLine of[2];
          for (int64_t l = 0; l < lines; ++l)
            of[l] = {x.data() + l * w * c + rest, g.data() + l * q * c + rest};
          Floats expected(kw * c, guard), got(kw * c, guard);
          cnnfast::DepthwiseGradWeight t{
              of, lines, w, q, c, kw, step, dilation, pl, c - rest, expected.data() + rest};
          base.depthwise_grad.weight(&t);
          t.y = got.data() + rest;
          level.depthwise_grad.weight(&t);
          const std::vector<double> bounds(
              static_cast<size_t>(kw * c),
              static_cast<double>(2 * lines * q) * kUnit * static_cast<double>(lines * q));
          report.same("weight", expected.data(), got.data(), kw * c, &bounds);
        }
  for (int64_t c : {1, 5, 16, 17, 64, 65, 200})
    for (int64_t taps : {0, 1, 4, 9}) {
      const Floats g = random.floats(taps * c, guard), w = random.floats(taps * c, guard);
      std::vector<const float*> gs, ws;
      for (int64_t t = 0; t < taps; ++t) gs.push_back(g.data() + t * c), ws.push_back(w.data() + t * c);
      Floats expected(c, guard), got(c, guard);
      base.depthwise_grad.input(gs.data(), ws.data(), taps, c, expected.data());
      level.depthwise_grad.input(gs.data(), ws.data(), taps, c, got.data());
      const std::vector<double> bounds(static_cast<size_t>(c), static_cast<double>(2 * taps * taps) * kUnit);
      report.same("input", expected.data(), got.data(), c, &bounds);
    }
}

}  // namespace compare
