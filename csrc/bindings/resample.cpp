#include "cpu/resample.h"

#include "bindings/array.h"

namespace cnnfast::bindings {

void bind_resample(py::module_& m) {
  m.def("pad2d", [](const Floats& x, int64_t top, int64_t bottom, int64_t left, int64_t right, int mode,
                    float value) {
    const Pad2dSpec s{x.shape(0), x.shape(1), x.shape(2), x.shape(3), top, bottom, left, right, mode, value};
    auto y = new_array({s.n, top + s.h + bottom, left + s.w + right, s.c});
    const float* xd = x.data();
    float* yd = y.mutable_data();
    without_gil([&] { pad2d(s, xd, yd); });
    return y;
  });
  m.def("concat", [](const py::list& arrays, const std::vector<py::ssize_t>& shape, size_t axis) {
    int64_t rows = 1, inner = 1;
    for (size_t i = 0; i < axis; ++i) rows *= shape[i];
    for (size_t i = axis + 1; i < shape.size(); ++i) inner *= shape[i];
    std::vector<ConcatPart> parts;
    parts.reserve(arrays.size());
    for (py::handle item : arrays) {
      if (!is_plain(item.ptr())) throw py::type_error("concat: expected plain float32 arrays");
      const auto array = py::reinterpret_borrow<Floats>(item);
      parts.push_back({array.data(), array.shape(static_cast<py::ssize_t>(axis)) * inner});
    }
    auto y = new_array(shape);
    float* yd = y.mutable_data();
    without_gil([&] { concat(parts, rows, yd); });
    return y;
  });

  using Integers = py::array_t<int64_t, py::array::c_style>;
  using Doubles = py::array_t<double, py::array::c_style>;
  py::class_<ResizeAxis>(m, "ResizeAxis")
      .def(py::init([](int64_t size, const Integers& start, const Integers& count, const Doubles& weights) {
        ResizeAxis a{size, weights.shape(1), true, size == start.size(), {}, {}, {}};
        a.start.assign(start.data(), start.data() + start.size());
        a.count.assign(count.data(), count.data() + count.size());
        a.weights.assign(weights.data(), weights.data() + weights.size());
        for (int64_t i = 0; i < a.outputs(); ++i) {
          a.picks = a.picks && a.count[i] == 1 && a.weights[i * a.taps] == 1.0f;
          a.identity = a.identity && a.start[i] == i;
        }
        a.identity = a.identity && a.picks;
        return a;
      }));
  m.def("resize",
        [](const Floats& x, const ResizeAxis& vertical, const ResizeAxis& horizontal, bool columns_first) {
          const int64_t n = x.shape(0), c = x.shape(3);
          auto y = new_array({n, vertical.outputs(), horizontal.outputs(), c});
          const float* xd = x.data();
          float* yd = y.mutable_data();
          without_gil([&] { resize(n, c, vertical, horizontal, columns_first, xd, yd); });
          return y;
        });
}

}  // namespace cnnfast::bindings
