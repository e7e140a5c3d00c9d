// The table of Winograd's algorithm along rows, F(4,3), F(3,4) and F(2,5), for each instruction level. With a
// stride the pixels of each remainder are channels of their own: a picture of fewer, deeper pixels.
#pragma once
#include "core/epilogue.h"
#include <cstdint>

namespace cnnfast {

// A tile of outputs in a row reads six pixels, which become as many values of V; of eight floats the last two
// are not used.
constexpr int kRowWinogradSide = 6, kRowWinogradRoom = 8;
// Output rows that are summed at a time.
constexpr int kRowWinogradRows = 5;
constexpr int row_winograd_tile(int64_t taps) { return kRowWinogradSide + 1 - static_cast<int>(taps); }

// V[tile][line][remainder][c][room] = B^T x of every tile in `lines` of a picture, of which null ones are
// zeros.
struct RowWinogradInput {
  const float* const* lines;
  int64_t count;
  int64_t w, c, ldx;            // of a line; floats from pixel to pixel
  int64_t left, stride, tiles;  // the first tile reads every `stride` pixels from -left on
  int64_t tile;                 // outputs of a tile
  float* v;
};

// Output rows, each summed over `depth` values of V: those of its kernel rows, line after line.
struct RowWinogradRows {
  int taps;
  int64_t depth, lines, c;  // of V, remainders in c
  int64_t stride;           // lines from row to row
  int64_t rows, tiles, q, o;
  const float* v;
  const float* u;         // [vector of outputs][k][plane][lane]
  const float* bias;      // or null
  const float* residual;  // likewise, with the strides of y
  int activation;
  float slope;
  float* y;
  int64_t ldy, row_step;  // floats from pixel to pixel, from row to row
};

// u of weights w, HWIO; exactly in double, rounded once.
struct RowWinogradWeights {
  int taps;
  int64_t kh, kw, stride, c, o;
  const float* w;
  float* u;
};

struct RowWinogradKernels {
  void (*input)(const RowWinogradInput*);
  void (*rows)(const RowWinogradRows*);
  void (*weights)(const RowWinogradWeights*);
};

}  // namespace cnnfast
