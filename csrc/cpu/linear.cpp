// Dense layers and Gram matrices.
#include <algorithm>

#include "core/threads.h"
#include "cpu/conv2d.h"
#include "kernels/table.h"

#include <optional>

namespace cnnfast {

void linear(int64_t rows, int64_t in, int64_t out, const float* x, const float* w, const PackedMatrix* packed,
            const Epilogue& epilogue, float* y) {
  if (rows * out == 0) return;
  // A single row streams the weights once: its time is that of memory.
  const double flops = 2.0 * static_cast<double>(rows) * static_cast<double>(in) * static_cast<double>(out);
  const double nanoseconds = std::max(gemm_nanoseconds(flops), static_cast<double>(in * out) * 0.25);
  const int threads = threads_for(nanoseconds);
  std::optional<CallWeights> own;
  if (!packed) own.emplace(w, rows, 1, in, out, threads);
  const MatrixView b = packed ? packed->view() : own->view();
  dense_gemm(x, in, rows, b, epilogue, y, out, threads);
}

void matmul(const MatmulSpec& s, const float* a, const float* b, float* y) {
  int64_t rows = s.rows, count = s.stacks.count;
  if (rows * s.columns * count == 0) return;
  if (s.depth == 0) {
    std::fill_n(y, rows * s.columns * count, 0.0f);
    return;
  }
  if (s.stacks.b_count == 1) rows *= count, count = 1;  // one matrix for all: a is one tall matrix
  const double flops = 2.0 * static_cast<double>(rows * s.depth) * static_cast<double>(s.columns);
  const int threads = threads_for(gemm_nanoseconds(flops) * static_cast<double>(count));
  // Products over threads where there are enough of them, else the rows of each.
  const int within = count >= threads ? 1 : threads;
  parallel_for(count, within == 1 ? threads : 1, [&](int64_t index) {
    int64_t from_a = 0, from_b = 0, rest = index;
    for (size_t axis = s.stacks.axes.size(); count > 1 && axis-- > 0;) {
      const Broadcast::Axis& stack = s.stacks.axes[axis];
      const int64_t at = rest % stack.size;
      rest /= stack.size;
      from_a += at * stack.a, from_b += at * stack.b;
    }
    if (s.stacks.swapped) std::swap(from_a, from_b);
    const CallWeights weights(b + from_b * s.depth * s.columns, rows, 1, s.depth, s.columns, within);
    dense_gemm(a + from_a * s.rows * s.depth, s.depth, rows, weights.view(), Epilogue(),
               y + index * rows * s.columns, s.columns, within);
  });
}

void gram_matrix(int64_t n, int64_t rows, int64_t c, const float* x, float* y) {
  if (n * c == 0) return;
  const KernelTable& k = kernels();
  const double flops = static_cast<double>(n * rows) * static_cast<double>(c) * static_cast<double>(c);
  const int threads = threads_for(gemm_nanoseconds(flops));
  // A slice of x passes under all tiles of a task while it is in the second-level cache.
  constexpr int64_t kRows = 24;
  const int64_t depth = std::max<int64_t>(64, std::min<int64_t>(512, 65536 / c));
  const int64_t blocks = (c + kRows - 1) / kRows;
  const int64_t parts = threads == 1 ? 1 : std::min<int64_t>(blocks, 4 * threads);
  parallel_for(n * parts, threads, [&](int64_t task) {
    const int64_t image = task / parts, part = task % parts;
    float* to = y + image * c * c;
    if (rows == 0 && part == 0) std::fill_n(to, c * c, 0.0f);
    for (int64_t r = 0; r < rows; r += depth)
      // Dealt out like cards: the first blocks of the triangle are the longest.
      for (int64_t i = part * kRows; i < c; i += parts * kRows)
        k.gemm.gram(x + (image * rows + r) * c, std::min(depth, rows - r), c, i, std::min(c, i + kRows), to,
                    r == 0);
  });
  parallel_for(n * blocks, threads, [&](int64_t task) {
    const int64_t image = task / blocks, i0 = task % blocks * kRows;
    float* to = y + image * c * c;
    for (int64_t i = i0; i < std::min(c, i0 + kRows); ++i)
      for (int64_t j = 0; j < i; ++j) to[i * c + j] = to[j * c + i];
  });
}

}  // namespace cnnfast
