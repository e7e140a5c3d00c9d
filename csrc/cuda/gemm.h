// Products of matrices, row-major: dense layers and their gradients, stacks of matrices, Gram matrices.
#pragma once
#include "core/epilogue.h"
#include "cuda/check.h"
#include "cuda/element.h"

namespace cnnfast::cuda {

class Workspace;

// What follows a sum: act(sum + bias + residual); null where there is none.
struct Ends {
  const float* bias = nullptr;     // one value per column
  const void* residual = nullptr;  // laid out as the result
  int activation = kNone;
  float slope = 0.01f;  // of leaky ReLU
};

// Stacks of matrices: axes of the stack, outermost first, with the distance between matrices of a and of b.
struct Stack {
  static constexpr int kMost = 6;
  int axes = 0;
  int64_t size[kMost] = {}, a[kMost] = {}, b[kMost] = {};
};

struct GemmSpec {
  int64_t m, n, k;
  bool transpose_a = false, transpose_b = false;  // a is stored k x m, b is stored n x k; not both
  Stack stack;
};

void gemm(DType type, const GemmSpec& spec, const void* a, const void* b, const Ends& ends, void* y,
          Workspace& workspace, cudaStream_t stream);

// y[n] = f' f with f the rows x c matrix n: half of it is computed.
void gram(DType type, int64_t n, int64_t rows, int64_t c, const void* x, void* y, Workspace& workspace,
          cudaStream_t stream);

// y[i] = sum over blocks of partial[block, i], in float64 and in their order.
void join_sums(DType type, int64_t blocks, int64_t count, const float* partial, void* y, cudaStream_t stream);

// y[c] = sum over rows of x[., c], in blocks of rows that are joined in float64 in their order.
void column_sums(DType type, int64_t rows, int64_t columns, const void* x, void* y, Workspace& workspace,
                 cudaStream_t stream);

}  // namespace cnnfast::cuda
