#include "cuda/resize.h"

#include <pybind11/stl.h>

#include "bindings_cuda/buffer.h"

namespace cnnfast::cuda::bindings {
namespace {

// start, count and weights of every output of an axis, and how many weights each has.
using Table = std::tuple<Buffer, Buffer, Buffer, int>;

ResizeTable table(const Table& t, int64_t out) {
  const auto& [start, count, weights, taps] = t;
  expect_bytes(start, out, DType::kInt32, "resize");
  expect_bytes(count, out, DType::kInt32, "resize");
  expect_bytes(weights, out * taps, DType::kFloat32, "resize");
  return {out, taps, in<int>(start), in<int>(count), in<float>(weights)};
}

}  // namespace

void bind_resize(py::module_& m) {
  m.def("resize", [](int type, int64_t n, int64_t rows, int64_t columns, int64_t channels, int64_t rows_out,
                     int64_t columns_out, const Table& vertical, const Table& horizontal, bool columns_first,
                     const Buffer& x, const Buffer& y) {
    const auto t = static_cast<DType>(type);
    expect_bytes(x, n * rows * columns * channels, t, "resize");
    expect_bytes(y, n * rows_out * columns_out * channels, t, "resize");
    const ResizeTable down = table(vertical, rows_out), along = table(horizontal, columns_out);
    const Buffer between(
        static_cast<size_t>(resize_workspace(n, rows, columns, channels, down, along, columns_first)));
    resize(t, n, rows, columns, channels, down, along, columns_first, in(x), out(y), out<float>(between),
           stream());
  });
}

}  // namespace cnnfast::cuda::bindings
