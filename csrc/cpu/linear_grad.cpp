// Gradients of dense layers: the input's is a product with the transposed weight, the weight's that of a 1x1
// convolution whose pixels are the rows.
#include <algorithm>

#include "core/arena.h"
#include "core/threads.h"
#include "cpu/conv2d.h"
#include "cpu/conv_grad.h"
#include "kernels/table.h"

namespace cnnfast {

void linear_grad_input(int64_t rows, int64_t in, int64_t out, const float* g, const float* w, float* dx) {
  if (rows == 0) return;
  const double flops = 2.0 * static_cast<double>(rows * in) * static_cast<double>(out);
  const PackedMatrix packed(&w, 1, out, 1, in, 0, 1, out, threads_for(gemm_nanoseconds(flops)));
  linear(rows, out, in, g, nullptr, &packed, Epilogue{}, dx);
}

void linear_grad_weight(int64_t rows, int64_t in, int64_t out, const float* x, const float* g, float* dw) {
  const Conv2dSpec s{1, 1, rows, in, 1, 1, out, 1, 1, 1, 1, 1, 0, 0, rows ? 1 : 0, rows, in, out};
  conv2d_grad_weight(s, x, g, false, dw);
}

void channel_sums(int64_t rows, int64_t c, const float* x, float* y) {
  constexpr int64_t kRows = 1024;
  if (c == 0) return;
  const int64_t parts = (rows + kRows - 1) / kRows;
  Buffer partial(static_cast<size_t>(parts * c + 1) * sizeof(float));
  parallel_for(parts, threads_for(static_cast<double>(rows * c) * 0.1), [&](int64_t part) {
    const int64_t first = part * kRows;
    kernels().pool.reduce_sum(partial.floats() + part * c, x + first * c, c, c,
                              std::min(kRows, rows - first));
  });
  for (int64_t k = 0; k < c; ++k) {
    double sum = 0;
    for (int64_t part = 0; part < parts; ++part) sum += static_cast<double>(partial.floats()[part * c + k]);
    y[k] = static_cast<float>(sum);
  }
}

}  // namespace cnnfast
