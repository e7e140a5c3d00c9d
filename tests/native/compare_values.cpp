// Element-by-element operators, normalisations, softmax, reductions.
#include "harness.h"

CNNFAST_EXPECT_KERNELS(PointwiseKernels, void (*activate)(); void (*unary)(); void (*binary)();
                       void (*unary_grad)(); void (*binary_grad)();)
CNNFAST_EXPECT_KERNELS(NormKernels, void (*affine)(); int64_t (*response_scratch)(); void (*response)();
                       void (*response_grad)(); void (*softmax_rows)(); void (*softmax_columns)();
                       void (*softmax_grad_rows)(); void (*softmax_grad_columns)();)

CNNFAST_EXPECT_KERNELS(ReduceKernels, void (*rows)(); void (*columns)(); void (*affine)();
                       void (*extreme_grad_rows)(); void (*extreme_grad_columns)();)

namespace compare {
namespace {

using cnnfast::Binary;
using cnnfast::BinaryGrad;
using cnnfast::Reduction;
using cnnfast::Unary;

const int64_t kSizes[] = {1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 100, 130};

// Values of every size, and those that need care.
Floats wide_values(int64_t n, Guard guard, Random& random) {
  const float special[] = {0.0f,  -0.0f, NAN,    INFINITY, -INFINITY, 3.0f,
                           -3.0f, 6.0f,  1e-40f, -1e-40f,  100.0f,    -100.0f};
  Floats x = random.floats(n, guard, -12, 12);
  for (int64_t i = 0; i < n; ++i)
    if (random.below(4) == 0) x[i] = special[random.below(sizeof special / sizeof *special)];
  return x;
}

// Both sides are within `relative` of the true value.
std::vector<double> relative_bounds(const Floats& expected, double relative, double least = 1e-37) {
  std::vector<double> bounds;
  for (float e : expected) bounds.push_back(2 * relative * std::fabs(e) + least);
  return bounds;
}

}  // namespace

void compare_pointwise(const KernelTable& base, const KernelTable& level, Guard guard, Report& report) {
  Random random(3);
  for (int64_t n : kSizes) {
    for (int kind = 0; kind < 8; ++kind) {
      const Floats x = wide_values(n, guard, random);
      Floats expected(n, guard), got(n, guard);
      base.pointwise.activate(kind, 0.125f, x.data(), expected.data(), n);
      level.pointwise.activate(kind, 0.125f, x.data(), got.data(), n);
      const bool exact = kind <= cnnfast::kLeakyRelu;
      const std::vector<double> bounds = relative_bounds(expected, 4e-7);
      char what[40];
      std::snprintf(what, sizeof what, "activation %d of %d values", kind, static_cast<int>(n));
      report.same(what, expected.data(), got.data(), n, exact ? nullptr : &bounds);
    }
    for (int function = 0; function <= static_cast<int>(Unary::kErf); ++function) {
      const Floats x = wide_values(n, guard, random);
      Floats expected(n, guard), got(n, guard);
      const auto f = static_cast<Unary>(function);
      base.pointwise.unary(f, 0.25f, 0.5f, x.data(), expected.data(), n);
      level.pointwise.unary(f, 0.25f, 0.5f, x.data(), got.data(), n);
      const bool smooth = f == Unary::kExp || f == Unary::kLog || f == Unary::kElu || f == Unary::kErf;
      const std::vector<double> bounds = relative_bounds(expected, 4e-7);
      char what[40];
      std::snprintf(what, sizeof what, "function %d of %d values", function, static_cast<int>(n));
      report.same(what, expected.data(), got.data(), n, smooth ? &bounds : nullptr);
    }
    for (int op = 0; op <= static_cast<int>(Binary::kPrelu); ++op)
      for (bool scalar : {false, true})
        for (bool swapped : {false, true}) {
          const Floats a = wide_values(2 * n, guard, random),
                       b = wide_values(scalar ? 2 : 2 * n, guard, random);
          Floats expected(2 * n, guard), got(2 * n, guard);
          cnnfast::BinaryRows t{a.data(),       b.data(), expected.data(), 2, n,    n,
                                scalar ? 1 : n, n,        scalar,          0, 0.0f, swapped};
          base.pointwise.binary(static_cast<Binary>(op), &t);
          t.y = got.data();
          level.pointwise.binary(static_cast<Binary>(op), &t);
          const std::vector<double> bounds = relative_bounds(expected, 2 * kUnit);
          char what[40];
          std::snprintf(what, sizeof what, "binary %d of %d values", op, static_cast<int>(n));
          report.same(what, expected.data(), got.data(), 2 * n,
                      static_cast<Binary>(op) == Binary::kPow ? &bounds : nullptr);
        }
    for (int function = 0; function <= static_cast<int>(Unary::kErf); ++function) {
      const Floats v = wide_values(n, guard, random), g = random.floats(n, guard);
      Floats expected(n, guard), got(n, guard);
      const auto f = static_cast<Unary>(function);
      base.pointwise.unary_grad(f, 0.25f, 0.5f, g.data(), v.data(), expected.data(), n);
      level.pointwise.unary_grad(f, 0.25f, 0.5f, g.data(), v.data(), got.data(), n);
      const bool smooth = f == Unary::kElu || f == Unary::kErf;
      const std::vector<double> bounds = relative_bounds(expected, 4e-7 + 2 * kUnit);
      char what[50];
      std::snprintf(what, sizeof what, "gradient of function %d of %d values", function, static_cast<int>(n));
      report.same(what, expected.data(), got.data(), n, smooth ? &bounds : nullptr);
    }
    for (int op = 0; op <= static_cast<int>(BinaryGrad::kSlope); ++op)
      for (bool scalar : {false, true})
        for (bool swapped : {false, true}) {
          const Floats a = wide_values(2 * n, guard, random), g = random.floats(2 * n, guard),
                       b = wide_values(scalar ? 2 : 2 * n, guard, random);
          Floats expected(2 * n, guard), got(2 * n, guard);
          cnnfast::BinaryRows t{a.data(), b.data(), expected.data(), 2,       n, n, scalar ? 1 : n, n, scalar,
                                0,        0.0f,     swapped,         g.data()};
          base.pointwise.binary_grad(static_cast<BinaryGrad>(op), &t);
          t.y = got.data();
          level.pointwise.binary_grad(static_cast<BinaryGrad>(op), &t);
          const std::vector<double> bounds = relative_bounds(expected, 4e-7 + 2 * kUnit);
          char what[50];
          std::snprintf(what, sizeof what, "gradient of binary %d of %d values", op, static_cast<int>(n));
          const bool exact = op >= static_cast<int>(BinaryGrad::kLarger) || op == 0;
          report.same(what, expected.data(), got.data(), 2 * n, exact ? nullptr : &bounds);
        }
    for (bool scalar : {false, true})
      for (int activation = 0; activation < 8; ++activation) {
        const int64_t rows = 3, step = n + 2;
        const Floats a = wide_values((rows - 1) * step + n, guard, random);
        const Floats b = wide_values(scalar ? rows : rows * n, guard, random);
        Floats expected = filled((rows - 1) * step + n, guard, 7.0f),
               got = filled((rows - 1) * step + n, guard, 7.0f);
        cnnfast::BinaryRows t{a.data(),       b.data(), expected.data(), rows,       n,     step,
                              scalar ? 1 : n, step,     scalar,          activation, 0.125f};
        base.pointwise.binary(Binary::kAdd, &t);
        t.y = got.data();
        level.pointwise.binary(Binary::kAdd, &t);
        const std::vector<double> bounds = relative_bounds(expected, 4e-7);
        report.same("add", expected.data(), got.data(), got.size(),
                    activation <= cnnfast::kLeakyRelu ? nullptr : &bounds);
      }
  }
}

void compare_norm(const KernelTable& base, const KernelTable& level, Guard guard, Report& report) {
  Random random(4);
  for (int64_t n : kSizes) {
    const int64_t rows = 5;
    const Floats x = random.floats(rows * n, guard, -3, 3), mean = random.floats(n, guard);
    const Floats factor = random.floats(n, guard), shift = random.floats(n, guard);
    Floats expected(rows * n, guard), got(rows * n, guard);
    std::vector<double> bounds;
    // One rounding of the product more or less.
    for (int64_t i = 0; i < rows * n; ++i)
      bounds.push_back(4 * kUnit *
                       (std::fabs((x[i] - mean[i % n]) * factor[i % n]) + std::fabs(shift[i % n])));
    for (int activation : {cnnfast::kNone, cnnfast::kRelu, cnnfast::kRelu6}) {
      cnnfast::AffineRows t{x.data(), expected.data(), mean.data(), factor.data(), shift.data(), rows,
                            n,        activation};
      base.norm.affine(&t);
      t.y = got.data();
      level.norm.affine(&t);
      report.same("affine", expected.data(), got.data(), rows * n, &bounds);
    }
  }

  for (int64_t c : {1, 2, 5, 16, 17, 40, 96})
    for (int64_t width : {1, 2, 5, 9, 16, 17, 33})
      for (double beta : {0.75, 0.5, 1.0, 0.6}) {
        const int64_t rows = 3, before = width / 2 < c - 1 ? width / 2 : c - 1;
        const int64_t after = (width - 1) / 2 < c - 1 ? (width - 1) / 2 : c - 1;
        const Floats x = random.floats(rows * c, guard, -4, 4);
        Floats results[2] = {Floats(rows * c, guard), Floats(rows * c, guard)};
        const KernelTable* tables[2] = {&base, &level};
        for (int k = 0; k < 2; ++k) {
          Floats scratch(tables[k]->norm.response_scratch(rows, c, before, after), guard);
          cnnfast::ResponseRows t{x.data(), results[k].data(), rows, c, before, after, 2.0f, 1e-2f,
                                  beta,     scratch.data()};
          tables[k]->norm.response(&t);
        }
        // At most `width` additions of positive values, a handful of roundings, and the power.
        const std::vector<double> bounds =
            relative_bounds(results[0], static_cast<double>(width + 8) * kUnit + 4e-7);
        report.same("response", results[0].data(), results[1].data(), rows * c, &bounds);

        const Floats g = random.floats(rows * c, guard, -4, 4);
        for (int i = 0; i < 2; ++i) {
          const int64_t floats = tables[i]->norm.response_scratch(rows, c, before, after);
          Floats scratch(floats, guard), shared(floats, guard);
          const cnnfast::ResponseGradRows t{
              {x.data(), results[i].data(), rows, c, before, after, 2.0f, 1e-2f, beta, scratch.data()},
              g.data(),
              shared.data()};
          tables[i]->norm.response_grad(&t);
        }
        // All d are at least 2: |g| d^-beta + 2 alpha beta |x| sum |g x| d^(-beta - 1) is below
        // 4 + .02 * 4 * 16 width / 2, and each of its terms has the roundings of the forward pass.
        const std::vector<double> limits(static_cast<size_t>(rows * c),
                                         2 * (4 + 0.64 * static_cast<double>(width)) *
                                             (static_cast<double>(2 * width + 16) * kUnit + 8e-7));
        report.same("response gradient", results[0].data(), results[1].data(), rows * c, &limits);
      }

  for (int64_t k : kSizes)
    for (bool log : {false, true})
      for (int64_t columns : {1, 3, 16, 17, 70}) {
        const bool by_rows = columns == 1;
        const int64_t rows = by_rows ? 19 : 1, step = columns + (by_rows ? 0 : 1);
        const int64_t count = by_rows ? rows * k : (k - 1) * step + columns;
        Floats x = random.floats(count, guard, -20, 20);
        if (random.below(3) == 0) x[random.below(count)] = NAN;
        if (random.below(3) == 0) x[random.below(count)] = INFINITY;
        if (random.below(3) == 0) x[random.below(count)] = -INFINITY;
        Floats expected = filled(count, guard, 7.0f), got = filled(count, guard, 7.0f);
        const auto softmax = [&](const KernelTable& table, const Floats& y) {
          if (by_rows) return table.norm.softmax_rows(x.data(), y.data(), rows, k, log);
          const cnnfast::SoftmaxColumns t{x.data(), y.data(), k, step, columns, log};
          table.norm.softmax_columns(&t);
        };
        softmax(base, expected);
        softmax(level, got);
        // Logarithms: the difference x - max is exact to a unit of 40.
        const std::vector<double> bounds = relative_bounds(expected, 1e-6, log ? 80 * kUnit : 1e-37);
        report.same(log ? "log softmax" : "softmax", expected.data(), got.data(), count, &bounds);

        // Gradients, of results between 0 and 1 or their logarithms.
        const Floats g = random.floats(count, guard, -3, 3);
        const Floats y = log ? random.floats(count, guard, -20, 0) : random.floats(count, guard, 0, 1);
        const auto gradient = [&](const KernelTable& table, const Floats& dx) {
          if (by_rows) return table.norm.softmax_grad_rows(g.data(), y.data(), dx.data(), rows, k, log);
          const cnnfast::SoftmaxGradColumns t{g.data(), y.data(), dx.data(), k, step, columns, log};
          table.norm.softmax_grad_columns(&t);
        };
        gradient(base, expected);
        gradient(level, got);
        // The sum of k terms up to 3, compensated, and a few roundings; exp is good to 4e-7.
        const std::vector<double> limits(static_cast<size_t>(count),
                                         static_cast<double>(3 * k + 3) * (16 * kUnit + 8e-7));
        report.same("softmax gradient", expected.data(), got.data(), count, &limits);
      }
}

void compare_reduce(const KernelTable& base, const KernelTable& level, Guard guard, Report& report) {
  Random random(5);
  for (int64_t n : kSizes)
    for (int64_t k : {1, 2, 7, 33, 100})
      for (int op = 0; op <= static_cast<int>(Reduction::kMinimum); ++op) {
        const auto kind = static_cast<Reduction>(op);
        const int64_t step = n + 3;
        const Floats x = random.floats((k - 1) * step + n, guard, -3, 3),
                     y = random.floats(n * k, guard, -3, 3);
        if (random.below(3) == 0) y[random.below(n * k)] = NAN;
        if (random.below(3) == 0) x[random.below(n)] = INFINITY;
        Array<double> mean(n, guard), expected(n, guard), got(n, guard);
        for (double& v : mean) v = random.uniform(-1, 1);
        // Both are within k roundings of doubles, which no float shows but where it is a tie.
        const auto compare = [&](const char* what) {
          Floats e(n, guard), g(n, guard);
          for (int64_t i = 0; i < n; ++i) {
            e[i] = static_cast<float>(expected[i]);
            g[i] = static_cast<float>(got[i]);
          }
          std::vector<double> bounds;
          for (float v : e) bounds.push_back(2 * kUnit * std::fabs(v) + 1e-12);
          report.same(what, e.data(), g.data(), n, &bounds);
        };
        base.reduce.rows(kind, y.data(), n, k, expected.data());
        level.reduce.rows(kind, y.data(), n, k, got.data());
        compare("rows");
        for (const bool centred : {false, true}) {
          const double* middle = centred ? mean.data() : nullptr;
          base.reduce.columns(kind, x.data(), k, step, n, middle, expected.data());
          level.reduce.columns(kind, x.data(), k, step, n, middle, got.data());
          compare("columns");
        }
      }
  for (int64_t n : kSizes) {
    const int64_t k = 3, step = n + 2, count = (k - 1) * step + n;
    const Floats x = random.floats(count, guard, -3, 3);
    Array<double> mean(n, guard), factor(n, guard), shift(n, guard);
    for (Array<double>* a : {&mean, &factor, &shift})
      for (double& v : *a) v = random.uniform(-2, 2);
    Floats expected = filled(count, guard, 7.0f), got = filled(count, guard, 7.0f);
    cnnfast::WideAffine t{x.data(), expected.data(), k, step, n, mean.data(), factor.data(), shift.data()};
    base.reduce.affine(&t);
    t.y = got.data();
    level.reduce.affine(&t);
    report.same("affine in double precision", expected.data(), got.data(), count);
  }
  for (int64_t k : {1, 3, 16, 40})
    for (int64_t columns : {1, 5, 16, 17, 70}) {
      // Whole numbers have ties.
      const auto whole = [&](int64_t n) {
        Floats made = random.floats(n, guard, -3, 3);
        for (float& v : made) v = std::floor(v);
        return made;
      };
      const int64_t step = columns + 1, across = (k - 1) * step + columns;
      const Floats best = whole(columns), g = random.floats(columns, guard);
      const Floats tall = whole(across), rows = whole(k * columns);
      for (bool by_rows : {false, true}) {
        const int64_t n = by_rows ? k * columns : across;
        Floats dx[2] = {Floats(n, guard), Floats(n, guard)};
        const KernelTable* tables[2] = {&base, &level};
        for (int i = 0; i < 2; ++i) {
          const cnnfast::ExtremeColumns t{
              (by_rows ? rows : tall).data(), best.data(), g.data(), dx[i].data(), k, step, columns};
          (by_rows ? tables[i]->reduce.extreme_grad_rows : tables[i]->reduce.extreme_grad_columns)(&t);
        }
        report.same("gradient of an extreme", dx[0].data(), dx[1].data(), n);
      }
    }
}

}  // namespace compare
