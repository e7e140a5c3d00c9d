#include "cpu/resample.h"

#include "bindings/array.h"

namespace cnnfast::bindings {

void bind_resample(py::module_& m) {
  m.def("pad2d", [](const Floats& x, int64_t top, int64_t bottom, int64_t left, int64_t right, int mode,
                    float value) {
    const Pad2dSpec s{x.shape(0), x.shape(1), x.shape(2), x.shape(3), top, bottom, left, right, mode, value};
    auto y = new_array({s.n, top + s.h + bottom, left + s.w + right, s.c});
    const float* xd = x.data();
    float* yd = y.mutable_data();
    without_gil([&] { pad2d(s, xd, yd); });
    return y;
  });
}

}  // namespace cnnfast::bindings
