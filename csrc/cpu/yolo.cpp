// Boxes out of the raw values of a YOLO network. Nearly all places hold nothing, and one comparison of their
// objectness says so; what is left is worked out in double, so that results are rounded once.
#include "cpu/yolo.h"

#include <algorithm>
#include <cmath>

namespace cnnfast {
namespace {

double sigmoid(double x) {
  const double e = std::exp(-std::fabs(x));
  return (x < 0 ? e : 1.0) / (1.0 + e);
}

// x1, y1, x2, y2 of the place with this number.
std::array<float, 4> box_of(const YoloOutput& output, const YoloDecoding& how, int64_t at) {
  const auto anchors = static_cast<int64_t>(output.anchors.size());
  const float* t = output.values + at * (5 + how.classes);
  const auto& anchor = output.anchors[static_cast<size_t>(at % anchors)];
  const int64_t cell = at / anchors;
  const auto centre = [&](float value, int64_t k, int64_t cells, size_t axis) {
    const double inside = sigmoid(value) * how.scale_xy - (how.scale_xy - 1) / 2;
    return (inside + static_cast<double>(k)) / static_cast<double>(cells) * how.size[axis] - how.origin[axis];
  };
  const double x = centre(t[0], cell % output.columns, output.columns, 1);
  const double y = centre(t[1], cell / output.columns, output.rows, 0);
  const double w = std::exp(static_cast<double>(t[2])) * (anchor[0] / 2);
  const double h = std::exp(static_cast<double>(t[3])) * (anchor[1] / 2);
  std::array<float, 4> box = {static_cast<float>(x - w), static_cast<float>(y - h), static_cast<float>(x + w),
                              static_cast<float>(y + h)};
  if (how.picture)
    for (size_t k = 0; k < 4; ++k) {
      const auto end = static_cast<float>((*how.picture)[1 - k % 2]);
      box[k] = box[k] < 0 ? 0 : box[k] > end ? end : box[k];  // NaN stays
    }
  return box;
}

// Adds the classes of a place with a score above the threshold.
void add_place(const YoloOutput& output, const YoloDecoding& how, int64_t at, YoloCandidates* found) {
  const float* t = output.values + at * (5 + how.classes);
  const float* logits = t + 5;
  const auto objectness = static_cast<float>(sigmoid(t[4]));
  double most = 0, sum = 1;
  if (how.softmax) {
    most = *std::max_element(logits, logits + how.classes);
    sum = 0;
    for (int64_t c = 0; c < how.classes; ++c) sum += std::exp(logits[c] - most);
  }
  for (int64_t c = 0; c < how.classes; ++c) {
    if (!how.softmax && !(logits[c] >= how.least)) continue;
    const double probability = how.softmax ? std::exp(logits[c] - most) / sum : sigmoid(logits[c]);
    const float score = objectness * static_cast<float>(probability);
    if (!(score > how.threshold)) continue;
    const auto box = box_of(output, how, at);
    found->boxes.insert(found->boxes.end(), box.begin(), box.end());
    found->scores.push_back(score);
    found->classes.push_back(c);
  }
}

}  // namespace

YoloCandidates yolo_candidates(const std::vector<YoloOutput>& outputs, const YoloDecoding& decoding) {
  YoloCandidates found;
  for (const YoloOutput& output : outputs) {
    const int64_t step = 5 + decoding.classes;
    const int64_t places = output.rows * output.columns * static_cast<int64_t>(output.anchors.size());
    for (int64_t at = 0; at < places; ++at)
      if (output.values[at * step + 4] >= decoding.least) add_place(output, decoding, at, &found);
  }
  return found;
}

}  // namespace cnnfast
