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
  // Not 0: the rows lie evenly apart. Row m is at rows[t * row_stride] + m * row_step, result row m at
  // out[0] + m * out_step.
  int64_t row_step, out_step;
  // Not 0: the rows of A are those of a matrix, this many values apart, and come from beyond the caches.
  int64_t fetch_step;
  int64_t m;
  const int64_t* ends;  // the rows fall into segments; no tile reaches over the end of one
  int64_t segments;
  const float* zero;  // a tap whose rows all point here adds nothing and is skipped; null: never skip
  int64_t taps, len, offset;
  // B: either packed panels (ldb = 0), or a plain row-major matrix (ldb = n of all groups) whose
  // columns past the last whole vector are in `b_tail`, packed (depth x vector).
  const float* b;
  const float* b_tail;
  int64_t ldb;
  int64_t depth, k0;  // all rows of B; the first one of this call
  int64_t n;          // columns of B and C
  int64_t panel_first, panel_last;
  float* const* out;
  bool first, last;        // first: C is overwritten; last: the epilogue is applied
  bool past_cache;         // C is larger than the caches, written once and in whole aligned vectors
  const float* bias;       // n values or null
  int64_t residual_delta;  // residual row = out row + delta
  bool has_residual;
  int activation;
  float slope;
};

struct GemmKernels {
  int max_vectors;  // widest panel in vectors
  int tile_rows;    // rows worth keeping together in one block
  int sweep_rows;   // up to this many rows a plain B of any width is read as it lies
  // Packed: panels split the vectors evenly, panel p of P begins at vector p * V / P and is stored as
  // depth x width. Plain: the same over the whole vectors; the rest is a panel of its own.
  void (*block)(const GemmBlock*);
  // Panel `panel` of B (n columns in all): `rows` rows from k0 on, of `depth`. b points at the first of
  // these rows; element (k, j) is b[k * row_stride + j * column_stride].
  // Returns whether all values are finite.
  bool (*pack)(const float* b, int64_t row_stride, int64_t column_stride, int64_t rows, int64_t k0,
               int64_t depth, int64_t n, int64_t panel, float* out);
  // y[i, j] (+)= sum over k < depth of x[k * ldx + i] * x[k * ldx + j] for one tile of rows
  // i_first..i_last and all j >= i_first rounded down to a vector: the upper part of a Gram matrix.
  void (*gram)(const float* x, int64_t depth, int64_t n, int64_t i_first, int64_t i_last, float* y,
               bool first);
  // y[m * step] = start + sum over k < depth of a[m * lda + k] * w[k]: for so few columns that lanes would
  // idle.
  void (*dots)(const float* a, int64_t lda, int64_t rows, const float* w, int64_t depth, float start,
               float* y, int64_t step);
};

inline int64_t panel_count(int64_t n, int vl, int max_vectors, bool plain) {
  const int64_t whole = n / vl, tail = n % vl != 0;
  return plain ? (whole + max_vectors - 1) / max_vectors + tail
               : (whole + tail + max_vectors - 1) / max_vectors;
}
inline int64_t packed_floats(int64_t depth, int64_t n, int vl) { return (n + vl - 1) / vl * vl * depth; }

}  // namespace cnnfast
