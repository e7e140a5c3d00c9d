#include "cuda/boxes.h"

#include <pybind11/stl.h>

#include "bindings_cuda/buffer.h"

namespace cnnfast::cuda::bindings {

void bind_boxes(py::module_& m) {
  m.def("box_iou", [](int kind, int64_t n, int64_t k, const Buffer& a, const Buffer& b, const Buffer& y) {
    expect_bytes(a, 4 * n, DType::kFloat32, "box_iou");
    expect_bytes(b, 4 * k, DType::kFloat32, "box_iou");
    expect_bytes(y, n * k, DType::kFloat32, "box_iou");
    box_iou(static_cast<Overlap>(kind), n, k, in<float>(a), in<float>(b), out<float>(y), stream());
  });
  m.def("box_iou_grad", [](int kind, int64_t n, int64_t k, const Buffer& a, const Buffer& b, const Buffer& g,
                           const Buffer& of_a, const Buffer& of_b) {
    for (const Buffer* buffer : {&a, &of_a}) expect_bytes(*buffer, 4 * n, DType::kFloat32, "box_iou_grad");
    for (const Buffer* buffer : {&b, &of_b}) expect_bytes(*buffer, 4 * k, DType::kFloat32, "box_iou_grad");
    expect_bytes(g, n * k, DType::kFloat32, "box_iou_grad");
    box_iou_grad(static_cast<Overlap>(kind), n, k, in<float>(a), in<float>(b), in<float>(g), out<float>(of_a),
                 out<float>(of_b), stream());
  });
  m.def("nms",
        [](int64_t n, const Buffer& boxes, const Buffer& scores, const std::optional<Buffer>& classes,
           float threshold, const Buffer& kept, const Buffer& count, const std::optional<Buffer>& fused) {
          expect_bytes(boxes, 4 * n, DType::kFloat32, "nms");
          expect_bytes(scores, n, DType::kFloat32, "nms");
          if (classes) expect_bytes(*classes, n, DType::kInt64, "nms");
          expect_bytes(kept, n, DType::kInt64, "nms");
          expect_bytes(count, 1, DType::kInt64, "nms");
          if (fused) expect_bytes(*fused, 4 * n, DType::kFloat32, "nms");
          const Buffer workspace(static_cast<size_t>(nms_workspace(n)));
          nms(n, in<float>(boxes), in<float>(scores), in<int64_t>(classes), threshold, out<int64_t>(kept),
              out<int64_t>(count), out<float>(fused), out(workspace), stream());
        });
  m.def("soft_nms", [](int64_t n, const Buffer& boxes, const Buffer& scores, bool gaussian, float threshold,
                       float sigma, float score_threshold, const Buffer& kept, const Buffer& kept_scores,
                       const Buffer& count) {
    expect_bytes(boxes, 4 * n, DType::kFloat32, "soft_nms");
    expect_bytes(scores, n, DType::kFloat32, "soft_nms");
    expect_bytes(kept, n, DType::kInt64, "soft_nms");
    expect_bytes(kept_scores, n, DType::kFloat32, "soft_nms");
    expect_bytes(count, 1, DType::kInt64, "soft_nms");
    const Buffer workspace(static_cast<size_t>(soft_nms_workspace(n)));
    soft_nms(n, in<float>(boxes), in<float>(scores), gaussian, threshold, sigma, score_threshold,
             out<int64_t>(kept), out<float>(kept_scores), out<int64_t>(count), out(workspace), stream());
  });
}

}  // namespace cnnfast::cuda::bindings
