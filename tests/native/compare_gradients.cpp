// Gradients: sums of outer products over pixels, depthwise convolution, pooling, batch normalisation and
// activations.
#include <algorithm>

#include "harness.h"

CNNFAST_EXPECT_KERNELS(OuterKernels, int64_t widest; int64_t (*rows)(); void (*block)();
                       void (*add_windows)();)
CNNFAST_EXPECT_KERNELS(DepthwiseGradKernels, void (*weight)(); void (*input)();)
CNNFAST_EXPECT_KERNELS(PoolGradKernels, void (*max_row)(); void (*average_row)();)
CNNFAST_EXPECT_KERNELS(TrainKernels, void (*moments)(); void (*norm_sums)(); void (*norm_grad)();
                       void (*activation_grad)(); void (*sigmoid_cross_entropy)();)

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
      const int64_t ahead = random.below(2) ? 24 * a_step : 0;
      const cnnfast::OuterBlock t{runs,  count, a.data(), b.data(),   m,   a_step, b_step,
                                  ahead, m,     n,        got.data(), ldy, first};
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
  // Windows of n values, some of which begin before y or end behind it.
  for (int64_t n : {1, 5, 8, 15, 16, 17, 30, 33, 70})
    for (int64_t step : {1, 6, 20})
      for (int64_t row_count : {1, 2, 5}) {
        const int64_t q = 7, ld = n + 3, start = random.below(2) ? 0 : -n / 2 - 1;
        const int64_t size = start + (q - 1) * step + (random.below(2) ? n : (n + 1) / 2);
        if (size < 1) continue;
        const Floats x = random.floats((row_count * q - 1) * ld + n, guard);
        std::vector<const float*> rows;
        for (int64_t r = 0; r < row_count; ++r) rows.push_back(x.data() + r * q * ld);
        Floats results[2] = {random.floats(size, guard), Floats(size, guard)};
        std::copy(results[0].begin(), results[0].end(), results[1].begin());
        const KernelTable* tables[2] = {&base, &level};
        for (int k = 0; k < 2; ++k) {
          const cnnfast::WindowRows t{rows.data(), row_count, q, ld, n, start, step, results[k].data(), size};
          tables[k]->outer.add_windows(&t);
        }
        report.same("windows", results[0].data(), results[1].data(), size);
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

void compare_pool_grad(const KernelTable& base, const KernelTable& level, Guard guard, Report& report) {
  Random random(23);
  for (int64_t c : {1, 3, 8, 16, 17, 33, 70})
    for (int64_t kw : {1, 2, 3, 5})
      for (int64_t step : {1, 2, 5})
        for (int64_t dilation : {1, 2}) {
          const int64_t w = 11, rows = 3, pl = kw / 2, ld = c + 1, count = (w - 1) * ld + c;
          const int64_t q = (w + 2 * pl - dilation * (kw - 1) - 1) / step + 1;
          // Whole numbers have ties.
          Floats x = random.floats(rows * count, guard, -3, 3);
          for (float& v : x) v = std::floor(v);
          x[random.below(rows * count)] = NAN;
          const Floats g = random.floats((q - 1) * ld + c, guard), start = random.floats(rows * count, guard);
          std::vector<double> divisors;
          for (int64_t i = 0; i < q; ++i) divisors.push_back(static_cast<double>(random.below(3) + 1));
          const bool apart = kw == 1 || step > (kw - 1) * dilation;
          for (int what = 0; what < (apart ? 4 : 2); ++what) {
            const bool max = what % 2;
            Floats results[2] = {Floats(rows * count, guard), Floats(rows * count, guard)};
            const KernelTable* tables[2] = {&base, &level};
            for (int k = 0; k < 2; ++k) {
              std::copy(start.begin(), start.end(), results[k].begin());
              const float* from[rows];
              float* to[rows];
              for (int64_t r = 0; r < rows; ++r)
                from[r] = x.data() + r * count, to[r] = results[k].data() + r * count;
              const cnnfast::PoolGradRow t{from,     to, rows,     g.data(), w,
                                           q,        c,  ld,       kw,       step,
                                           dilation, pl, what > 1, 2.0,      divisors.data()};
              (max ? tables[k]->pool_grad.max_row : tables[k]->pool_grad.average_row)(&t);
            }
            report.same(max ? "maximum" : "average", results[0].data(), results[1].data(), rows * count);
          }
        }
}

void compare_train(const KernelTable& base, const KernelTable& level, Guard guard, Report& report) {
  Random random(24);
  const KernelTable* tables[2] = {&base, &level};
  for (int64_t n : {1, 2, 5, 8, 15, 16, 17, 33, 64, 65, 130})
    for (int64_t rows : {1, 3, 4, 9}) {
      const Floats x = random.floats(rows * n, guard), g = random.floats(rows * n, guard);
      const Floats mean = random.floats(n, guard), factor = random.floats(n, guard);
      const Floats shift = random.floats(n, guard), level_of = random.floats(n, guard);
      const Floats slope = random.floats(n, guard);
      const std::vector<double> of_sums(static_cast<size_t>(n), 64 * kUnit * static_cast<double>(rows));
      const std::vector<double> of_values(static_cast<size_t>(rows * n), 32 * kUnit);
      Floats first[2] = {Floats(n, guard), Floats(n, guard)},
             second[2] = {Floats(n, guard), Floats(n, guard)};
      for (int k = 0; k < 2; ++k) {
        const cnnfast::MomentRows t{x.data(), mean.data(), first[k].data(), second[k].data(), rows, n};
        tables[k]->train.moments(&t);
      }
      report.same("sums", first[0].data(), first[1].data(), n, &of_sums);
      report.same("squares", second[0].data(), second[1].data(), n, &of_sums);
      for (int activation : {cnnfast::kNone, cnnfast::kRelu, cnnfast::kRelu6}) {
        Floats dx[2] = {Floats(rows * n, guard), Floats(rows * n, guard)};
        for (int k = 0; k < 2; ++k) {
          const cnnfast::NormGradRows t{
              x.data(),         g.data(),     mean.data(),     factor.data(), shift.data(), first[k].data(),
              second[k].data(), dx[k].data(), level_of.data(), slope.data(),  rows,         n,
              activation};
          tables[k]->train.norm_sums(&t);
          tables[k]->train.norm_grad(&t);
        }
        report.same("sums of gradients", first[0].data(), first[1].data(), n, &of_sums);
        report.same("products", second[0].data(), second[1].data(), n, &of_sums);
        report.same("gradients", dx[0].data(), dx[1].data(), rows * n, &of_values);
      }
    }
  for (int64_t n : {1, 7, 16, 17, 63, 130})
    for (int kind = 0; kind < 8; ++kind) {
      Floats v = random.floats(n, guard, -9, 9);
      const Floats g = random.floats(n, guard);
      const float special[] = {0.0f, 3.0f, -3.0f, 6.0f, INFINITY, -INFINITY, NAN};
      if (random.below(2)) v[random.below(n)] = special[random.below(7)];
      Floats y[2] = {Floats(n, guard), Floats(n, guard)};
      for (int k = 0; k < 2; ++k)
        tables[k]->train.activation_grad(kind, 0.125f, g.data(), v.data(), y[k].data(), n);
      // Results far outside 0 .. 1, which sigmoid and tanh never give, make large products.
      const std::vector<double> bounds(static_cast<size_t>(n), 1200 * kUnit);
      report.same("activation", y[0].data(), y[1].data(), n, kind <= cnnfast::kTanh ? nullptr : &bounds);
    }
  for (int64_t n : {1, 7, 16, 17, 63, 130})
    for (auto what :
         {cnnfast::SigmoidLoss::kLoss, cnnfast::SigmoidLoss::kByScore, cnnfast::SigmoidLoss::kByTarget}) {
      const Floats x = random.floats(n, guard, -30, 30), t = random.floats(n, guard, 0, 1);
      const Floats g = random.floats(n, guard);
      x[random.below(n)] = random.below(2) ? INFINITY : NAN;
      Floats y[2] = {Floats(n, guard), Floats(n, guard)};
      std::vector<double> bounds;
      for (int k = 0; k < 2; ++k) {
        const cnnfast::SigmoidRun run{g.data(), x.data(), t.data(), y[k].data(), n, 0.75f};
        tables[k]->train.sigmoid_cross_entropy(what, &run);
      }
      // Terms of at most |x| + ln 2, each within an exponential and eight roundings, on both sides.
      for (float v : x) bounds.push_back(2 * (4e-7 + 8 * kUnit) * (std::fabs(v) + 0.7));
      report.same("sigmoids", y[0].data(), y[1].data(), n, &bounds);
    }
}

}  // namespace compare
