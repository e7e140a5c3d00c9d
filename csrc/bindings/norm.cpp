#include "cpu/norm.h"

#include <array>

#include "bindings/array.h"

namespace cnnfast::bindings {

void bind_norm(py::module_& m) {
  m.def("batch_norm", [](const Floats& x, const Floats& mean, const Floats& var,
                         const std::optional<Floats>& scale, const std::optional<Floats>& shift, double eps) {
    auto y = like(x);
    const int64_t c = mean.size(), rows = c ? x.size() / c : 0;
    const float *xd = x.data(), *md = mean.data(), *vd = var.data();
    const float *scale_data = data_or_null(scale), *shift_data = data_or_null(shift);
    float* yd = y.mutable_data();
    without_gil([&] { batch_norm(rows, c, xd, md, vd, scale_data, shift_data, eps, yd); });
    return y;
  });
  // For plain arrays whose shapes fit, which need no checks; None for all others.
  m.def("batch_norm_plain",
        [](py::handle x, const std::array<py::handle, 4>& vectors, py::handle eps) -> py::object {
          if (!is_plain(x.ptr()) || !PyFloat_CheckExact(eps.ptr())) return py::none();
          const auto from = py::reinterpret_borrow<Floats>(x);
          const double least = PyFloat_AS_DOUBLE(eps.ptr());
          if (from.ndim() == 0 || from.size() == 0 || !(least >= 0 && least < 1)) return py::none();
          const int64_t c = from.shape(from.ndim() - 1);
          const float* data[4] = {};
          for (size_t i = 0; i < 4; ++i) {
            if (i > 1 && vectors[i].is_none()) continue;
            if (!is_plain(vectors[i].ptr())) return py::none();
            const auto vector = py::reinterpret_borrow<Floats>(vectors[i]);
            if (vector.ndim() != 1 || vector.size() != c) return py::none();
            data[i] = vector.data();
          }
          auto y = like(from);
          const float* xd = from.data();
          float* yd = y.mutable_data();
          const int64_t n = from.size();
          without_gil_if_long(
              n, [&] { batch_norm(n / c, c, xd, data[0], data[1], data[2], data[3], least, yd); });
          return y;
        });
  m.def("local_response_norm",
        [](const Floats& x, int64_t before, int64_t after, double k, double alpha, double beta) {
          auto y = like(x);
          const int64_t c = x.shape(x.ndim() - 1);
          const LocalResponse s{c ? x.size() / c : 0, c, before, after, k, alpha, beta};
          const float* xd = x.data();
          float* yd = y.mutable_data();
          without_gil([&] { local_response_norm(s, xd, yd); });
          return y;
        });
  m.def("local_response_norm_grad", [](const Floats& x, const Floats& g, int64_t before, int64_t after,
                                       double k, double alpha, double beta) {
    if (g.size() != x.size()) throw std::invalid_argument("local_response_norm_grad: x and g differ");
    auto dx = like(x);
    const int64_t c = x.shape(x.ndim() - 1);
    const LocalResponse s{c ? x.size() / c : 0, c, before, after, k, alpha, beta};
    const float *xd = x.data(), *gd = g.data();
    float* to = dx.mutable_data();
    without_gil([&] { local_response_norm_grad(s, xd, gd, to); });
    return dx;
  });
  m.def("softmax_grad",
        [](const Floats& g, const Floats& y, int64_t outer, int64_t k, int64_t inner, bool log) {
          if (outer * k * inner != y.size() || g.size() != y.size())
            throw std::invalid_argument("softmax_grad: the sizes do not make up y and g");
          auto dx = like(y);
          const float *gd = g.data(), *yd = y.data();
          float* to = dx.mutable_data();
          without_gil([&] { softmax_grad(outer, k, inner, log, gd, yd, to); });
          return dx;
        });
  m.def("softmax_plain", [](py::handle x, py::handle axis, bool log) -> py::object {
    if (!is_plain(x.ptr()) || !PyLong_CheckExact(axis.ptr())) return py::none();
    const auto from = py::reinterpret_borrow<Floats>(x);
    int overflow = 0;
    const long asked = PyLong_AsLongAndOverflow(axis.ptr(), &overflow), rank = static_cast<long>(from.ndim());
    if (overflow || asked < -rank || asked >= rank || from.size() == 0) return py::none();
    const long along = asked < 0 ? asked + rank : asked;
    int64_t outer = 1, inner = 1;
    for (long i = 0; i < along; ++i) outer *= from.shape(i);
    for (long i = along + 1; i < rank; ++i) inner *= from.shape(i);
    auto y = like(from);
    const float* xd = from.data();
    float* yd = y.mutable_data();
    const int64_t k = from.shape(along);
    without_gil_if_long(from.size(), [&] { softmax(outer, k, inner, log, xd, yd); });
    return y;
  });
  m.def("softmax", [](const Floats& x, int64_t outer, int64_t k, int64_t inner, bool log) {
    if (outer * k * inner != x.size()) throw std::invalid_argument("softmax: the sizes do not make up x");
    auto y = like(x);
    const float* xd = x.data();
    float* yd = y.mutable_data();
    without_gil([&] { softmax(outer, k, inner, log, xd, yd); });
    return y;
  });
}

}  // namespace cnnfast::bindings
