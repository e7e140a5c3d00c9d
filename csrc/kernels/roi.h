#pragma once
#include <cstdint>

namespace cnnfast {

// One row of bins of one region of interest; the image is NHWC with rows of w pixels of c channels.
struct RoiPoolRow {
  const float* image;
  float* y;  // q bins of c channels
  int64_t w, c, q;
  int64_t top, bottom;          // rows of the image
  const int64_t *left, *right;  // columns of each bin; an empty range gives 0
};

struct RoiAlignRow {
  const float* image;
  float* y;
  int64_t w, c, q;
  int64_t rows;  // rows of the image that take part, each with its weight
  const int32_t* row;
  const float* row_weight;
  const int64_t* start;  // bin i takes columns start[i] .. start[i + 1]
  const int32_t* column;
  const float* column_weight;
};

struct RoiKernels {
  void (*pool_row)(const RoiPoolRow*);
  void (*align_row)(const RoiAlignRow*);
};

}  // namespace cnnfast
