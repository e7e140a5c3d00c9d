// The table of the transforms of Strassen's product, for each instruction level; the products themselves are
// those of kernels/winograd.h.
#pragma once
#include <cstdint>

namespace cnnfast {

// Planes of a product of 2x2 blocks.
constexpr int kStrassenPlanes = 7;

// Rows 2t and 2t + 1 of a matrix are pair t of an image; behind an odd number of them a row of zeros is
// thought.
struct StrassenPairs {
  int64_t rows;  // of one image
  int64_t first, count;
  constexpr int64_t per_image() const { return (rows + 1) / 2; }
};

// V[e][t][k] = sums and differences of the four blocks of a pair, for k_first <= k < k_last; the left blocks
// begin at channel 0, the right ones at channel `half`. k_first and k_last are multiples of 16.
struct StrassenInput {
  StrassenPairs pairs;
  const float* x;
  // Row r of an image is pixel (r / line, r % line).
  int64_t line, image_stride, line_stride, pixel_stride;
  int64_t half;
  int64_t k_first, k_last;
  float* v;  // of pair `first`
  int64_t v_row, v_plane;
};

// y = epilogue of the blocks that follow from M, for columns 0 .. columns (a multiple of 16) of M, which are
// those of the left blocks; the right ones lie `half` columns after them.
struct StrassenOutput {
  StrassenPairs pairs;
  const float* m;
  int64_t m_row, m_plane;
  float* y;  // of the first column
  int64_t row_stride;
  int64_t half, columns;
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
