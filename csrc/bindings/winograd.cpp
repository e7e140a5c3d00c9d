#include "cpu/winograd.h"

#include "bindings/array.h"
#include "core/threads.h"
#include "cpu/strassen.h"

namespace cnnfast::bindings {

void bind_winograd(py::module_& m) {
  py::class_<PackedWinograd>(m, "PackedWinograd").def_property_readonly("bytes", &PackedWinograd::bytes);
  m.def("winograd_tile", winograd_tile, py::arg("spec"), py::arg("threads"), py::arg("largest"),
        py::arg("once") = false);
  m.def(
      "pack_winograd",
      [](const Floats& w, int tile, int stride, bool plain) {
        const bool square = w.ndim() == 4 && w.shape(0) == w.shape(1) && w.shape(0) <= 5;
        const WinogradForm form{tile, square ? static_cast<int>(w.shape(0)) : 0, stride};
        if (!is_known(form))
          throw std::invalid_argument(
              "pack_winograd: expected a 3x3 weight for a tile of 2, 4, 5 or 6, or 5x5 for 2 or 3");
        py::gil_scoped_release release;
        return PackedWinograd(w.data(), w.shape(2), w.shape(3), form, plain, num_threads());
      },
      py::arg("w"), py::arg("tile"), py::arg("stride") = 1, py::arg("plain") = false);
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
  m.def("conv2d_strassen", [](const Conv2dSpec& s, const Floats& x, const Floats& w, int levels,
                              const std::optional<Floats>& bias, const std::optional<Floats>& residual,
                              int activation, float slope) {
    const bool known = levels >= 1 && levels <= kMostStrassenLevels;
    if (!known || w.ndim() != 2 || w.shape(0) != s.c || w.shape(1) != s.o || s.c % strassen_unit(levels) ||
        s.o % strassen_unit(levels))
      throw std::invalid_argument(
          "conv2d_strassen: expected channels in and out in multiples of 32 for one level, 64 for two");
    auto y = new_array({s.n, s.p, s.q, s.o});
    const Epilogue epilogue{data_or_null(bias), data_or_null(residual), activation, slope};
    const float *xd = x.data(), *wd = w.data();
    float* yd = y.mutable_data();
    without_gil([&] {
      const Buffer packed(static_cast<size_t>(strassen_floats(s.c, s.o, levels)) * sizeof(float));
      pack_strassen(wd, s.c, s.o, levels, packed.floats(), num_threads());
      conv2d_strassen(s, xd, packed.floats(), levels, epilogue, yd);
    });
    return y;
  });
}

}  // namespace cnnfast::bindings
