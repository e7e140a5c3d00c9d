#include "cpu/roi.h"

#include "bindings/array.h"

namespace cnnfast::bindings {
namespace {

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
