#include "cpu/boxes.h"

#include <cstring>

#include "bindings/array.h"
#include "cpu/yolo.h"

namespace cnnfast::bindings {
namespace {

using Integers = py::array_t<int64_t, py::array::c_style>;

// The number of results is known only at the end: they are written to scratch memory and copied.
template <class T>
py::array_t<T> copied(const T* from, const std::vector<py::ssize_t>& shape, py::ssize_t count) {
  auto out = new_array<T>(shape);
  if (count) std::memcpy(out.mutable_data(), from, static_cast<size_t>(count) * sizeof(T));
  return out;
}

template <class T>
Buffer room_for(int64_t count) {
  return Buffer(static_cast<size_t>(count) * sizeof(T));
}

}  // namespace

void bind_boxes(py::module_& m) {
  m.def("box_iou", [](const Floats& a, const Floats& b, int kind) {
    const int64_t n = a.shape(0), columns = b.shape(0);
    auto y = new_array({n, columns});
    const float *ad = a.data(), *bd = b.data();
    float* yd = y.mutable_data();
    without_gil([&] { box_iou(n, columns, ad, bd, kind, yd); });
    return y;
  });
  m.def("nms", [](const Floats& boxes, const Floats& scores, float threshold) {
    const int64_t n = scores.shape(0);
    Buffer kept = room_for<int64_t>(n);
    const float *bd = boxes.data(), *sd = scores.data();
    int64_t count = 0;
    without_gil([&] { count = nms(n, bd, sd, threshold, kept.as<int64_t>()); });
    return copied(kept.as<int64_t>(), {count}, count);
  });
  m.def("batched_nms",
        [](const Floats& boxes, const Floats& scores, const Integers& classes, float threshold) {
          const int64_t n = scores.shape(0);
          Buffer kept = room_for<int64_t>(n);
          const float *bd = boxes.data(), *sd = scores.data();
          const int64_t* cd = classes.data();
          int64_t count = 0;
          without_gil([&] { count = batched_nms(n, bd, sd, cd, threshold, kept.as<int64_t>()); });
          return copied(kept.as<int64_t>(), {count}, count);
        });
  m.def("soft_nms", [](const Floats& boxes, const Floats& scores, bool gaussian, float threshold, float sigma,
                       float score_threshold) {
    const int64_t n = scores.shape(0);
    Buffer kept = room_for<int64_t>(n), kept_scores = room_for<float>(n);
    const float *bd = boxes.data(), *sd = scores.data();
    const SoftNms parameters{gaussian, threshold, sigma, score_threshold};
    int64_t count = 0;
    without_gil([&] { count = soft_nms(n, bd, sd, parameters, kept.as<int64_t>(), kept_scores.floats()); });
    return py::make_tuple(copied(kept.as<int64_t>(), {count}, count),
                          copied(kept_scores.floats(), {count}, count));
  });
  m.def("weighted_nms", [](const Floats& boxes, const Floats& scores, float threshold) {
    const int64_t n = scores.shape(0);
    Buffer kept = room_for<int64_t>(n), kept_boxes = room_for<float>(4 * n);
    const float *bd = boxes.data(), *sd = scores.data();
    int64_t count = 0;
    without_gil([&] { count = weighted_nms(n, bd, sd, threshold, kept.as<int64_t>(), kept_boxes.floats()); });
    return py::make_tuple(copied(kept.as<int64_t>(), {count}, count),
                          copied(kept_boxes.floats(), {count, 4}, 4 * count));
  });
  m.def("yolo_candidates",
        [](const std::vector<Floats>& outputs, const std::vector<std::vector<std::array<double, 2>>>& anchors,
           int64_t classes, std::array<double, 2> size, std::array<double, 2> origin,
           std::optional<std::array<double, 2>> picture, float threshold, float least, bool softmax,
           double scale_xy) {
          const YoloDecoding decoding{classes, size, origin, picture, threshold, least, softmax, scale_xy};
          std::vector<YoloOutput> grids;
          for (size_t i = 0; i < outputs.size(); ++i)
            grids.push_back({outputs[i].data(), outputs[i].shape(0), outputs[i].shape(1), anchors.at(i)});
          YoloCandidates found;
          without_gil([&] { found = yolo_candidates(grids, decoding); });
          const auto count = static_cast<py::ssize_t>(found.scores.size());
          return py::make_tuple(copied(found.boxes.data(), {count, 4}, 4 * count),
                                copied(found.scores.data(), {count}, count),
                                copied(found.classes.data(), {count}, count));
        });
}

}  // namespace cnnfast::bindings
