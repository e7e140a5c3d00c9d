#include "bindings/array.h"
#include "cpu/conv_grad.h"

namespace cnnfast::bindings {

void bind_grad(py::module_& m) {
  m.def("conv2d_grad_input", [](const Conv2dSpec& s, const Floats& g, const Floats& w) {
    auto dx = new_array({s.n, s.h, s.w, s.c});
    const float *gd = g.data(), *wd = w.data();
    float* to = dx.mutable_data();
    without_gil([&] { conv2d_grad_input(s, gd, wd, to); });
    return dx;
  });
  m.def("conv2d_grad_weight", [](const Conv2dSpec& s, const Floats& x, const Floats& g) {
    auto dw = new_array({s.kh, s.kw, s.c / s.groups, s.o});
    const float *xd = x.data(), *gd = g.data();
    float* to = dw.mutable_data();
    without_gil([&] { conv2d_grad_weight(s, xd, gd, to); });
    return dw;
  });
  m.def("linear_grad_input", [](const Floats& g, const Floats& w) {
    std::vector<py::ssize_t> shape(g.shape(), g.shape() + g.ndim());
    shape.back() = w.shape(0);
    auto dx = new_array(shape);
    const int64_t in = w.shape(0), out = w.shape(1);
    const float *gd = g.data(), *wd = w.data();
    float* to = dx.mutable_data();
    without_gil([&] { linear_grad_input(g.size() / out, in, out, gd, wd, to); });
    return dx;
  });
  m.def("linear_grad_weight", [](const Floats& x, const Floats& g) {
    const int64_t in = x.shape(x.ndim() - 1), out = g.shape(g.ndim() - 1);
    auto dw = new_array({in, out});
    const float *xd = x.data(), *gd = g.data();
    float* to = dw.mutable_data();
    without_gil([&] { linear_grad_weight(x.size() / in, in, out, xd, gd, to); });
    return dw;
  });
  m.def("channel_sums", [](const Floats& x) {
    const int64_t c = x.shape(x.ndim() - 1);
    auto y = new_array({c});
    const float* xd = x.data();
    float* to = y.mutable_data();
    without_gil([&] { channel_sums(c ? x.size() / c : 0, c, xd, to); });
    return y;
  });
}

}  // namespace cnnfast::bindings
