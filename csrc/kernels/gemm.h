// The tables that the GEMM-shaped kernels fill in for each instruction level.
#pragma once
#include "core/epilogue.h"
#include <cstdint>

namespace cnnfast {

// C[m, n] (+)= sum over taps t and k < len of rows[t][m][offset + k] * B[t * len + k, n].
// Rows of A come through pointers, so padding is a pointer to zeros and a strided or dilated input
// costs nothing. The result rows are pointers too: transpose convolution scatters its rows.
struct GemmBlock {
  const float* const* rows;  // rows[t * row_stride + m]
  int64_t row_stride;
  int64_t m;
  int64_t taps, len, offset;
  // B: either packed panels (ldb = 0, see panel_begin) or a plain row-major matrix with ldb >= n.
  const float* b;
  int64_t ldb;
  int64_t depth, k0;  // all rows of B; the first one of this call
  int64_t n;          // columns of B and C
  int64_t panel_first, panel_last;
  float* const* out;
  bool first, last;          // first: C is overwritten; last: the epilogue is applied
  const float* bias;         // n values or null
  int64_t residual_delta;    // residual row = out row + delta
  bool has_residual;
  int activation;
  float slope;
};

struct GemmKernels {
  int max_vectors;        // widest panel in vectors
  int tile_rows;          // rows worth keeping together in one block
  int sweep_rows;         // up to this many rows a plain B of any width is read as it lies
  // Panels split the columns evenly: panel p of P begins at vector p * V / P.
  void (*block)(const GemmBlock*);
  // Rows k_first..k_last of B (depth x n, row stride ldb, column stride cs) into packed panels.
  void (*pack)(const float* b, int64_t ldb, int64_t cs, int64_t depth, int64_t n, int64_t panel, float* out);
  // y[i, j] (+)= sum over k < depth of x[k * ldx + i] * x[k * ldx + j] for one tile of rows
  // i_first..i_last and all j >= i_first rounded down to a vector: the upper part of a Gram matrix.
  void (*gram)(const float* x, int64_t depth, int64_t n, int64_t i_first, int64_t i_last, float* y,
               bool first);
};

inline int64_t panel_count(int64_t n, int vl, int max_vectors) {
  int64_t vectors = (n + vl - 1) / vl;
  return (vectors + max_vectors - 1) / max_vectors;
}
inline int64_t packed_floats(int64_t depth, int64_t n, int vl) { return (n + vl - 1) / vl * vl * depth; }

}  // namespace cnnfast
