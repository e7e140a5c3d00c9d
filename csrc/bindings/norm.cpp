#include "cpu/norm.h"

#include "bindings/array.h"

namespace cnnfast::bindings {
namespace {

py::array_t<float> like(const Floats& x) {
  return new_array(std::vector<py::ssize_t>(x.shape(), x.shape() + x.ndim()));
}

}  // namespace

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
