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

void instance_norm(int64_t n, int64_t pixels, int64_t c, const float* x, const float* scale,
                   const float* shift, double eps, float* y) {
  const int64_t count = n * c;
  if (count == 0) return;
  const Buffer statistics(static_cast<size_t>(3 * count) * sizeof(double));
  double *mean = statistics.as<double>(), *factor = mean + count, *shifts = factor + count;
  reduce_middle(Reduction::kSum, n, pixels, c, x, nullptr, mean);
  for (int64_t i = 0; i < count; ++i) mean[i] /= static_cast<double>(pixels);
  reduce_middle(Reduction::kSquares, n, pixels, c, x, mean, factor);
  for (int64_t i = 0; i < count; ++i) {
    const double deviation = std::sqrt(factor[i] / static_cast<double>(pixels) + eps);
    factor[i] = (scale ? scale[i % c] : 1.0) / deviation;
    shifts[i] = shift ? shift[i % c] : 0.0;
  }
  const int64_t band = band_of(pixels, c), bands = (pixels + band - 1) / band;
  parallel_for(n * bands, threads_for(static_cast<double>(count * pixels) * 0.3), [&](int64_t task) {
    const int64_t image = task / bands, row = task % bands * band, at = (image * pixels + row) * c;
    const WideAffine t{x + at, y + at,           std::min(band, pixels - row), c,
                       c,      mean + image * c, factor + image * c,           shifts + image * c};
    kernels().reduce.affine(&t);
  });
}

}  // namespace cnnfast
