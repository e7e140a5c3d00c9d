#pragma once
#include <cstdint>

namespace cnnfast {

// Boxes are rows x1, y1, x2, y2. out has n x m floats; kind is a BoxKind.
void box_iou(int64_t n, int64_t m, const float* a, const float* b, int kind, float* out);

// The functions below write box numbers to `kept`, which has room for n, and return how many.
int64_t nms(int64_t n, const float* boxes, const float* scores, float threshold, int64_t* kept);
int64_t batched_nms(int64_t n, const float* boxes, const float* scores, const int64_t* classes,
                    float threshold, int64_t* kept);
struct SoftNms {
  bool gaussian;
  float threshold, sigma, score_threshold;
};
int64_t soft_nms(int64_t n, const float* boxes, const float* scores, const SoftNms& parameters, int64_t* kept,
                 float* kept_scores);
int64_t weighted_nms(int64_t n, const float* boxes, const float* scores, float threshold, int64_t* kept,
                     float* kept_boxes);

}  // namespace cnnfast
