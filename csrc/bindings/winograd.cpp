#include "cpu/winograd.h"

#include "bindings/array.h"
#include "core/threads.h"
#include "kernels/winograd.h"

namespace cnnfast::bindings {

void bind_winograd(py::module_& m) {
  py::class_<PackedWinograd>(m, "PackedWinograd").def_property_readonly("bytes", &PackedWinograd::bytes);
  m.def("winograd_tile", winograd_tile, py::arg("spec"), py::arg("threads"), py::arg("largest"),
        py::arg("once") = false);
  m.def("pack_winograd", [](const Floats& w, int tile) {
    const bool known = tile == 2 || tile == 4 || tile == 6;
    if (!known || w.ndim() != 4 || w.shape(0) != winograd_taps(tile) || w.shape(1) != winograd_taps(tile))
      throw std::invalid_argument("pack_winograd: expected a 3x3 weight for a tile of 4 or 6, 5x5 for 2");
    py::gil_scoped_release release;
    return PackedWinograd(w.data(), w.shape(2), w.shape(3), tile, num_threads());
  });
  m.def("conv2d_winograd",
        [](const Conv2dSpec& s, const Floats& x, const PackedWinograd& w, const std::optional<Floats>& bias,
           const std::optional<Floats>& residual, int activation, float slope) {
          auto y = new_array({s.n, s.p, s.q, s.o});
          const Epilogue epilogue{data_or_null(bias), data_or_null(residual), activation, slope};
          const float* xd = x.data();
          float* yd = y.mutable_data();
          without_gil([&] { conv2d_winograd(s, xd, w, epilogue, yd); });
          return y;
        });
}

}  // namespace cnnfast::bindings
