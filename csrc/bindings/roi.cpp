#include "cpu/roi.h"

#include <array>

#include "bindings/array.h"

namespace cnnfast::bindings {
namespace {

RoiSpec grad_spec_of(const std::array<int64_t, 4>& x, const Floats& boxes, const Floats& g, float scale) {
  if (g.ndim() != 4 || g.shape(0) != boxes.shape(0) || g.shape(3) != x[3])
    throw std::invalid_argument("roi: the gradient fits neither regions nor pictures");
  return {x[1], x[2], x[3], g.shape(0), g.shape(1), g.shape(2), scale};
}

RoiSpec spec_of(const Floats& x, const Floats& boxes, int64_t p, int64_t q, float scale) {
  return {x.shape(1), x.shape(2), x.shape(3), boxes.shape(0), p, q, scale};
}

}  // namespace

void bind_roi(py::module_& m) {
  m.def("roi_pool", [](const Floats& x, const Floats& boxes, int64_t p, int64_t q, float scale) {
    const RoiSpec s = spec_of(x, boxes, p, q, scale);
    auto y = new_array({s.k, p, q, s.c});
    const float *xd = x.data(), *bd = boxes.data();
    float* yd = y.mutable_data();
    without_gil([&] { roi_pool(s, xd, bd, yd); });
    return y;
  });
  m.def("roi_pool_grad", [](const Floats& x, const Floats& boxes, const Floats& g, float scale) {
    const std::array<int64_t, 4> shape{x.shape(0), x.shape(1), x.shape(2), x.shape(3)};
    const RoiSpec s = grad_spec_of(shape, boxes, g, scale);
    auto dx = new_array({shape[0], shape[1], shape[2], shape[3]});
    const float *xd = x.data(), *bd = boxes.data(), *gd = g.data();
    float* to = dx.mutable_data();
    without_gil([&] { roi_pool_grad(s, shape[0], xd, bd, gd, to); });
    return dx;
  });
  m.def("roi_align_grad", [](const std::array<int64_t, 4>& shape, const Floats& boxes, const Floats& g,
                             float scale, int64_t samples, bool aligned) {
    const RoiSpec s = grad_spec_of(shape, boxes, g, scale);
    auto dx = new_array({shape[0], shape[1], shape[2], shape[3]});
    const float *bd = boxes.data(), *gd = g.data();
    float* to = dx.mutable_data();
    without_gil([&] { roi_align_grad(s, shape[0], bd, gd, samples, aligned, to); });
    return dx;
  });
  m.def("roi_align", [](const Floats& x, const Floats& boxes, int64_t p, int64_t q, float scale,
                        int64_t samples, bool aligned) {
    const RoiSpec s = spec_of(x, boxes, p, q, scale);
    auto y = new_array({s.k, p, q, s.c});
    const float *xd = x.data(), *bd = boxes.data();
    float* yd = y.mutable_data();
    without_gil([&] { roi_align(s, xd, bd, samples, aligned, yd); });
    return y;
  });
}

}  // namespace cnnfast::bindings
