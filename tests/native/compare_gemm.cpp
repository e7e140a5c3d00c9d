// GEMM blocks, packing, Gram matrices.
#include "harness.h"

CNNFAST_EXPECT_KERNELS(GemmKernels, int max_vectors; int tile_rows; int sweep_rows;
                       void (*block)(const cnnfast::GemmBlock*); void (*pack)(); void (*gram)();
                       void (*dots)();)

namespace compare {
namespace {

struct Problem {
  int64_t m, taps, len, n;
  bool plain, bias, residual, even;
  int activation;
};

// All of C, computed in two calls by halves of the taps where there are several.
void run(const KernelTable& table, const Problem& p, Guard guard, bool absolute, const Floats& x,
         const Floats& b, const Floats& bias, const Floats& residual, const Floats& y) {
  const int64_t offset = 2, ldb = p.n + (p.plain ? 3 : 0), depth = p.taps * p.len;
  const int64_t panels = cnnfast::panel_count(p.n, table.vl, table.gemm.max_vectors, p.plain);
  // Of a plain matrix only the columns past the last whole vector are packed.
  const int64_t tail = p.n % table.vl;
  Floats packed(p.plain ? tail ? depth * table.vl : 0 : cnnfast::packed_floats(depth, p.n, table.vl), guard);
  if (p.plain && tail)
    table.gemm.pack(b.data() + p.n - tail, ldb, 1, depth, 0, depth, tail, 0, packed.data());
  for (int64_t i = 0; i < panels && !p.plain; ++i)
    table.gemm.pack(b.data(), ldb, 1, depth, 0, depth, p.n, i, packed.data());

  // Some rows share their data, as neighbouring windows do, and the last one is all zeros.
  Floats zero = filled(offset + p.len, guard, 0.0f);
  Array<const float*> rows(p.taps * p.m, guard);
  Array<float*> out(p.m, guard);
  for (int64_t t = 0; t < p.taps; ++t)
    for (int64_t i = 0; i < p.m; ++i)
      rows[t * p.m + i] = i + 1 == p.m && t == 0 ? zero.data() : x.data() + (t + i) * (offset + p.len);
  // Rows that lie evenly apart: neighbouring windows overlap by all but three values.
  constexpr int64_t kStep = 3;
  for (int64_t t = 0; t < p.taps && p.even; ++t) rows[t] = x.data() + t * (offset + p.len);
  // Scattered backwards, as the phases of a transpose convolution may do.
  for (int64_t i = 0; i < p.m; ++i) out[i] = y.data() + (p.m - 1 - i) * p.n;
  if (p.even) out[0] = y.data();
  const int64_t ends[2] = {(p.m + 1) / 3, p.m};

  cnnfast::GemmBlock block{};
  block.row_stride = p.even ? 1 : p.m;
  block.row_step = p.even ? kStep : 0;
  block.out_step = p.n;
  block.m = p.m;
  block.ends = p.even ? ends + 1 : ends;
  block.segments = p.even ? 1 : 2;
  block.len = p.len;
  block.offset = offset;
  block.b = p.plain ? b.data() : packed.data();
  block.b_tail = p.plain && tail ? packed.data() : nullptr;
  block.ldb = p.plain ? ldb : 0;
  block.depth = depth;
  block.n = p.n;
  block.panel_last = panels;
  // A single row: its first tap is skipped.
  block.zero = p.m == 1 ? zero.data() : nullptr;
  block.out = out.data();
  block.bias = p.bias ? bias.data() : nullptr;
  block.has_residual = p.residual;
  block.residual_delta =
      (reinterpret_cast<intptr_t>(residual.data()) - reinterpret_cast<intptr_t>(y.data())) /
      static_cast<intptr_t>(sizeof(float));
  block.activation = absolute ? 0 : p.activation;
  block.slope = 0.125f;
  // Written once, in whole vectors of every level, to aligned rows.
  block.past_cache = p.taps == 1 && p.n % 16 == 0 && block.activation <= cnnfast::kRelu6;
  const int64_t half = (p.taps + 1) / 2;
  for (int64_t tap = 0; tap < p.taps; tap += half) {
    block.rows = rows.data() + tap * block.row_stride;
    block.taps = half < p.taps - tap ? half : p.taps - tap;
    block.k0 = tap * p.len;
    block.first = tap == 0;
    block.last = tap + half >= p.taps;
    table.gemm.block(&block);
  }
}

Floats absolute(const Floats& from, Guard guard) {
  Floats to(from.size(), guard);
  for (int64_t i = 0; i < from.size(); ++i) to[i] = std::fabs(from[i]);
  return to;
}

void compare_block(const KernelTable& base, const KernelTable& level, const Problem& p, Guard guard,
                   Random& random, Report& report) {
  const int64_t depth = p.taps * p.len;
  const Floats x = random.floats((p.taps + p.m) * (4 + p.len), guard);
  // The last row of a plain matrix ends with its last column.
  const Floats b = random.floats(depth * (p.n + (p.plain ? 3 : 0)) - (p.plain ? 3 : 0), guard);
  const Floats bias = random.floats(p.n, guard), residual = random.floats(p.m * p.n, guard);
  Floats expected = filled(p.m * p.n, guard, NAN), got = filled(p.m * p.n, guard, NAN);
  run(base, p, guard, false, x, b, bias, residual, expected);
  run(level, p, guard, false, x, b, bias, residual, got);

  // Every rounding is at most one unit of the sum of absolute values; both sides have depth + 3 of them.
  Floats sums(p.m * p.n, guard);
  run(base, p, guard, true, absolute(x, guard), absolute(b, guard), absolute(bias, guard),
      absolute(residual, guard), sums);
  std::vector<double> bounds(static_cast<size_t>(p.m * p.n));
  for (int64_t i = 0; i < p.m * p.n; ++i) {
    double bound = 2.0 * static_cast<double>(depth + 4) * kUnit * sums[i];
    // Slopes are at most 1.5, and the smooth activations may be off by 4e-7 of their result on each side.
    if (p.activation) bound = 1.5 * bound + 8e-7 * std::fabs(expected[i]) + 1e-37;
    bounds[static_cast<size_t>(i)] = bound;
  }
  char what[160];
  std::snprintf(what, sizeof what, "block m %d taps %d len %d n %d %s%s bias %d residual %d activation %d",
                static_cast<int>(p.m), static_cast<int>(p.taps), static_cast<int>(p.len),
                static_cast<int>(p.n), p.plain ? "plain" : "packed", p.even ? " even" : "", p.bias,
                p.residual, p.activation);
  for (int64_t i = 0; i < p.m * p.n; ++i)
    if (std::isnan(expected[i])) return report.fail(what, "not every value was written");
  report.same(what, expected.data(), got.data(), p.m * p.n, &bounds);
}

void compare_pack(const KernelTable& level, int64_t depth, int64_t n, bool transposed, Guard guard,
                  Random& random, Report& report) {
  const int64_t ldb = transposed ? 1 : n, cs = transposed ? depth : 1;
  const Floats b = random.floats(depth * n, guard);
  const int64_t floats = cnnfast::packed_floats(depth, n, level.vl);
  Floats got(floats, guard), expected(floats, guard);
  const int64_t vectors = (n + level.vl - 1) / level.vl;
  const int64_t panels = cnnfast::panel_count(n, level.vl, level.gemm.max_vectors, false);
  float* to = expected.data();
  for (int64_t p = 0; p < panels; ++p) {
    // In two pieces of rows, as the threads share them out.
    const int64_t half = depth / 2;
    level.gemm.pack(b.data(), ldb, cs, half, 0, depth, n, p, got.data());
    level.gemm.pack(b.data() + half * ldb, ldb, cs, depth - half, half, depth, n, p, got.data());
    for (int64_t k = 0; k < depth; ++k)
      for (int64_t j = p * vectors / panels * level.vl; j < (p + 1) * vectors / panels * level.vl; ++j)
        *to++ = j < n ? b[k * ldb + j * cs] : 0.0f;
  }
  report.same("pack", expected.data(), got.data(), floats);
}

void compare_gram(const KernelTable& base, const KernelTable& level, int64_t depth, int64_t n, Guard guard,
                  Random& random, Report& report) {
  const Floats x = random.floats(2 * depth * n, guard), size = absolute(x, guard);
  Floats expected = filled(n * n, guard, NAN), got = filled(n * n, guard, NAN),
         sums = filled(n * n, guard, NAN);
  const auto gram = [&](const KernelTable& table, const Floats& from, const Floats& to) {
    for (int64_t i = 0; i < n; i += 24)
      for (int64_t part = 0; part < 2; ++part)
        table.gemm.gram(from.data() + part * depth * n, depth, n, i, i + 24 < n ? i + 24 : n, to.data(),
                        part == 0);
  };
  gram(base, x, expected);
  gram(level, x, got);
  gram(base, size, sums);
  std::vector<double> bounds;
  std::vector<float> upper[2];
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = i; j < n; ++j) {
      upper[0].push_back(expected[i * n + j]);
      upper[1].push_back(got[i * n + j]);
      bounds.push_back(2.0 * static_cast<double>(2 * depth + 1) * kUnit * sums[i * n + j]);
    }
  report.same("gram", upper[0].data(), upper[1].data(), static_cast<int64_t>(bounds.size()), &bounds);
}

void compare_dots(const KernelTable& base, const KernelTable& level, int64_t rows, int64_t depth, Guard guard,
                  Random& random, Report& report) {
  const Floats a = random.floats(rows * (depth + 1) - 1, guard), w = random.floats(depth, guard);
  Floats expected = filled(2 * rows, guard, NAN), got = filled(2 * rows, guard, NAN),
         sums = filled(2 * rows, guard, NAN);
  for (int64_t i = 0; i < rows; ++i) expected[2 * i + 1] = got[2 * i + 1] = sums[2 * i + 1] = 1.0f;
  base.gemm.dots(a.data(), depth + 1, rows, w.data(), depth, 0.5f, expected.data(), 2);
  level.gemm.dots(a.data(), depth + 1, rows, w.data(), depth, 0.5f, got.data(), 2);
  base.gemm.dots(absolute(a, guard).data(), depth + 1, rows, absolute(w, guard).data(), depth, 0.5f,
                 sums.data(), 2);
  std::vector<double> bounds;
  for (int64_t i = 0; i < 2 * rows; ++i)
    bounds.push_back(i % 2 ? 0.0 : 2.0 * static_cast<double>(depth + 2) * kUnit * sums[i]);
  report.same("dots", expected.data(), got.data(), 2 * rows, &bounds);
}

}  // namespace

void compare_gemm(const KernelTable& base, const KernelTable& level, Guard guard, Report& report) {
  Random random(1);
  int variant = 0;
  for (int64_t n : {1, 3, 4, 8, 11, 16, 17, 31, 32, 33, 48, 64, 65, 80, 100, 120, 144, 160, 200})
    for (int64_t m : {1, 2, 5, 7, 12, 13, 25})
      for (bool plain : {false, true}) {
        const int64_t taps = 1 + variant % 3, len = variant % 4 == 0 ? 1 : variant % 4 == 1 ? 17 : 6;
        for (bool even : {false, true})
          compare_block(base, level,
                        {m, taps, len, n, plain, variant % 2 == 0, variant % 5 == 0, even, variant % 8},
                        guard, random, report);
        ++variant;
      }
  for (int64_t n : {1, 5, 16, 17, 64, 67, 131})
    for (bool transposed : {false, true}) compare_pack(level, 37, n, transposed, guard, random, report);
  for (int64_t depth : {1, 15, 16, 17, 33, 64, 100})
    for (int64_t rows : {1, 7, 8, 19}) compare_dots(base, level, rows, depth, guard, random, report);
  for (int64_t n : {1, 3, 16, 17, 24, 47, 64, 70}) compare_gram(base, level, 13, n, guard, random, report);
}

}  // namespace compare
