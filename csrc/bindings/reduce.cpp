#include "cpu/reduce.h"

#include "bindings/array.h"

namespace cnnfast::bindings {
namespace {

py::array_t<float> like(const Floats& x) { return new_array(x.shape(), static_cast<size_t>(x.ndim())); }

}  // namespace

void bind_reduce(py::module_& m) {
  py::class_<ReduceAxes>(m, "ReduceAxes").def(py::init<std::vector<int64_t>, std::vector<int64_t>>());
  m.def("reduce", [](int kind, const ReduceAxes& s, const std::vector<py::ssize_t>& out, const Floats& x) {
    auto y = new_array(out);
    if (y.size() != s.outer * s.inner) throw std::invalid_argument("reduce: not the shape of the result");
    const float* xd = x.data();
    float* yd = y.mutable_data();
    without_gil([&] { reduce(static_cast<Reduce>(kind), s, xd, yd); });
    return y;
  });
  m.def("l2_normalize", [](int64_t outer, int64_t k, int64_t inner, double eps, const Floats& x) {
    if (outer * k * inner != x.size())
      throw std::invalid_argument("l2_normalize: the sizes do not make up x");
    auto y = like(x);
    const float* xd = x.data();
    float* yd = y.mutable_data();
    without_gil([&] { l2_normalize(outer, k, inner, eps, xd, yd); });
    return y;
  });
  m.def("instance_norm", [](const Floats& x, const std::optional<Floats>& scale,
                            const std::optional<Floats>& shift, double eps) {
    auto y = like(x);
    const int64_t n = x.shape(0), c = x.shape(x.ndim() - 1);
    int64_t pixels = 1;
    for (py::ssize_t i = 1; i + 1 < x.ndim(); ++i) pixels *= x.shape(i);
    const float *xd = x.data(), *scale_data = data_or_null(scale), *shift_data = data_or_null(shift);
    float* yd = y.mutable_data();
    without_gil([&] { instance_norm(n, pixels, c, xd, scale_data, shift_data, eps, yd); });
    return y;
  });
}

}  // namespace cnnfast::bindings
