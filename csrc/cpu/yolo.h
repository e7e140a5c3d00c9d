#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <vector>

namespace cnnfast {

// One output of a YOLO network: rows x columns x anchors places, each with x, y, width, height, objectness
// and classes. Anchors are width and height in pixels.
struct YoloOutput {
  const float* values;
  int64_t rows, columns;
  std::vector<std::array<double, 2>> anchors;
};

// What all outputs have in common; size, origin and picture are rows before columns, in pixels.
struct YoloDecoding {
  int64_t classes;
  std::array<double, 2> size, origin;
  std::optional<std::array<double, 2>> picture;  // boxes are cut at its edges
  float threshold;                               // scores count above it,
  float least;                                   // which no raw objectness below this leads to
  bool softmax;
  double scale_xy;
};

struct YoloCandidates {
  std::vector<float> boxes;  // x1, y1, x2, y2
  std::vector<float> scores;
  std::vector<int64_t> classes;
};

YoloCandidates yolo_candidates(const std::vector<YoloOutput>& outputs, const YoloDecoding& decoding);

}  // namespace cnnfast
