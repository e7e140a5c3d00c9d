#include "cpu/resample.h"

#include <algorithm>

#include "bindings/array.h"
#include "cpu/copy.h"

namespace cnnfast::bindings {
namespace {

// Plain arrays, one after the other along an axis, as an array of this shape.
Floats join(PyObject* const* arrays, size_t count, const py::ssize_t* shape, size_t rank, size_t axis) {
  int64_t rows = 1, inner = 1;
  for (size_t i = 0; i < axis; ++i) rows *= shape[i];
  for (size_t i = axis + 1; i < rank; ++i) inner *= shape[i];
  std::vector<ConcatPart> parts;
  std::vector<Floats> held;  // another thread may change the list
  parts.reserve(count), held.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    held.push_back(py::reinterpret_borrow<Floats>(arrays[i]));
    parts.push_back({held[i].data(), held[i].shape()[axis] * inner});
  }
  auto y = new_array(shape, rank);
  float* yd = y.mutable_data();
  without_gil_if_long(y.size(), [&] { concat(parts, rows, yd); });
  return y;
}

// From one element to the next along each axis of a dense array.
std::vector<int64_t> dense_steps(const std::vector<int64_t>& sizes) {
  std::vector<int64_t> steps(sizes.size(), 1);
  for (size_t i = sizes.size(); i-- > 1;) steps[i - 1] = steps[i] * sizes[i];
  return steps;
}

}  // namespace

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
  m.def("pad2d_grad", [](const Floats& g, const std::vector<int64_t>& x, int64_t top, int64_t bottom,
                         int64_t left, int64_t right, int mode) {
    const Pad2dSpec s{x.at(0), x.at(1), x.at(2), x.at(3), top, bottom, left, right, mode, 0};
    if (g.size() != s.n * (top + s.h + bottom) * (left + s.w + right) * s.c)
      throw std::invalid_argument("pad2d_grad: g has not the shape of the padded pictures");
    auto dx = new_array({s.n, s.h, s.w, s.c});
    const float* gd = g.data();
    float* to = dx.mutable_data();
    without_gil([&] { pad2d_grad(s, gd, to); });
    return dx;
  });
  m.def("concat", [](const py::list& arrays, const std::vector<py::ssize_t>& shape, size_t axis) {
    for (py::handle item : arrays)
      if (!is_plain(item.ptr())) throw py::type_error("concat: expected plain float32 arrays");
    return join(PySequence_Fast_ITEMS(arrays.ptr()), arrays.size(), shape.data(), shape.size(), axis);
  });
  // For a list or tuple of plain arrays whose shapes fit, which need no checks; None for all others.
  m.def("concat_plain", [](py::handle arrays, py::handle axis) -> py::object {
    constexpr size_t kMost = 8;
    if (!(PyList_CheckExact(arrays.ptr()) || PyTuple_CheckExact(arrays.ptr())) ||
        !PyLong_CheckExact(axis.ptr()))
      return py::none();
    PyObject* const* items = PySequence_Fast_ITEMS(arrays.ptr());
    const auto count = static_cast<size_t>(PySequence_Fast_GET_SIZE(arrays.ptr()));
    if (count == 0 || !is_plain(items[0])) return py::none();
    const auto first = py::reinterpret_borrow<Floats>(items[0]);
    const auto rank = static_cast<size_t>(first.ndim());
    int overflow = 0;
    const long asked = PyLong_AsLongAndOverflow(axis.ptr(), &overflow);
    const long end = static_cast<long>(rank);
    if (overflow || rank > kMost || asked < -end || asked >= end || first.size() == 0) return py::none();
    const auto along = static_cast<size_t>(asked < 0 ? asked + end : asked);
    py::ssize_t shape[kMost];
    std::copy_n(first.shape(), rank, shape);
    for (size_t i = 1; i < count; ++i) {
      if (!is_plain(items[i])) return py::none();
      const auto array = py::reinterpret_borrow<Floats>(items[i]);
      if (static_cast<size_t>(array.ndim()) != rank) return py::none();
      for (size_t d = 0; d < rank; ++d)
        if (d != along && array.shape()[d] != shape[d]) return py::none();
      shape[along] += array.shape()[along];
    }
    return join(items, count, shape, rank, along);
  });

  using Integers = py::array_t<int64_t, py::array::c_style>;
  // Elements of x from `start` on, `steps` apart along the axes of `sizes`, as an array of a shape.
  m.def("strided_copy", [](const Floats& x, int64_t start, const std::vector<int64_t>& sizes,
                           const std::vector<int64_t>& steps, const std::vector<py::ssize_t>& shape) {
    auto y = new_array(shape);
    const StridedCopy copy(sizes, steps, dense_steps(sizes));
    const float* from = x.data() + start;
    float* to = y.mutable_data();
    without_gil_if_long(y.size(), [&] { copy.run(from, to); });
    return y;
  });
  // The other way round: into zeros of a shape.
  m.def("strided_scatter", [](const Floats& g, int64_t start, const std::vector<int64_t>& sizes,
                              const std::vector<int64_t>& steps, const std::vector<py::ssize_t>& shape) {
    auto dx = new_array(shape);
    const StridedCopy copy(sizes, dense_steps(sizes), steps);
    const float* from = g.data();
    float* to = dx.mutable_data();
    const int64_t count = dx.size();
    without_gil_if_long(count, [&] { scatter(copy, from, count, to, to + start); });
    return dx;
  });
  m.def("gather_grad", [](const Floats& g, const Integers& indices, int64_t outer, int64_t size,
                          int64_t inner, const std::vector<py::ssize_t>& shape) {
    auto dx = new_array(shape);
    if (dx.size() != outer * size * inner || g.size() != outer * indices.size() * inner)
      throw std::invalid_argument("gather_grad: the sizes do not make up x and g");
    const float* gd = g.data();
    const int64_t *of = indices.data(), count = indices.size();
    float* to = dx.mutable_data();
    without_gil([&] { gather_grad(outer, size, inner, count, of, gd, to); });
    return dx;
  });

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
