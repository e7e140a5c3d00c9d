// The table of the transforms of Strassen's product, for each instruction level; the products themselves are
// those of kernels/winograd.h.
#pragma once
#include <cstdint>

namespace cnnfast {

// One level cuts both matrices into 2x2 blocks, two levels these blocks once more.
constexpr int kMostStrassenLevels = 2;
static constexpr int64_t strassen_side(int levels) { return int64_t{1} << levels; }
static constexpr int64_t strassen_planes(int levels) { return levels == 0 ? 1 : levels == 1 ? 7 : 49; }
// Products are summed up on the way: to each of the outer level, the one it is added to.
constexpr int8_t kStrassenOn[7] = {-1, 0, 0, 2, 2, 4, -1};

// Tile t of an image is its rows side t .. side (t + 1); behind the last row rows of zeros are thought.
struct StrassenTiles {
  int levels;
  int64_t rows;  // of one image
  int64_t first, count;
  __attribute__((always_inline)) constexpr int64_t per_image() const {
    return (rows + strassen_side(levels) - 1) / strassen_side(levels);
  }
};

// V[e][t][k] = sums and differences of the blocks of a tile, for k_first <= k < k_last, both multiples of 16;
// block j of a row begins at channel j * block.
struct StrassenInput {
  StrassenTiles tiles;
  const float* x;
  const float* zero;  // side * block zeros
  // Row r of an image is pixel (r / line, r % line).
  int64_t line, image_stride, line_stride, pixel_stride;
  int64_t block;
  int64_t k_first, k_last;
  float* v;  // of tile `first`
  int64_t v_row, v_plane;
};

// y = epilogue of the blocks that follow from M, for columns 0 .. columns (a multiple of 16) of every block;
// block j of a row begins at column j * block.
struct StrassenOutput {
  StrassenTiles tiles;
  const float* m;
  int64_t m_row, m_plane;
  float* y;  // of the first column
  int64_t row_stride;
  int64_t block, columns;
  const float* bias;      // of the first column, or null
  const float* residual;  // likewise, with the stride of y
  int activation;
  float slope;
};

struct StrassenKernels {
  void (*input)(const StrassenInput*);
  void (*output)(const StrassenOutput*);
};

}  // namespace cnnfast
