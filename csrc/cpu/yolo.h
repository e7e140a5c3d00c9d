#pragma once
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

namespace cnnfast {

// What the values of one output of a YOLO network mean. Each of rows x columns x anchors places has x, y,
// width, height, objectness and classes; anchors (width, height) and size (rows, columns) are in pixels.
struct YoloOutput {
  int64_t rows, columns, classes;
  std::vector<std::array<double, 2>> anchors;
  std::pair<int64_t, int64_t> size;
  float threshold;  // scores count above it,
  float least;      // which no raw objectness below this leads to
  bool softmax;
  double scale_xy;
};

struct YoloCandidates {
  std::vector<float> boxes;  // x1, y1, x2, y2
  std::vector<float> scores;
  std::vector<int64_t> classes;
};

YoloCandidates yolo_candidates(const YoloOutput& output, const float* values);

}  // namespace cnnfast
