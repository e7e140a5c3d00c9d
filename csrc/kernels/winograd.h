// The table of the Winograd kernels F(mxm,3x3) for m = 2, 4, 5 and 6, F(2x2,5x5) and F(3x3,5x5), and
// F(2x2,3x3) with stride 2, for each instruction level.
#pragma once
#include "core/epilogue.h"
#include <cstdint>

namespace cnnfast {

// The polynomials are taken at +-a for every a of the list, at infinity, and at 0 where the side of a tile is
// even. These points give the least error among fractions with small denominators (docs/performance.md).
// Tiles that read 4, 6, 7 or 8 pixels a side; the transform of the input depends on nothing else.
constexpr double kWinogradPoints4[] = {1.0};
constexpr double kWinogradPoints6[] = {0.625, 1.5};
constexpr double kWinogradPoints7[] = {0.375, 0.875, 1.625};
constexpr double kWinogradPoints8[] = {0.5, 1.0, 2.0};

// F(tile x tile, taps x taps).
struct WinogradForm {
  int tile, taps;  // sides of a tile of outputs and of the kernel
  int stride = 1;
  // Of the input that a tile reads.
  __attribute__((always_inline)) constexpr int side() const { return (tile - 1) * stride + taps; }
  // Products of a tile.
  __attribute__((always_inline)) constexpr int planes() const { return side() * side(); }
};
constexpr bool is_known(WinogradForm f) {
  if (f.stride != 1) return f.stride == 2 && f.tile == 2 && f.taps == 3;
  if (f.taps == 5) return f.tile == 2 || f.tile == 3;
  return f.taps == 3 && (f.tile == 2 || (f.tile >= 4 && f.tile <= 6));
}

// Tiles are counted row by row, image after image. Strides are in floats.
struct WinogradTiles {
  WinogradForm form;
  int64_t th, tw;  // tiles of one image
  int64_t first, count;
};

// V[e][t][c] = B^T x B of every tile, for channels c_first .. c_last.
struct WinogradInput {
  WinogradTiles tiles;
  const float* x;
  int64_t h, w, image_stride, row_stride, pixel_stride;
  int64_t pt, pl;
  int64_t c_first, c_last;  // c_first is a multiple of the vector
  float* v;                 // of tile `first`
  int64_t v_row, v_plane;   // from tile to tile, from e to e; a row has room for whole vectors
};

// Memory that is wanted soon: `rows` runs of `floats`.
struct WinogradAhead {
  const float* from;
  int64_t floats, rows, stride;
};

// M[e][t][j] = sum over c of V[e][t][c] U[e][c][j] for vectors of columns of one block.
struct WinogradProducts {
  int64_t planes, rows, depth;
  const float* v;
  int64_t v_row, v_plane;
  const float* u;         // the block: [e][panel][c][column of the panel]
  int64_t u_plane;        // from e to e
  int64_t block_vectors;  // columns of the block, in vectors
  int64_t vector_first, vector_last;
  float* m;  // of vector_first
  int64_t m_row, m_plane;
  bool add;                     // to what is in M
  bool far;                     // U comes from memory: fetched ahead
  const WinogradAhead* aheads;  // fetched meanwhile
  int64_t ahead_count;
  // Or null: M of plane e is added to that of plane on[e / group] * group + e % group, an earlier one, or to
  // none where on[e / group] is -1.
  const int8_t* on;
  int64_t group;
};

// y = epilogue(A^T M A) for columns 0 .. columns of M.
struct WinogradOutput {
  WinogradTiles tiles;
  const float* m;
  int64_t m_row, m_plane;
  float* y;  // of the first column
  int64_t p, q, image_stride, row_stride, pixel_stride;
  int64_t columns;
  const float* bias;      // of the first column, or null
  const float* residual;  // likewise, with the strides of y
  int activation;
  float slope;
};

// u[e][k][j] = (G w G^T)[e] of `rows` times `columns` kernels w[tap][k][j]; zeros after the last one of a row
// up to a whole vector.
struct WinogradWeights {
  WinogradForm form;
  bool exact;  // in double, rounded once
  int64_t rows, columns;
  const float* w;
  int64_t w_row, w_plane;
  float* u;
  int64_t u_row, u_plane;
};

// w[tap][k] = (G^T u G)[tap] of the planes u[e][k], for `count` pairs k of an input and an output channel.
struct WinogradWeightGradient {
  WinogradForm form;
  int64_t count;
  const float* u;
  int64_t u_plane;
  float* w;
  int64_t w_plane;
};

struct WinogradKernels {
  int block_vectors;  // widest block of columns
  int max_vectors;    // widest panel of a block
  void (*input)(const WinogradInput*);
  void (*products)(const WinogradProducts*);
  void (*output)(const WinogradOutput*);
  void (*weights)(const WinogradWeights*);
  // A g A^T of every tile of a gradient, which lies as the input does: tile x tile pixels, no padding.
  void (*gradient)(const WinogradInput*);
  void (*weight_gradient)(const WinogradWeightGradient*);
};

// Vectors are shared out evenly: part i of n begins here.
constexpr int64_t share(int64_t i, int64_t n, int64_t vectors) { return i * vectors / n; }

}  // namespace cnnfast
