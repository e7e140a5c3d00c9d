// Gradients of dense layers: the input's is a product with the transposed weight, the weight's that of a 1x1
// convolution whose pixels are the rows.
#include <algorithm>

#include "core/arena.h"
#include "core/threads.h"
#include "cpu/conv2d.h"
#include "cpu/conv_grad.h"
#include "kernels/table.h"

namespace cnnfast {

namespace {

// So many rows of g are packed in place of the weight, which is then read once where it lies.
constexpr int64_t kFewRowsFrom = 4, kFewRowsTo = 64;

// dx' = w g', turned back: every sum is the same as in dx = g w'.
void few_rows_grad_input(int64_t rows, int64_t in, int64_t out, const float* g, const float* w, float* dx,
                         int threads) {
  constexpr int64_t kBlock = 64;
  const PackedMatrix packed(&g, 1, out, 1, rows, 0, 1, out, 1);
  const Buffer turned(static_cast<size_t>(in * rows) * sizeof(float));
  dense_gemm(w, out, in, packed.view(), Epilogue{}, turned.floats(), rows, threads);
  parallel_for((in + kBlock - 1) / kBlock, threads_for(static_cast<double>(in * rows)), [&](int64_t task) {
    const int64_t first = task * kBlock, last = std::min(in, first + kBlock);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = first; i < last; ++i) dx[r * in + i] = turned.floats()[i * rows + r];
  });
}

}  // namespace

void linear_grad_input(int64_t rows, int64_t in, int64_t out, const float* g, const float* w, float* dx) {
  if (rows * in == 0) return;
  const double flops = 2.0 * static_cast<double>(rows * in) * static_cast<double>(out);
  const int threads = threads_for(gemm_nanoseconds(flops));
  if (rows >= kFewRowsFrom && rows <= kFewRowsTo)
    return few_rows_grad_input(rows, in, out, g, w, dx, threads);
  const PackedMatrix packed(&w, 1, out, 1, in, 0, 1, out, threads);
  linear(rows, out, in, g, nullptr, &packed, Epilogue{}, dx);
}

void linear_grad_weight(int64_t rows, int64_t in, int64_t out, const float* x, const float* g, float* dw) {
  const Conv2dSpec s{1, 1, rows, in, 1, 1, out, 1, 1, 1, 1, 1, 0, 0, rows ? 1 : 0, rows, in, out};
  conv2d_grad_weight(s, x, g, false, dw);
}

void channel_sums(int64_t rows, int64_t c, const float* x, float* y) {
  constexpr int64_t kRows = 1024, kLongRow = 256;
  if (c == 0) return;
  // Rows of few channels are taken several at once, so that no vector is cut short.
  int64_t times = 1;
  while (times < kRows && 2 * times * c <= kLongRow) times *= 2;
  const int64_t parts = (rows + kRows - 1) / kRows, n = times * c;
  const Buffer partial(static_cast<size_t>(parts * c + 1) * sizeof(double));
  parallel_for(parts, threads_for(static_cast<double>(rows * c) * 0.1), [&](int64_t part) {
    const int64_t count = std::min(kRows, rows - part * kRows), whole = count / times, rest = count % times;
    const float* from = x + part * kRows * c;
    auto* sums = static_cast<float*>(thread_scratch(Slot::kTile, static_cast<size_t>(n) * sizeof(float)));
    double* to = partial.as<double>() + part * c;
    std::fill_n(to, c, 0.0);
    const auto add = [&](int64_t width) {
      for (int64_t j = 0; j < width; j += c)
        for (int64_t k = 0; k < c; ++k) to[k] += sums[j + k];
    };
    if (whole) {
      kernels().pool.reduce_sum(sums, from, n, n, whole);
      add(n);
    }
    if (rest) {
      kernels().pool.reduce_sum(sums, from + whole * n, c, c, rest);
      add(c);
    }
  });
  for (int64_t k = 0; k < c; ++k) {
    double sum = 0;
    for (int64_t part = 0; part < parts; ++part) sum += partial.as<double>()[part * c + k];
    y[k] = static_cast<float>(sum);
  }
}

}  // namespace cnnfast
