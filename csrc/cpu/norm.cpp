#include "cpu/norm.h"

#include <algorithm>
#include <cmath>

#include "core/arena.h"
#include "core/threads.h"
#include "kernels/table.h"

namespace cnnfast {

void batch_norm(int64_t rows, int64_t c, const float* x, const float* mean, const float* var,
                const float* scale, const float* shift, double eps, float* y) {
  if (rows * c == 0) return;
  // Few channels are repeated to one long row, so that no vector is cut short.
  const int64_t times = c < 256 ? std::min(rows, 1024 / c) : 1, n = c * times;
  Buffer parameters(static_cast<size_t>(3 * n) * sizeof(float));
  float *m = parameters.floats(), *f = m + n, *s = f + n;
  for (int64_t i = 0; i < c; ++i) {
    m[i] = mean[i];
    f[i] = static_cast<float>((scale ? scale[i] : 1.0) / std::sqrt(static_cast<double>(var[i]) + eps));
    s[i] = shift ? shift[i] : 0.0f;
  }
  for (float* p : {m, f, s})
    for (int64_t t = 1; t < times; ++t) std::copy_n(p, c, p + t * c);
  const int64_t total = rows * c, chunk = std::max<int64_t>(1, 16384 / n) * n;
  parallel_for((total + chunk - 1) / chunk, threads_for(static_cast<double>(total) * 0.2), [&](int64_t task) {
    const int64_t begin = task * chunk, length = std::min(chunk, total - begin);
    AffineRows t{x + begin, y + begin, m, f, s, length / n, n, kNone};
    kernels().norm.affine(&t);
    const int64_t done = length / n * n;
    if (done < length) {
      t = {x + begin + done, y + begin + done, m, f, s, 1, length - done, kNone};
      kernels().norm.affine(&t);
    }
  });
}

namespace {

// f(rows of a block, scratch of so many floats times `scratches`) for all blocks of rows.
template <class F>
void by_rows(const LocalResponse& s, double cost, int scratches, F&& f) {
  if (s.rows * s.c == 0) return;
  const int64_t block = std::max<int64_t>(1, std::min<int64_t>(s.rows, 4096 / (s.c + s.before + s.after)));
  const bool special = s.beta == 0.75 || s.beta == 0.5 || s.beta == 1.0;
  const double nanoseconds = static_cast<double>(s.rows * s.c) * cost * (special ? 8.0 : 24.0) / kernels().vl;
  parallel_for((s.rows + block - 1) / block, threads_for(nanoseconds), [&](int64_t task) {
    const int64_t row = task * block, rows = std::min(block, s.rows - row);
    const int64_t floats = kernels().norm.response_scratch(rows, s.c, s.before, s.after);
    auto* scratch = static_cast<float*>(
        thread_scratch(Slot::kTile, static_cast<size_t>(scratches * floats) * sizeof(float)));
    f(row * s.c, scratch, floats, [&](const float* x, float* y) {
      return ResponseRows{
          x,      y,      rows, s.c, s.before, s.after, static_cast<float>(s.k), static_cast<float>(s.alpha),
          s.beta, scratch};
    });
  });
}

}  // namespace

void local_response_norm(const LocalResponse& s, const float* x, float* y) {
  by_rows(s, 1.0, 1, [&](int64_t at, float*, int64_t, auto&& rows) {
    const ResponseRows t = rows(x + at, y + at);
    kernels().norm.response(&t);
  });
}

void local_response_norm_grad(const LocalResponse& s, const float* x, const float* g, float* dx) {
  by_rows(s, 2.0, 2, [&](int64_t at, float* scratch, int64_t floats, auto&& rows) {
    const ResponseGradRows t{rows(x + at, dx + at), g + at, scratch + floats};
    kernels().norm.response_grad(&t);
  });
}

namespace {

// rows(first value, number) where a softmax is a row of values, columns(first value, number) where it is not;
// `cost` in nanoseconds of a value times lanes.
template <class Rows, class Columns>
void each_softmax(int64_t outer, int64_t k, int64_t inner, double cost, Rows&& rows, Columns&& columns) {
  const int64_t total = outer * k * inner;
  if (total == 0) return;
  const int threads = threads_for(static_cast<double>(total) * cost / kernels().vl);
  if (inner == 1) {
    const int64_t block = std::max<int64_t>(1, std::min<int64_t>(outer, 8192 / k));
    parallel_for((outer + block - 1) / block, threads,
                 [&](int64_t task) { rows(task * block * k, std::min(block, outer - task * block)); });
    return;
  }
  // Strips of columns as wide as the first cache level holds for all k rows.
  const int64_t width = std::max<int64_t>(64, std::min<int64_t>(1024, 8192 / k / 64 * 64));
  const int64_t strips = (inner + width - 1) / width;
  parallel_for(outer * strips, threads, [&](int64_t task) {
    const int64_t column = task % strips * width;
    columns(task / strips * k * inner + column, std::min(width, inner - column));
  });
}

}  // namespace

void softmax(int64_t outer, int64_t k, int64_t inner, bool log, const float* x, float* y) {
  const NormKernels& kernel = kernels().norm;
  each_softmax(
      outer, k, inner, 12.0,
      [&](int64_t at, int64_t rows) { kernel.softmax_rows(x + at, y + at, rows, k, log); },
      [&](int64_t at, int64_t columns) {
        const SoftmaxColumns t{x + at, y + at, k, inner, columns, log};
        kernel.softmax_columns(&t);
      });
}

void softmax_grad(int64_t outer, int64_t k, int64_t inner, bool log, const float* g, const float* y,
                  float* dx) {
  const NormKernels& kernel = kernels().norm;
  each_softmax(
      outer, k, inner, log ? 10.0 : 5.0,
      [&](int64_t at, int64_t rows) { kernel.softmax_grad_rows(g + at, y + at, dx + at, rows, k, log); },
      [&](int64_t at, int64_t columns) {
        const SoftmaxGradColumns t{g + at, y + at, dx + at, k, inner, columns, log};
        kernel.softmax_grad_columns(&t);
      });
}

}  // namespace cnnfast
