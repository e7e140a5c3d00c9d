#include "cpu/pointwise.h"

#include "bindings/array.h"

namespace cnnfast::bindings {

void bind_pointwise(py::module_& m) {
  py::class_<Broadcast>(m, "Broadcast").def(py::init<std::vector<int64_t>, std::vector<int64_t>>());

  m.def("activate", [](const Floats& x, int kind, float slope) {
    auto y = new_array(std::vector<py::ssize_t>(x.shape(), x.shape() + x.ndim()));
    const float* xd = x.data();
    float* yd = y.mutable_data();
    const int64_t n = x.size();
    without_gil([&] { activate(kind, slope, xd, yd, n); });
    return y;
  });
  const auto define = [&m](const char* name, Binary op) {
    m.def(name, [op](const Broadcast& s, const Floats& a, const Floats& b, int activation, float slope) {
      auto y = new_array(std::vector<py::ssize_t>(s.out.begin(), s.out.end()));
      const float *ad = a.data(), *bd = b.data();
      float* yd = y.mutable_data();
      without_gil([&] { binary(op, s, ad, bd, activation, slope, yd); });
      return y;
    });
  };
  define("add", Binary::kAdd);
  define("mul", Binary::kMul);
}

}  // namespace cnnfast::bindings
