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

// Adds the classes of one place with a score above the threshold; the box is made for the first of them.
class Place {
 public:
  Place(const YoloOutput& output, YoloCandidates* found) : output_(output), found_(found) {}

  void add(const float* t, int64_t at) {
    const auto objectness = static_cast<float>(sigmoid(t[4]));
    const float* logits = t + 5;
    double most = 0, sum = 1;
    if (output_.softmax) {
      most = *std::max_element(logits, logits + output_.classes);
      sum = 0;
      for (int64_t c = 0; c < output_.classes; ++c) sum += std::exp(logits[c] - most);
    }
    bool made = false;
    for (int64_t c = 0; c < output_.classes; ++c) {
      if (!output_.softmax && !(logits[c] >= output_.least)) continue;
      const double probability = output_.softmax ? std::exp(logits[c] - most) / sum : sigmoid(logits[c]);
      const float score = objectness * static_cast<float>(probability);
      if (!(score > output_.threshold)) continue;
      if (!made) make_box(t, at);
      made = true;
      found_->boxes.insert(found_->boxes.end(), box_, box_ + 4);
      found_->scores.push_back(score);
      found_->classes.push_back(c);
    }
  }

 private:
  void make_box(const float* t, int64_t at) {
    const auto anchors = static_cast<int64_t>(output_.anchors.size());
    const auto& anchor = output_.anchors[static_cast<size_t>(at % anchors)];
    const int64_t cell = at / anchors;
    const double x = centre(t[0], cell % output_.columns, output_.columns, output_.size.second);
    const double y = centre(t[1], cell / output_.columns, output_.rows, output_.size.first);
    const double w = std::exp(static_cast<double>(t[2])) * (anchor[0] / 2);
    const double h = std::exp(static_cast<double>(t[3])) * (anchor[1] / 2);
    const double corners[4] = {x - w, y - h, x + w, y + h};
    std::transform(corners, corners + 4, box_, [](double v) { return static_cast<float>(v); });
  }

  double centre(float value, int64_t cell, int64_t cells, int64_t pixels) const {
    const double inside = sigmoid(value) * output_.scale_xy - (output_.scale_xy - 1) / 2;
    return (inside + static_cast<double>(cell)) / static_cast<double>(cells) * static_cast<double>(pixels);
  }

  const YoloOutput& output_;
  YoloCandidates* found_;
  float box_[4] = {};
};

}  // namespace

YoloCandidates yolo_candidates(const YoloOutput& output, const float* values) {
  YoloCandidates found;
  Place place(output, &found);
  const int64_t step = 5 + output.classes;
  const int64_t places = output.rows * output.columns * static_cast<int64_t>(output.anchors.size());
  const float least = output.least;
  for (int64_t at = 0; at < places; ++at) {
    const float* t = values + at * step;
    if (t[4] >= least) place.add(t, at);
  }
  return found;
}

}  // namespace cnnfast
