// Reductions in chunks of the reduced axis whose length does not depend on the number of threads; what the
// chunks give is joined in their order.
#include "cpu/reduce.h"

#include <algorithm>
#include <cmath>

#include "core/arena.h"
#include "core/epilogue.h"
#include "core/threads.h"
#include "kernels/table.h"

namespace cnnfast {
namespace {

double join(Reduction op, double a, double b) {
  switch (op) {
    case Reduction::kMaximum:
      return a >= b || a != a ? a : b;
    case Reduction::kMinimum:
      return a <= b || a != a ? a : b;
    default:
      return a + b;
  }
}

// y[o * inner + i] = reduction over j of x[(o * k + j) * inner + i], less mean[o * inner + i] if there is
// one.
void reduce_middle(Reduction op, int64_t outer, int64_t k, int64_t inner, const float* x, const double* mean,
                   double* y) {
  const ReduceKernels& kernel = kernels().reduce;
  const int threads = threads_for(static_cast<double>(outer * k) * static_cast<double>(inner) * 0.2);
  if (inner == 1 && !mean && k <= 65536) {
    const int64_t block = std::max<int64_t>(1, 16384 / std::max<int64_t>(k, 1));
    parallel_for((outer + block - 1) / block, threads, [&](int64_t task) {
      const int64_t row = task * block;
      kernel.rows(op, x + row * k, std::min(block, outer - row), k, y + row);
    });
    return;
  }
  const int64_t chunk = inner == 1 ? 65536 : 1024, width = 1024;
  const int64_t chunks = std::max<int64_t>(1, (k + chunk - 1) / chunk), strips = (inner + width - 1) / width;
  Buffer partial;
  if (chunks > 1) partial = Buffer(static_cast<size_t>(outer * chunks * inner) * sizeof(double));
  double* to = chunks > 1 ? partial.as<double>() : y;
  parallel_for(outer * chunks * strips, threads, [&](int64_t task) {
    const int64_t strip = task % strips * width, part = task / strips, o = part / chunks;
    const int64_t begin = part % chunks * chunk, rows = std::min(chunk, k - begin);
    const float* from = x + (o * k + begin) * inner + strip;
    double* result = to + part * inner + strip;
    if (inner == 1 && !mean)
      kernel.rows(op, from, 1, rows, result);
    else
      kernel.columns(op, from, rows, inner, std::min(width, inner - strip),
                     mean ? mean + o * inner + strip : nullptr, result);
  });
  if (chunks == 1) return;
  for (int64_t o = 0; o < outer; ++o) {
    const double* from = to + o * chunks * inner;
    std::copy_n(from, inner, y + o * inner);
    for (int64_t c = 1; c < chunks; ++c)
      for (int64_t i = 0; i < inner; ++i) y[o * inner + i] = join(op, y[o * inner + i], from[c * inner + i]);
  }
}

// Rows of one task that work on a few thousand values each.
int64_t band_of(int64_t rows, int64_t n) {
  return std::min(rows, std::max<int64_t>(1, 16384 / std::max<int64_t>(n, 1)));
}

}  // namespace

ReduceAxes::ReduceAxes(const std::vector<int64_t>& sizes, const std::vector<int64_t>& axes) {
  std::vector<int64_t> steps(sizes.size(), 1);
  for (size_t i = sizes.size(); i-- > 1;) steps[i - 1] = steps[i] * sizes[i];
  const auto gone = [&](size_t i) {
    return std::find(axes.begin(), axes.end(), static_cast<int64_t>(i)) != axes.end();
  };
  // Axes of one element are on either side.
  bool together = true;
  int phase = 0;  // before, among, after the axes
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] == 1) continue;
    if (gone(i)) {
      together = together && phase < 2;
      phase = std::max(phase, 1);
      k *= sizes[i];
    } else {
      if (phase == 1) phase = 2;
      (phase == 0 ? outer : inner) *= sizes[i];
    }
  }
  if (together) return;
  outer *= inner, inner = 1;
  std::vector<int64_t> order, x_steps, y_steps;
  for (const bool last : {false, true})
    for (size_t i = 0; i < sizes.size(); ++i)
      if (gone(i) == last) order.push_back(sizes[i]), x_steps.push_back(steps[i]);
  y_steps.assign(order.size(), 1);
  for (size_t i = order.size(); i-- > 1;) y_steps[i - 1] = y_steps[i] * order[i];
  gather.emplace(order, x_steps, y_steps);
  scatter.emplace(order, y_steps, x_steps);
}

void reduce(Reduce kind, const ReduceAxes& s, const float* x, float* y) {
  const int64_t count = s.outer * s.inner;
  if (count == 0) return;
  if (s.k == 0) {
    std::fill_n(y, count, 0.0f);
    return;
  }
  Buffer moved;
  if (s.gather) {
    moved = Buffer(static_cast<size_t>(count * s.k) * sizeof(float));
    s.gather->run(x, moved.floats());
    x = moved.floats();
  }
  const Reduction op = kind == Reduce::kMaximum   ? Reduction::kMaximum
                       : kind == Reduce::kMinimum ? Reduction::kMinimum
                       : kind == Reduce::kLength  ? Reduction::kSquares
                                                  : Reduction::kSum;
  const Buffer results(static_cast<size_t>(count) * sizeof(double));
  double* wide = results.as<double>();
  reduce_middle(op, s.outer, s.k, s.inner, x, nullptr, wide);
  for (int64_t i = 0; i < count; ++i) {
    if (kind == Reduce::kMean) wide[i] /= static_cast<double>(s.k);
    if (kind == Reduce::kLength) wide[i] = std::sqrt(wide[i]);
    y[i] = static_cast<float>(wide[i]);
  }
}

void reduce_grad(Reduce kind, const ReduceAxes& s, const float* g, const float* x, const float* y,
                 float* dx) {
  const int64_t results = s.outer * s.inner, count = results * s.k;
  if (count == 0) return;
  const bool extreme = kind == Reduce::kMaximum || kind == Reduce::kMinimum;
  Buffer moved_x, moved_dx;
  float* to = dx;
  if (s.gather) {
    moved_dx = Buffer(static_cast<size_t>(count) * sizeof(float));
    to = moved_dx.floats();
    if (extreme) {
      moved_x = Buffer(static_cast<size_t>(count) * sizeof(float));
      s.gather->run(x, moved_x.floats());
      x = moved_x.floats();
    }
  }
  const int threads = threads_for(static_cast<double>(count) * (extreme ? 0.3 : 0.15));
  const float share = kind == Reduce::kMean ? static_cast<float>(s.k) : 1.0f;
  if (s.inner == 1) {
    // Rows of one result each; a long one in pieces, which share its value.
    const int64_t piece = extreme ? s.k : std::min<int64_t>(s.k, 16384), pieces = (s.k + piece - 1) / piece;
    const int64_t band = band_of(s.outer, s.k);
    parallel_for((s.outer + band - 1) / band * pieces, threads, [&](int64_t task) {
      const int64_t row = task / pieces * band, rows = std::min(band, s.outer - row);
      if (extreme) {
        const ExtremeColumns t{x + row * s.k, y + row, g + row, to + row * s.k, s.k, 1, rows};
        return kernels().reduce.extreme_grad_rows(&t);
      }
      const int64_t begin = task % pieces * piece;
      for (int64_t r = row; r < row + rows; ++r)
        kernels().resample.fill(to + r * s.k + begin, g[r] / share, std::min(piece, s.k - begin));
    });
  } else if (extreme) {
    constexpr int64_t kWidth = 256;
    const int64_t strips = (s.inner + kWidth - 1) / kWidth;
    parallel_for(s.outer * strips, threads, [&](int64_t task) {
      const int64_t column = task % strips * kWidth, o = task / strips;
      const int64_t at = o * s.k * s.inner + column, of = o * s.inner + column;
      const ExtremeColumns t{
          x + at, y + of, g + of, to + at, s.k, s.inner, std::min(kWidth, s.inner - column)};
      kernels().reduce.extreme_grad_columns(&t);
    });
  } else {
    const Buffer shares(static_cast<size_t>(results) * sizeof(float));
    for (int64_t i = 0; i < results; ++i) shares.floats()[i] = g[i] / share;
    const int64_t band = band_of(s.k, s.inner), bands = (s.k + band - 1) / band;
    parallel_for(s.outer * bands, threads, [&](int64_t task) {
      const int64_t o = task / bands, row = task % bands * band;
      // Of one row, again and again.
      kernels().resample.copy_runs(to + (o * s.k + row) * s.inner, s.inner, shares.floats() + o * s.inner, 0,
                                   s.inner, std::min(band, s.k - row));
    });
  }
  if (s.scatter) s.scatter->run(to, dx);
}

void l2_normalize(int64_t outer, int64_t k, int64_t inner, double eps, const float* x, float* y) {
  const int64_t count = outer * inner;
  if (count * k == 0) return;
  const Buffer squares(static_cast<size_t>(count) * sizeof(double));
  reduce_middle(Reduction::kSquares, outer, k, inner, x, nullptr, squares.as<double>());
  const Buffer lengths(static_cast<size_t>(count) * sizeof(float));
  for (int64_t i = 0; i < count; ++i) {
    const double length = std::sqrt(squares.as<double>()[i]);
    lengths.floats()[i] = static_cast<float>(length < eps ? eps : length);
  }
  const auto divide = kernels().pointwise.binary;
  const int threads = threads_for(static_cast<double>(count * k) * 0.2);
  // Rows with one length each, or rows of lengths that all rows of a block share.
  const int64_t rows = inner == 1 ? outer : k, n = inner == 1 ? k : inner, blocks = inner == 1 ? 1 : outer;
  const int64_t band = band_of(rows, n), bands = (rows + band - 1) / band;
  parallel_for(blocks * bands, threads, [&](int64_t task) {
    const int64_t block = task / bands, row = task % bands * band, at = (block * rows + row) * n;
    const float* length = lengths.floats() + (inner == 1 ? row : block * inner);
    const BinaryRows t{x + at,     length, y + at, std::min(band, rows - row), n, n, inner == 1 ? 1 : 0, n,
                       inner == 1, kNone,  0.0f};
    divide(Binary::kDiv, &t);
  });
}

namespace {

// Of every channel of every picture, in double precision.
struct PixelStatistics {
  PixelStatistics(int64_t n, int64_t pixels, int64_t c, const float* x, double eps)
      : buffer(static_cast<size_t>(2 * n * c) * sizeof(double)),
        mean(buffer.as<double>()),
        deviation(mean + n * c) {
    reduce_middle(Reduction::kSum, n, pixels, c, x, nullptr, mean);
    for (int64_t i = 0; i < n * c; ++i) mean[i] /= static_cast<double>(pixels);
    reduce_middle(Reduction::kSquares, n, pixels, c, x, mean, deviation);
    for (int64_t i = 0; i < n * c; ++i)
      deviation[i] = std::sqrt(deviation[i] / static_cast<double>(pixels) + eps);
  }
  Buffer buffer;
  double *mean, *deviation;  // the root of the variance and eps
};

}  // namespace

void instance_norm(int64_t n, int64_t pixels, int64_t c, const float* x, const float* scale,
                   const float* shift, double eps, float* y) {
  const int64_t count = n * c;
  if (count == 0) return;
  const PixelStatistics of(n, pixels, c, x, eps);
  const Buffer vectors(static_cast<size_t>(2 * count) * sizeof(double));
  double *factor = vectors.as<double>(), *shifts = factor + count;
  for (int64_t i = 0; i < count; ++i) {
    factor[i] = (scale ? scale[i % c] : 1.0) / of.deviation[i];
    shifts[i] = shift ? shift[i % c] : 0.0;
  }
  const int64_t band = band_of(pixels, c), bands = (pixels + band - 1) / band;
  parallel_for(n * bands, threads_for(static_cast<double>(count * pixels) * 0.3), [&](int64_t task) {
    const int64_t image = task / bands, row = task % bands * band, at = (image * pixels + row) * c;
    const WideAffine t{x + at,
                       y + at,
                       std::min(band, pixels - row),
                       c,
                       c,
                       of.mean + image * c,
                       factor + image * c,
                       shifts + image * c};
    kernels().reduce.affine(&t);
  });
}

// With d = x - mean of each picture's channel: dx = factor (g - mean(g) - d mean(g d) / deviation^2). The
// kernels take d about the mean as a float; what it is beside the mean is put right in the sums.
void instance_norm_grad(int64_t n, int64_t pixels, int64_t c, const float* g, const float* x,
                        const float* scale, double eps, float* dx, float* dscale, float* dshift) {
  std::fill_n(dscale, c, 0.0f), std::fill_n(dshift, c, 0.0f);
  const int64_t count = n * c;
  if (count == 0) return;
  const PixelStatistics of(n, pixels, c, x, eps);
  const Buffer vectors(static_cast<size_t>(4 * count) * sizeof(float));
  float *mean = vectors.floats(), *factor = mean + count, *level = factor + count, *slope = level + count;
  for (int64_t i = 0; i < count; ++i) {
    mean[i] = static_cast<float>(of.mean[i]);
    factor[i] = static_cast<float>((scale ? scale[i % c] : 1.0) / of.deviation[i]);
  }
  // Few rows at a time: their sums are single floats.
  const int64_t band = std::min<int64_t>(512, band_of(pixels, c)), bands = (pixels + band - 1) / band;
  const int threads = threads_for(static_cast<double>(count * pixels) * 0.3);
  const Buffer parts(static_cast<size_t>(n * bands * 2 * c) * sizeof(float));
  const auto rows_of = [&](int64_t task) {
    const int64_t image = task / bands * c, row = task % bands * band;
    const int64_t at = (task / bands * pixels + row) * c;
    NormGradRows t{};
    t.x = x + at, t.g = g + at, t.dx = dx + at;
    t.mean = mean + image, t.factor = factor + image, t.level = level + image, t.slope = slope + image;
    t.sums = parts.floats() + task * 2 * c, t.products = t.sums + c;
    t.rows = std::min(band, pixels - row), t.n = c, t.activation = kNone;
    return t;
  };
  parallel_for(n * bands, threads, [&](int64_t task) {
    const NormGradRows t = rows_of(task);
    kernels().train.norm_sums(&t);
  });
  for (int64_t k = 0; k < c; ++k) {
    double all = 0, along = 0;
    for (int64_t image = 0; image < n; ++image) {
      const int64_t i = image * c + k;
      double sum = 0, product = 0;
      for (int64_t b = 0; b < bands; ++b) {
        const float* part = parts.floats() + (image * bands + b) * 2 * c;
        sum += part[k], product += part[c + k];
      }
      const double beside = mean[i] - of.mean[i], deviation = of.deviation[i];
      product += sum * beside;
      all += sum, along += product / deviation;
      const double rate = product / (deviation * deviation) / static_cast<double>(pixels);
      level[i] = static_cast<float>(sum / static_cast<double>(pixels) + beside * rate);
      slope[i] = static_cast<float>(rate);
    }
    dshift[k] = static_cast<float>(all);
    dscale[k] = static_cast<float>(along);
  }
  parallel_for(n * bands, threads, [&](int64_t task) {
    const NormGradRows t = rows_of(task);
    kernels().train.norm_grad(&t);
  });
}

}  // namespace cnnfast
