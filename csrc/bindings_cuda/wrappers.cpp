// For tests alone.
#include "cuda/wrappers.h"

#include <pybind11/stl.h>

#include <array>

#include "bindings_cuda/buffer.h"

namespace cnnfast::cuda::bindings {

void bind_wrappers([[maybe_unused]] py::module_& m) {
#if CNNFAST_HAVE_MMA
  m.def("try_wrapper", [](int wrapper, const Buffer& in_, const Buffer& out_) {
    run_wrapper(static_cast<Wrapper>(wrapper), in(in_), in_.bytes(), out(out_), stream());
  });
#endif
#if CNNFAST_HAVE_SM90
  m.def("try_copy_tile", [](const Buffer& x, int64_t c, int64_t taps, int64_t rows,
                            const std::array<int, 3>& at, const Buffer& tile) {
    run_copy_tile(in(x), c, taps, rows, at[0], at[1], at[2], out(tile), stream());
  });
  m.def("try_copy_windows",
        [](const Buffer& x, const std::array<int64_t, 4>& shape, const std::array<int, 2>& lower,
           const std::array<int, 2>& upper, const std::array<int, 2>& step, const std::array<int, 4>& at,
           const std::array<int, 2>& tap, const Buffer& tile) {
          WindowsAt s{shape[0], shape[1], shape[2], shape[3], {}, {}, {}, {}, {}};
          std::copy_n(lower.data(), 2, s.lower);
          std::copy_n(upper.data(), 2, s.upper);
          std::copy_n(step.data(), 2, s.step);
          std::copy_n(at.data(), 4, s.at);
          std::copy_n(tap.data(), 2, s.tap);
          run_copy_windows(in(x), s, out(tile), stream());
        });
  m.def("try_wgmma",
        [](bool half, const Buffer& x, const Buffer& w, int first, const Buffer& d, const Buffer& y) {
          run_wgmma(half, in(x), in(w), first, in<float>(d), out<float>(y), stream());
        });
#endif
}

}  // namespace cnnfast::cuda::bindings
