// Depthwise convolution and pooling.
#include "harness.h"

CNNFAST_EXPECT_KERNELS(DepthwiseKernels,
                       void (*band)(const cnnfast::DepthwiseImage*, int64_t, int64_t, int64_t, int64_t);
                       bool (*all_finite)();)
CNNFAST_EXPECT_KERNELS(PoolKernels, void (*max_row)(); void (*average_row)(); void (*position_row)();
                       void (*merge_rows_max)(); void (*merge_rows_sum)(); void (*reduce_max)();
                       void (*reduce_sum)();)

namespace compare {
namespace {

int64_t out_size(int64_t n, int64_t k, int64_t s, int64_t d, int64_t pads) {
  return (n + pads - d * (k - 1) - 1) / s + 1;
}

struct Depthwise {
  int64_t h, w, c, kh, kw, sh, sw, dh, dw, pt, pl;
  int activation;
  int64_t group = 1;  // channels; more than one go without vertical dilation
};

// The same sums one channel at a time: channel k of a group becomes row k of as many rows.
Depthwise without_groups(const Depthwise& p) {
  Depthwise flat = p;
  flat.h *= p.group, flat.kh *= p.group, flat.sh *= p.group, flat.pt *= p.group, flat.group = 1;
  return flat;
}
Floats rows_of_channels(const Depthwise& p, const Floats& x, Guard guard) {
  Floats flat(x.size() * p.group, guard);
  for (int64_t i = 0; i < p.h; ++i)
    for (int64_t k = 0; k < p.group; ++k)
      for (int64_t j = 0; j < p.w; ++j)
        for (int64_t c = 0; c < p.c; ++c)
          flat[((i * p.group + k) * p.w + j) * p.c + c] = x[(i * p.w + j) * p.c + c / p.group * p.group + k];
  return flat;
}
Floats rows_of_weights(const Depthwise& p, const Floats& w, Guard guard) {
  Floats flat(w.size(), guard);
  for (int64_t i = 0; i < p.kh; ++i)
    for (int64_t j = 0; j < p.kw; ++j)
      for (int64_t k = 0; k < p.group; ++k)
        for (int64_t c = 0; c < p.c; ++c)
          flat[((i * p.group + k) * p.kw + j) * p.c + c] = w[((i * p.kw + j) * p.group + k) * p.c + c];
  return flat;
}

void run(const KernelTable& table, const Depthwise& p, Guard guard, const Floats& x, const Floats& weights,
         const Floats* bias, const Floats* residual, int activation, const Floats& y) {
  const Floats zero = filled(table.vl, guard, 0.0f);
  cnnfast::DepthwiseImage image{};
  image.x = x.data();
  image.weights = weights.data();
  image.y = y.data();
  image.bias = bias ? bias->data() : nullptr;
  image.residual = residual ? residual->data() : nullptr;
  image.zero = zero.data();
  image.h = p.h, image.w = p.w, image.c = p.c, image.group = p.group;
  image.p = out_size(p.h, p.kh, p.sh, p.dh, 2 * p.pt), image.q = out_size(p.w, p.kw, p.sw, p.dw, 2 * p.pl);
  image.kh = p.kh, image.kw = p.kw, image.sh = p.sh, image.sw = p.sw, image.dh = p.dh, image.dw = p.dw;
  image.pt = p.pt, image.pl = p.pl;
  image.activation = activation;
  image.slope = 0.125f;
  image.skip_padding = true;
  // Two bands of rows, and two blocks of channels where there are enough of them.
  const int64_t middle = image.p / 2, split = p.c >= 4 * table.vl ? 2 * table.vl : 0;
  for (int64_t band = 0; band < 2; ++band)
    for (int64_t block = split ? 0 : 1; block < 2; ++block)
      table.depthwise.band(&image, band ? middle : 0, band ? image.p : middle, block ? split : 0,
                           block ? p.c : split);
}

void compare_one(const KernelTable& base, const KernelTable& level, const Depthwise& p, Guard guard,
                 Random& random, Report& report) {
  const int64_t outputs =
      out_size(p.h, p.kh, p.sh, p.dh, 2 * p.pt) * out_size(p.w, p.kw, p.sw, p.dw, 2 * p.pl) * p.c;
  const Floats x = random.floats(p.h * p.w * p.c, guard),
               weights = random.floats(p.kh * p.kw * p.group * p.c, guard);
  const Floats bias = random.floats(p.c, guard), residual = random.floats(outputs, guard);
  const bool with = p.activation % 2 == 0;
  Floats expected = filled(outputs, guard, NAN), got = filled(outputs, guard, NAN),
         sums = filled(outputs, guard, NAN);
  const Floats *b = with ? &bias : nullptr, *r = with ? &residual : nullptr;
  const Depthwise flat = without_groups(p);
  const Floats rows = rows_of_channels(p, x, guard), taps = rows_of_weights(p, weights, guard);
  run(base, flat, guard, rows, taps, b, r, p.activation, expected);
  run(level, p, guard, x, weights, b, r, p.activation, got);
  Floats sizes[4] = {Floats(rows.size(), guard), Floats(taps.size(), guard), Floats(bias.size(), guard),
                     Floats(residual.size(), guard)};
  const Floats* from[4] = {&rows, &taps, &bias, &residual};
  for (int k = 0; k < 4; ++k)
    for (int64_t i = 0; i < sizes[k].size(); ++i) sizes[k][i] = std::fabs((*from[k])[i]);
  run(base, flat, guard, sizes[0], sizes[1], with ? &sizes[2] : nullptr, with ? &sizes[3] : nullptr, 0, sums);
  std::vector<double> bounds;
  for (int64_t i = 0; i < outputs; ++i)
    bounds.push_back(1.5 * 2.0 * static_cast<double>(flat.kh * p.kw + 3) * kUnit * sums[i] +
                     (p.activation ? 8e-7 * std::fabs(expected[i]) + 1e-37 : 0));
  char what[160];
  std::snprintf(what, sizeof what,
                "%dx%dx%d kernel %dx%d stride %d,%d dilation %d,%d padding %d,%d activation %d group %d",
                static_cast<int>(p.h), static_cast<int>(p.w), static_cast<int>(p.c), static_cast<int>(p.kh),
                static_cast<int>(p.kw), static_cast<int>(p.sh), static_cast<int>(p.sw),
                static_cast<int>(p.dh), static_cast<int>(p.dw), static_cast<int>(p.pt),
                static_cast<int>(p.pl), p.activation, static_cast<int>(p.group));
  report.same(what, expected.data(), got.data(), outputs, &bounds);
}

struct Pool {
  int64_t h, w, c, kh, kw, sh, sw, dh, dw, pt, pl;
};
enum class PoolKind { kMax, kAverage, kPositions };

// As the operator does it: rows that the row kernels do not take directly are merged first.
void run(const KernelTable& table, const Pool& p, PoolKind kind, Guard guard, const Floats& x,
         const Floats& y, const Array<int64_t>& positions) {
  const cnnfast::PoolKernels& k = table.pool;
  const int64_t rows = out_size(p.h, p.kh, p.sh, p.dh, 2 * p.pt),
                columns = out_size(p.w, p.kw, p.sw, p.dw, 2 * p.pl);
  const bool direct =
      kind == PoolKind::kPositions ||
      (p.c >= table.vl && (p.kh == 1 || (p.dw == 1 && p.kh <= 3 && (p.kw == 2 || p.kw == 3) && p.sw <= 2)));
  Floats merged = filled(direct ? 0 : p.w * p.c + table.vl, guard, NAN);
  Array<double> divisors(columns, guard);
  for (int64_t q = 0; q < columns; ++q) divisors[q] = static_cast<double>(1 + q % p.kw);
  for (int64_t r = 0; r < rows; ++r) {
    std::vector<int64_t> inside;
    for (int64_t i = 0; i < p.kh; ++i) {
      const int64_t row = r * p.sh - p.pt + i * p.dh;
      if (row >= 0 && row < p.h) inside.push_back(row);
    }
    const auto count = static_cast<int64_t>(inside.size());
    Array<const float*> from(count, guard);
    Array<int64_t> starts(count, guard);
    for (int64_t i = 0; i < count; ++i) {
      from[i] = x.data() + inside[static_cast<size_t>(i)] * p.w * p.c;
      starts[i] = inside[static_cast<size_t>(i)] * p.w;
    }
    cnnfast::PoolRow row{from.data(),
                         count,
                         y.data() + r * columns * p.c,
                         p.w,
                         p.c,
                         columns,
                         p.c,
                         p.c,
                         p.kw,
                         p.sw,
                         p.dw,
                         p.pl,
                         3.0,
                         divisors.data(),
                         positions.data() + r * columns * p.c,
                         starts.data()};
    if (!direct) {
      (kind == PoolKind::kMax ? k.merge_rows_max : k.merge_rows_sum)(merged.data(), from.data(), count,
                                                                     p.w * p.c);
      from[0] = merged.data();
      row.rows = 1;
    }
    (kind == PoolKind::kMax ? k.max_row : kind == PoolKind::kAverage ? k.average_row : k.position_row)(&row);
  }
}

void compare_one(const KernelTable& base, const KernelTable& level, const Pool& p, PoolKind kind, Guard guard,
                 Random& random, Report& report) {
  const int64_t outputs =
      out_size(p.h, p.kh, p.sh, p.dh, 2 * p.pt) * out_size(p.w, p.kw, p.sw, p.dw, 2 * p.pl) * p.c;
  // Repeated values for the ties, and NaN; which of two zeros a maximum gives is left open.
  Floats x = random.floats(p.h * p.w * p.c, guard);
  for (float& v : x) {
    const int64_t roll = random.below(40);
    v = roll == 0 ? NAN : roll == 1 ? INFINITY : roll == 2 ? -INFINITY : roll < 12 ? 0.5f : v;
  }
  Floats expected = filled(outputs, guard, 7.0f), got = filled(outputs, guard, 7.0f);
  const int64_t places = kind == PoolKind::kPositions ? outputs : 0;
  Array<int64_t> where(places, guard), found(places, guard);
  run(base, p, kind, guard, x, expected, where);
  run(level, p, kind, guard, x, got, found);
  char what[160];
  std::snprintf(what, sizeof what, "%s %dx%dx%d window %dx%d stride %d,%d dilation %d,%d padding %d,%d",
                kind == PoolKind::kMax       ? "max"
                : kind == PoolKind::kAverage ? "average"
                                             : "positions",
                static_cast<int>(p.h), static_cast<int>(p.w), static_cast<int>(p.c), static_cast<int>(p.kh),
                static_cast<int>(p.kw), static_cast<int>(p.sh), static_cast<int>(p.sw),
                static_cast<int>(p.dh), static_cast<int>(p.dw), static_cast<int>(p.pt),
                static_cast<int>(p.pl));
  report.same(what, expected.data(), got.data(), outputs);
  if (places) report.same_integers(what, where.data(), found.data(), places);
}

void compare_reductions(const KernelTable& base, const KernelTable& level, int64_t n, int64_t c, Guard guard,
                        Random& random, Report& report) {
  for (int64_t step : {c, c + 3}) {
    const Floats x = random.floats((n - 1) * step + c, guard);
    Floats size(x.size(), guard);
    for (int64_t i = 0; i < x.size(); ++i) size[i] = std::fabs(x[i]);
    Floats expected(c, guard), got(c, guard), sums(c, guard);
    base.pool.reduce_max(expected.data(), x.data(), step, c, n);
    level.pool.reduce_max(got.data(), x.data(), step, c, n);
    report.same("reduce_max", expected.data(), got.data(), c);
    base.pool.reduce_sum(expected.data(), x.data(), step, c, n);
    level.pool.reduce_sum(got.data(), x.data(), step, c, n);
    base.pool.reduce_sum(sums.data(), size.data(), step, c, n);
    // Narrow pixels are added in an order that depends on the number of lanes.
    std::vector<double> bounds;
    for (float sum : sums) bounds.push_back(2 * static_cast<double>(n) * kUnit * sum);
    report.same("reduce_sum", expected.data(), got.data(), c, &bounds);
  }
  // Four rows of n * c values, merged.
  const Floats rows = random.floats(4 * n * c, guard);
  const float* from[4] = {rows.data(), rows.data() + n * c, rows.data() + 2 * n * c, rows.data() + 3 * n * c};
  Floats expected(n * c, guard), got(n * c, guard);
  base.pool.merge_rows_max(expected.data(), from, 4, n * c);
  level.pool.merge_rows_max(got.data(), from, 4, n * c);
  report.same("merge_rows_max", expected.data(), got.data(), n * c);
  base.pool.merge_rows_sum(expected.data(), from, 4, n * c);
  level.pool.merge_rows_sum(got.data(), from, 4, n * c);
  report.same("merge_rows_sum", expected.data(), got.data(), n * c);
}

}  // namespace

void compare_depthwise(const KernelTable& base, const KernelTable& level, Guard guard, Report& report) {
  Random random(2);
  int activation = 0;
  for (int64_t c : {1, 3, 7, 8, 16, 17, 33, 64, 80}) {
    const Depthwise problems[] = {
        {7, 7, c, 3, 3, 1, 1, 1, 1, 1, 1, 0},   {8, 19, c, 3, 3, 2, 2, 1, 1, 1, 1, 0},
        {9, 11, c, 5, 5, 1, 1, 1, 1, 2, 2, 0},  {11, 9, c, 5, 5, 2, 2, 1, 1, 0, 0, 0},
        {12, 13, c, 7, 7, 1, 1, 1, 1, 3, 3, 0}, {9, 10, c, 3, 3, 1, 1, 2, 3, 2, 3, 0},
        {10, 7, c, 2, 4, 3, 1, 1, 1, 0, 2, 0},  {5, 6, c, 1, 1, 1, 1, 1, 1, 0, 0, 0},
        {3, 2, c, 3, 5, 1, 1, 1, 1, 1, 4, 0},   {12, 21, c, 3, 3, 2, 1, 1, 1, 1, 0, 0},
    };
    for (Depthwise p : problems) {
      p.activation = activation++ % 8;
      compare_one(base, level, p, guard, random, report);
    }
  }
  for (int64_t group : {2, 4, 8})
    for (int64_t groups : {1, 2, 3, 5, 8, 20}) {
      const int64_t c = group * groups;
      const Depthwise problems[] = {
          {7, 19, c, 3, 3, 1, 1, 1, 1, 1, 1, 0, group}, {8, 19, c, 3, 3, 2, 2, 1, 1, 1, 1, 0, group},
          {9, 6, c, 2, 3, 3, 1, 1, 1, 0, 2, 0, group},  {5, 8, c, 3, 3, 1, 3, 1, 2, 2, 2, 0, group},
          {4, 5, c, 1, 2, 1, 1, 1, 1, 0, 0, 0, group},
      };
      for (Depthwise p : problems) {
        p.activation = activation++ % 8;
        if (group <= level.vl) compare_one(base, level, p, guard, random, report);
      }
    }
  for (int64_t count : {0, 1, 5, 16, 64, 100, 131})
    for (int64_t wrong = -1; wrong < count; ++wrong) {
      Floats weights = random.floats(count, guard);
      if (wrong >= 0) weights[wrong] = wrong % 2 ? NAN : INFINITY;
      if (level.depthwise.all_finite(weights.data(), count) != (wrong < 0))
        report.fail("all_finite", "the wrong answer");
    }
}

void compare_pool(const KernelTable& base, const KernelTable& level, Guard guard, Report& report) {
  Random random(6);
  for (int64_t c : {1, 3, 7, 8, 16, 17, 33, 64}) {
    const Pool problems[] = {
        {8, 8, c, 2, 2, 2, 2, 1, 1, 0, 0},  {9, 19, c, 3, 3, 2, 2, 1, 1, 1, 1},
        {7, 12, c, 3, 3, 1, 1, 1, 1, 1, 1}, {6, 11, c, 2, 2, 1, 1, 1, 1, 1, 1},
        {9, 10, c, 5, 4, 3, 2, 1, 1, 2, 1}, {11, 13, c, 3, 2, 1, 2, 2, 3, 1, 1},
        {5, 6, c, 1, 3, 1, 1, 1, 1, 0, 1},  {4, 4, c, 4, 4, 1, 1, 1, 1, 0, 0},
        {1, 1, c, 1, 1, 1, 1, 1, 1, 0, 0},
    };
    for (const Pool& p : problems)
      for (PoolKind kind : {PoolKind::kMax, PoolKind::kAverage, PoolKind::kPositions})
        compare_one(base, level, p, kind, guard, random, report);
  }
  for (int64_t n : {1, 2, 7, 8, 9, 16, 35, 49})
    for (int64_t c : {1, 3, 8, 15, 16, 17, 40}) compare_reductions(base, level, n, c, guard, random, report);
}

}  // namespace compare
