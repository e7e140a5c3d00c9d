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
}

}  // namespace cnnfast::bindings
