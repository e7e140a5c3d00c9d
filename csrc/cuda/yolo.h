// Boxes out of the raw values of a YOLO network: rows x columns cells, for each of which and each anchor x,
// y, width, height, objectness and classes stand next to each other.
#pragma once
#include <cstdint>

#include "cuda/check.h"
#include "cuda/element.h"

namespace cnnfast::cuda {

constexpr int kMostAnchors = 32;

// One output of a network. Anchors are width and height in pixels.
struct YoloGrid {
  int64_t rows, columns;
  int anchors;
  double anchor[kMostAnchors][2];

  CNNFAST_BOTH int64_t places() const { return rows * columns * anchors; }
};

// What all outputs have in common; lengths are in pixels.
struct YoloDecoding {
  int64_t classes;
  double height, width;  // of what the outputs cover
  double top, left;      // where the picture begins
  bool cut;              // boxes at the edges of the picture, which ends
  float bottom, right;   // here
  float threshold;       // scores count above it,
  float least;           // which no raw objectness below this leads to
  bool softmax;          // of the classes; a sigmoid for each otherwise
  double scale_xy;

  CNNFAST_BOTH int64_t values() const { return 5 + classes; }
};

// How many scores of each place are above the threshold.
void yolo_count(const YoloGrid& grid, const YoloDecoding& how, const float* x, int64_t* counts,
                cudaStream_t stream);
// Counts of n places to how many scores lie before each, and how many there are.
void yolo_starts(int64_t n, int64_t* counts, int64_t* total, cudaStream_t stream);
// Boxes, scores and classes in the order of cells, anchors and classes, each place from its start on.
void yolo_candidates(const YoloGrid& grid, const YoloDecoding& how, const float* x, const int64_t* starts,
                     float* boxes, float* scores, int64_t* classes, cudaStream_t stream);

}  // namespace cnnfast::cuda
