// Batch normalisation in training. Few channels are repeated to one long row, so that no vector is cut short.
// Stretches of rows that fit the second-level cache give their mean, then the squares about that mean; the
// stretches are joined in double precision (Chan, Golub and LeVeque 1979), so that neither large means nor
// many values cost digits. How the rows are divided follows from the shape alone.
#include <algorithm>
#include <cmath>
#include <vector>

#include "core/arena.h"
#include "core/threads.h"
#include "core/epilogue.h"
#include "cpu/train.h"
#include "kernels/table.h"

namespace cnnfast {
namespace {

// Floats of one stretch.
constexpr int64_t kStretch = 32768;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows of c values in stretches of long rows, `times` rows each; the last stretch has what is left, one by
// one.
struct Stretches {
  Stretches(int64_t rows, int64_t c) : c(c) {
    times = c < 256 ? std::min(rows, ceil_div(512, c)) : 1;
    n = c * times;
    const int64_t long_rows = rows / times;
    height = std::max<int64_t>(1, kStretch / n);
    whole = ceil_div(long_rows, height);
    last_height = long_rows - (whole - 1) * height;
    rest = rows - long_rows * times;
  }
  int64_t count() const { return whole + (rest > 0); }
  // Where a stretch begins, its rows, and the values of one.
  int64_t begin(int64_t i) const {
    return i < whole ? i * height * n : ((whole - 1) * height + last_height) * n;
  }
  int64_t rows(int64_t i) const { return i >= whole ? rest : i + 1 == whole ? last_height : height; }
  int64_t width(int64_t i) const { return i < whole ? n : c; }
  int64_t c, times, n, height, whole, last_height, rest;
};

// A vector of c values, repeated to one long row.
void repeat(int64_t c, int64_t times, float* row) {
  for (int64_t t = 1; t < times; ++t) std::copy_n(row, c, row + t * c);
}

// What every element is multiplied by and what is added, for long rows: mean, factor, shift.
struct Parameters {
  Parameters(const Stretches& s, const float* mean, const float* var, const float* scale, const float* shift,
             double eps)
      : floats(static_cast<size_t>(3 * s.n) * sizeof(float)) {
    this->mean = floats.floats(), factor = this->mean + s.n, this->shift = factor + s.n;
    for (int64_t k = 0; k < s.c; ++k) {
      this->mean[k] = mean[k];
      factor[k] = static_cast<float>((scale ? scale[k] : 1.0) / std::sqrt(static_cast<double>(var[k]) + eps));
      this->shift[k] = shift ? shift[k] : 0.0f;
    }
    for (float* p : {this->mean, factor, this->shift}) repeat(s.c, s.times, p);
  }
  Buffer floats;
  float *mean, *factor, *shift;
};

}  // namespace

void batch_norm_train(int64_t rows, int64_t c, const float* x, const float* scale, const float* shift,
                      double eps, int activation, float* y, float* mean, float* var) {
  if (c == 0) return;
  const Stretches s(rows, c);
  const int threads = threads_for(static_cast<double>(rows * c) * 0.2);
  Buffer joined(static_cast<size_t>(s.count() * 2 * c) * sizeof(double));
  const auto sums_of = [&](int64_t i) { return joined.as<double>() + i * 2 * c; };
  parallel_for(s.count(), threads, [&](int64_t task) {
    const int64_t n = s.width(task), count = s.rows(task), times = n / c;
    auto* scratch =
        static_cast<float*>(thread_scratch(Slot::kTile, static_cast<size_t>(3 * n) * sizeof(float)));
    float *centre = scratch, *sums = centre + n, *squares = sums + n;
    const float* from = x + s.begin(task);
    kernels().pool.reduce_sum(centre, from, n, n, count);
    const auto r = static_cast<double>(count);
    const double part = 1 / r;
    for (int64_t k = 0; k < n; ++k) centre[k] *= static_cast<float>(part);
    const MomentRows t{from, centre, sums, squares, count, n};
    kernels().train.moments(&t);
    // Mean and squares about it of each channel in this stretch.
    double *means = sums_of(task), *about = means + c;
    std::fill_n(means, 2 * c, 0.0);
    for (int64_t j = 0; j < n; j += c)
      for (int64_t k = 0; k < c; ++k) means[k] += centre[j + k] + sums[j + k] * part;
    for (int64_t k = 0; k < c; ++k) means[k] /= static_cast<double>(times);
    for (int64_t j = 0; j < n; j += c)
      for (int64_t k = 0; k < c; ++k) {
        const double sum = sums[j + k], apart = centre[j + k] + sum * part - means[k];
        about[k] += std::max(0.0, squares[j + k] - sum * sum * part) + r * apart * apart;
      }
  });
  std::vector<double> total(static_cast<size_t>(2 * c), 0.0);
  double *centre = total.data(), *spread = centre + c;
  const auto weight = [&](int64_t i) { return static_cast<double>(s.rows(i) * (s.width(i) / c)); };
  for (int64_t i = 0; i < s.count(); ++i)
    for (int64_t k = 0; k < c; ++k) centre[k] += sums_of(i)[k] * weight(i);
  for (int64_t k = 0; k < c; ++k) centre[k] /= static_cast<double>(rows);
  for (int64_t i = 0; i < s.count(); ++i)
    for (int64_t k = 0; k < c; ++k) {
      const double apart = sums_of(i)[k] - centre[k];
      spread[k] += sums_of(i)[c + k] + weight(i) * apart * apart;
    }
  for (int64_t k = 0; k < c; ++k) {
    mean[k] = static_cast<float>(centre[k]);
    var[k] = static_cast<float>(spread[k] / static_cast<double>(rows));
  }
  const Parameters p(s, mean, var, scale, shift, eps);
  parallel_for(s.count(), threads, [&](int64_t task) {
    const int64_t at = s.begin(task), n = s.width(task);
    AffineRows t{x + at, y + at, p.mean, p.factor, p.shift, s.rows(task), n, activation};
    kernels().norm.affine(&t);
  });
}

namespace {

// Adds up g and g * (x - mean) of each channel; rows_of(i) describes stretch i. `sums` has c of each.
template <class F>
void gradient_sums(const Stretches& s, int threads, F&& rows_of, double* sums) {
  const int64_t c = s.c;
  const Buffer parts(static_cast<size_t>(s.count() * 2 * c) * sizeof(double));
  parallel_for(s.count(), threads, [&](int64_t task) {
    NormGradRows t = rows_of(task);
    t.sums = static_cast<float*>(thread_scratch(Slot::kTile, static_cast<size_t>(2 * t.n) * sizeof(float)));
    t.products = t.sums + t.n;
    kernels().train.norm_sums(&t);
    double *sum = parts.as<double>() + task * 2 * c, *product = sum + c;
    for (int64_t k = 0; k < c; ++k) {
      sum[k] = product[k] = 0;
      for (int64_t j = k; j < t.n; j += c) sum[k] += t.sums[j], product[k] += t.products[j];
    }
  });
  std::fill_n(sums, 2 * c, 0.0);
  for (int64_t i = 0; i < s.count(); ++i)
    for (int64_t k = 0; k < 2 * c; ++k) sums[k] += parts.as<double>()[i * 2 * c + k];
}

}  // namespace

void batch_norm_grad_sums(int64_t rows, int64_t c, const float* g, const float* x, const float* mean,
                          double* sums, double* products) {
  if (rows * c == 0) {
    std::fill_n(sums, c, 0.0), std::fill_n(products, c, 0.0);
    return;
  }
  const Stretches s(rows, c);
  const Buffer means(static_cast<size_t>(s.n) * sizeof(float));
  std::copy_n(mean, c, means.floats());
  repeat(c, s.times, means.floats());
  std::vector<double> both(static_cast<size_t>(2 * c));
  gradient_sums(
      s, threads_for(static_cast<double>(rows * c) * 0.2),
      [&](int64_t task) {
        NormGradRows t{};
        t.x = x + s.begin(task), t.g = g + s.begin(task), t.mean = means.floats();
        t.rows = s.rows(task), t.n = s.width(task), t.activation = kNone;
        return t;
      },
      both.data());
  std::copy_n(both.data(), c, sums), std::copy_n(both.data() + c, c, products);
}

void batch_norm_train_grad(int64_t rows, int64_t c, const float* g, const float* x, const float* mean,
                           const float* var, const float* scale, const float* shift, double eps,
                           int activation, float* dx, float* dscale, float* dshift) {
  if (c == 0) return;
  const Stretches s(rows, c);
  const int threads = threads_for(static_cast<double>(rows * c) * 0.3);
  const Parameters p(s, mean, var, scale, shift, eps);
  const auto rows_of = [&](int64_t task) {
    NormGradRows t{};
    t.x = x + s.begin(task), t.g = g + s.begin(task), t.dx = dx + s.begin(task);
    t.mean = p.mean, t.factor = p.factor, t.shift = p.shift;
    t.rows = s.rows(task), t.n = s.width(task);
    t.activation = activation;
    return t;
  };
  std::vector<double> sums(static_cast<size_t>(2 * c));
  gradient_sums(s, threads, rows_of, sums.data());
  Buffer vectors(static_cast<size_t>(2 * s.n) * sizeof(float));
  float *level = vectors.floats(), *slope = level + s.n;
  for (int64_t k = 0; k < c; ++k) {
    const double sum = sums[static_cast<size_t>(k)], product = sums[static_cast<size_t>(c + k)];
    const double variance = static_cast<double>(var[k]) + eps, count = static_cast<double>(rows);
    dshift[k] = static_cast<float>(sum);
    dscale[k] = static_cast<float>(product / std::sqrt(variance));
    level[k] = static_cast<float>(sum / count);
    slope[k] = static_cast<float>(product / variance / count);
  }
  repeat(c, s.times, level), repeat(c, s.times, slope);
  parallel_for(s.count(), threads, [&](int64_t task) {
    NormGradRows t = rows_of(task);
    t.level = level, t.slope = slope;
    kernels().train.norm_grad(&t);
  });
}

void activation_grad(int kind, float slope, const float* g, const float* v, float* y, int64_t n) {
  constexpr int64_t kBlock = 4096;
  const double each = kind >= kSigmoid ? 0.5 : 0.2;
  parallel_for(ceil_div(n, kBlock), threads_for(static_cast<double>(n) * each), [&](int64_t task) {
    const int64_t at = task * kBlock;
    kernels().train.activation_grad(kind, slope, g + at, v + at, y + at, std::min(kBlock, n - at));
  });
}

}  // namespace cnnfast
