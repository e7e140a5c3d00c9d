// Overlap of boxes and non-maximum suppression, wholly on the device. Boxes are rows x1, y1, x2, y2 of
// float32. IoU is worked out by one fixed sequence of roundings, that of python/cnnfast/ops/boxes.py, so that
// every backend keeps the same boxes.
#pragma once
#include <cstdint>

#include "cuda/check.h"
#include "cuda/element.h"

namespace cnnfast::cuda {

// Codes shared with python/cnnfast/ops/boxes.py.
enum class Overlap : int { kIou = 0, kGiou = 1, kDiou = 2, kCiou = 3 };
void box_iou(Overlap kind, int64_t n, int64_t m, const float* a, const float* b, float* y,
             cudaStream_t stream);
// Gradients by both sets of boxes, from g of n x m overlaps. Where corners of both are equal each has half of
// what the smaller or larger one would have.
void box_iou_grad(Overlap kind, int64_t n, int64_t m, const float* a, const float* b, const float* g,
                  float* of_a, float* of_b, cudaStream_t stream);

// Bytes of workspace of both below: 64 bytes of suppression bits a box, and the boxes in order.
int64_t nms_workspace(int64_t n);
// The numbers of the kept boxes by falling score to `kept`, how many they are to `count`. Boxes of different
// classes (null: one class) never meet. `fused`, if not null: each kept box averaged with those it
// suppressed.
void nms(int64_t n, const float* boxes, const float* scores, const int64_t* classes, float threshold,
         int64_t* kept, int64_t* count, float* fused, void* workspace, cudaStream_t stream);

int64_t soft_nms_workspace(int64_t n);
// Numbers and new scores in the order in which they are taken.
void soft_nms(int64_t n, const float* boxes, const float* scores, bool gaussian, float threshold, float sigma,
              float score_threshold, int64_t* kept, float* kept_scores, int64_t* count, void* workspace,
              cudaStream_t stream);

}  // namespace cnnfast::cuda
