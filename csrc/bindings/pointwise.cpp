#include "cpu/pointwise.h"

#include <algorithm>
#include <string>

#include "bindings/array.h"

namespace cnnfast::bindings {

void bind_pointwise(py::module_& m) {
  py::class_<Broadcast>(m, "Broadcast").def(py::init<std::vector<int64_t>, std::vector<int64_t>>());

  m.def("activate", [](const Floats& x, int kind, float slope) {
    auto y = like(x);
    const float* xd = x.data();
    float* yd = y.mutable_data();
    const int64_t n = x.size();
    without_gil([&] { activate(kind, slope, xd, yd, n); });
    return y;
  });
  m.def("unary", [](const Floats& x, int function, float p, float q) {
    auto y = like(x);
    const float* xd = x.data();
    float* yd = y.mutable_data();
    const int64_t n = x.size();
    without_gil_if_long(n, [&] { unary(static_cast<Unary>(function), p, q, xd, yd, n); });
    return y;
  });
  m.def("unary_grad", [](const Floats& g, const Floats& v, int function, float p, float q) {
    if (g.size() != v.size()) throw std::invalid_argument("unary_grad: g and v differ");
    auto y = like(g);
    const float *gd = g.data(), *vd = v.data();
    float* yd = y.mutable_data();
    const int64_t n = g.size();
    without_gil_if_long(n, [&] { unary_grad(static_cast<Unary>(function), p, q, gd, vd, yd, n); });
    return y;
  });
  m.def("binary_grad", [](int op, const Broadcast& s, const Floats& g, const Floats& a, const Floats& b) {
    if (g.size() != s.count) throw std::invalid_argument("binary_grad: g has not the shape of the result");
    auto y = new_array(s.out.data(), s.out.size());
    const float *gd = g.data(), *ad = a.data(), *bd = b.data();
    float* yd = y.mutable_data();
    without_gil([&] { binary_grad(static_cast<BinaryGrad>(op), s, gd, ad, bd, yd); });
    return y;
  });
  m.def("binary",
        [](int op, const Broadcast& s, const Floats& a, const Floats& b, int activation, float slope) {
          auto y = new_array(s.out.data(), s.out.size());
          const float *ad = a.data(), *bd = b.data();
          float* yd = y.mutable_data();
          without_gil([&] { binary(static_cast<Binary>(op), s, ad, bd, activation, slope, yd); });
          return y;
        });
  const auto define = [&m](const std::string& name, Binary op) {
    // For plain arrays of one shape, which need no checks; None for all others.
    m.def((name + "_alike").c_str(), [op](py::handle a, py::handle b, int activation) -> py::object {
      if (!is_plain(a.ptr()) || !is_plain(b.ptr())) return py::none();
      const auto x = py::reinterpret_borrow<Floats>(a), w = py::reinterpret_borrow<Floats>(b);
      const auto rank = static_cast<size_t>(x.ndim());
      if (w.ndim() != x.ndim() || !std::equal(x.shape(), x.shape() + rank, w.shape())) return py::none();
      auto y = new_array(x.shape(), rank);
      const float *xd = x.data(), *wd = w.data();
      float* yd = y.mutable_data();
      const int64_t n = x.size();
      without_gil_if_long(n, [&] { binary_alike(op, n, xd, wd, activation, 0.01f, yd); });
      return y;
    });
  };
  define("add", Binary::kAdd);
  define("mul", Binary::kMul);
}

}  // namespace cnnfast::bindings
