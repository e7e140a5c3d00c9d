#include "cuda/yolo.h"

#include <pybind11/stl.h>

#include <array>

#include "bindings_cuda/buffer.h"

namespace cnnfast::cuda::bindings {
namespace {

using Pair = std::array<double, 2>;

YoloGrid make_grid(int64_t rows, int64_t columns, const std::vector<Pair>& anchors) {
  if (anchors.size() > kMostAnchors)
    throw std::invalid_argument("yolo_candidates: expected up to 32 anchors of an output on a device, got " +
                                std::to_string(anchors.size()));
  YoloGrid grid{rows, columns, static_cast<int>(anchors.size()), {}};
  for (size_t i = 0; i < anchors.size(); ++i)
    for (size_t k = 0; k < 2; ++k) grid.anchor[i][k] = anchors[i][k];
  return grid;
}

YoloDecoding make_decoding(int64_t classes, Pair size, Pair origin, std::optional<Pair> picture,
                           float threshold, float least, bool softmax, double scale_xy) {
  const Pair end = picture.value_or(Pair{});
  return {classes,
          size[0],
          size[1],
          origin[0],
          origin[1],
          picture.has_value(),
          static_cast<float>(end[0]),
          static_cast<float>(end[1]),
          threshold,
          least,
          softmax,
          scale_xy};
}

}  // namespace

void bind_yolo(py::module_& m) {
  static constexpr const char* kName = "yolo_candidates";
  py::class_<YoloGrid>(m, "YoloGrid").def(py::init(&make_grid));
  py::class_<YoloDecoding>(m, "YoloDecoding").def(py::init(&make_decoding));
  m.def("yolo_count",
        [](const YoloGrid& grid, const YoloDecoding& how, const Buffer& x, const Buffer& counts) {
          expect_bytes(x, grid.places() * how.values(), DType::kFloat32, kName);
          expect_bytes(counts, grid.places(), DType::kInt64, kName);
          yolo_count(grid, how, in<float>(x), out<int64_t>(counts), stream());
        });
  m.def("yolo_starts", [](int64_t n, const Buffer& counts, const Buffer& total) {
    expect_bytes(counts, n, DType::kInt64, kName);
    expect_bytes(total, 1, DType::kInt64, kName);
    yolo_starts(n, out<int64_t>(counts), out<int64_t>(total), stream());
  });
  m.def("yolo_candidates",
        [](const YoloGrid& grid, const YoloDecoding& how, int64_t count, const Buffer& x,
           const Buffer& starts, const Buffer& boxes, const Buffer& scores, const Buffer& classes) {
          expect_bytes(x, grid.places() * how.values(), DType::kFloat32, kName);
          expect_bytes(starts, grid.places(), DType::kInt64, kName);
          expect_bytes(boxes, 4 * count, DType::kFloat32, kName);
          expect_bytes(scores, count, DType::kFloat32, kName);
          expect_bytes(classes, count, DType::kInt64, kName);
          yolo_candidates(grid, how, in<float>(x), in<int64_t>(starts), out<float>(boxes), out<float>(scores),
                          out<int64_t>(classes), stream());
        });
}

}  // namespace cnnfast::cuda::bindings
