// Resizing of pictures by tables of weights, and its adjoint by the tables of that.
#pragma once
#include <cstdint>

#include "cuda/check.h"
#include "cuda/element.h"

namespace cnnfast::cuda {

// Output i along an axis is the sum over k < count[i] of weights[i, k] x[start[i] + k].
struct ResizeTable {
  int64_t out;
  int taps;  // per row of weights
  const int *start, *count;
  const float* weights;
};

// x is n x rows x columns x channels. `between` is workspace of resize_workspace bytes, or null where that is
// 0: both axes go in one pass where their taps are few.
int64_t resize_workspace(int64_t n, int64_t rows, int64_t columns, int64_t channels,
                         const ResizeTable& vertical, const ResizeTable& horizontal, bool columns_first);
void resize(DType type, int64_t n, int64_t rows, int64_t columns, int64_t channels,
            const ResizeTable& vertical, const ResizeTable& horizontal, bool columns_first, const void* x,
            void* y, float* between, cudaStream_t stream);

}  // namespace cnnfast::cuda
