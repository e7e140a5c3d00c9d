#include "cpu/reduce.h"

#include "bindings/array.h"

namespace cnnfast::bindings {
namespace {

// Of one picture.
int64_t pixels_of(const Floats& x) {
  int64_t pixels = 1;
  for (py::ssize_t i = 1; i + 1 < x.ndim(); ++i) pixels *= x.shape(i);
  return pixels;
}

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
  m.def("reduce_grad", [](int kind, const ReduceAxes& s, const std::vector<py::ssize_t>& shape,
                          const Floats& g, const std::optional<Floats>& x, const std::optional<Floats>& y) {
    auto dx = new_array(shape);
    if (dx.size() != s.outer * s.k * s.inner || g.size() != s.outer * s.inner)
      throw std::invalid_argument("reduce_grad: not the shapes of the reduction");
    const float *gd = g.data(), *xd = data_or_null(x), *yd = data_or_null(y);
    float* to = dx.mutable_data();
    without_gil([&] { reduce_grad(static_cast<Reduce>(kind), s, gd, xd, yd, to); });
    return dx;
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
    const int64_t n = x.shape(0), c = x.shape(x.ndim() - 1), pixels = pixels_of(x);
    const float *xd = x.data(), *scale_data = data_or_null(scale), *shift_data = data_or_null(shift);
    float* yd = y.mutable_data();
    without_gil([&] { instance_norm(n, pixels, c, xd, scale_data, shift_data, eps, yd); });
    return y;
  });
  m.def("instance_norm_grad",
        [](const Floats& g, const Floats& x, const std::optional<Floats>& scale, double eps) {
          if (g.size() != x.size()) throw std::invalid_argument("instance_norm_grad: g and x differ");
          const int64_t n = x.shape(0), c = x.shape(x.ndim() - 1), pixels = pixels_of(x);
          auto dx = like(x), dscale = new_array({c}), dshift = new_array({c});
          const float *gd = g.data(), *xd = x.data(), *scales = data_or_null(scale);
          float *to = dx.mutable_data(), *sd = dscale.mutable_data(), *hd = dshift.mutable_data();
          without_gil([&] { instance_norm_grad(n, pixels, c, gd, xd, scales, eps, to, sd, hd); });
          return py::make_tuple(dx, dscale, dshift);
        });
}

}  // namespace cnnfast::bindings
