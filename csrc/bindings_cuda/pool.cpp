#include "cuda/pool.h"

#include <pybind11/stl.h>

#include <limits>

#include "bindings_cuda/buffer.h"

namespace cnnfast::cuda::bindings {
namespace {

// Numbers in the order of PoolSpec.numbers in python/cnnfast/ops/pool.py.
PoolShape make_pool(const std::vector<int64_t>& numbers) {
  if (numbers.size() != 21) throw std::invalid_argument("pool: expected 21 numbers");
  // Places along an axis are counted in 32 bits.
  constexpr int64_t kMost = std::numeric_limits<int>::max() / 2;
  for (size_t i = 1; i < 14; ++i)
    if (numbers[i] > kMost || numbers[i] < -kMost) throw std::invalid_argument("pool: an axis is too long");
  const auto narrow = [&](size_t i) { return static_cast<int>(numbers[i]); };
  PoolShape s{};
  s.n = numbers[0];
  s.h = narrow(1), s.w = narrow(2), s.c = narrow(3);
  s.kernel_h = narrow(4), s.kernel_w = narrow(5);
  s.stride_h = narrow(6), s.stride_w = narrow(7);
  s.dilation_h = narrow(8), s.dilation_w = narrow(9);
  s.top = narrow(10), s.left = narrow(11);
  s.p = narrow(12), s.q = narrow(13);
  s.size_h = numbers[14], s.size_w = numbers[15];
  s.pad_top = numbers[16], s.pad_bottom = numbers[17], s.pad_left = numbers[18], s.pad_right = numbers[19];
  s.include_pad = numbers[20] != 0;
  for (const int64_t reach : {(numbers[12] - 1) * numbers[6] + (numbers[4] - 1) * numbers[8],
                              (numbers[13] - 1) * numbers[7] + (numbers[5] - 1) * numbers[9]})
    if (reach > kMost) throw std::invalid_argument("pool: an axis is too long");
  return s;
}

int64_t inputs(const PoolShape& s) { return s.n * s.h * s.w * s.c; }
int64_t outputs(const PoolShape& s) { return s.n * s.p * s.q * s.c; }

}  // namespace

void bind_pool(py::module_& m) {
  m.def("max_pool2d", [](int type, const std::vector<int64_t>& numbers, const Buffer& x, const Buffer& y,
                         const std::optional<Buffer>& positions) {
    const auto t = static_cast<DType>(type);
    const PoolShape s = make_pool(numbers);
    expect_bytes(x, inputs(s), t, "max_pool2d");
    expect_bytes(y, outputs(s), t, "max_pool2d");
    if (positions) expect_bytes(*positions, outputs(s), DType::kInt64, "max_pool2d");
    max_pool2d(t, s, in(x), out(y), out<int64_t>(positions), stream());
  });
  m.def("avg_pool2d",
        [](int type, const std::vector<int64_t>& numbers, const Buffer& x, const Buffer& y, bool lengths) {
          const auto t = static_cast<DType>(type);
          const PoolShape s = make_pool(numbers);
          expect_bytes(x, inputs(s), t, "avg_pool2d");
          expect_bytes(y, outputs(s), t, "avg_pool2d");
          (lengths ? l2_pool2d : avg_pool2d)(t, s, in(x), out(y), stream());
        });
  m.def("max_pool2d_grad", [](int type, const std::vector<int64_t>& numbers, const Buffer& g, const Buffer& x,
                              const Buffer& dx) {
    const auto t = static_cast<DType>(type);
    const PoolShape s = make_pool(numbers);
    expect_bytes(g, outputs(s), t, "max_pool2d_grad");
    expect_bytes(x, inputs(s), t, "max_pool2d_grad");
    expect_bytes(dx, inputs(s), t, "max_pool2d_grad");
    const Buffer positions(static_cast<size_t>(outputs(s)) * sizeof(int64_t));
    max_pool2d_grad(t, s, in(g), in(x), out(dx), out<int64_t>(positions), stream());
  });
  m.def("avg_pool2d_grad",
        [](int type, const std::vector<int64_t>& numbers, const Buffer& g, const Buffer& dx) {
          const auto t = static_cast<DType>(type);
          const PoolShape s = make_pool(numbers);
          expect_bytes(g, outputs(s), t, "avg_pool2d_grad");
          expect_bytes(dx, inputs(s), t, "avg_pool2d_grad");
          avg_pool2d_grad(t, s, in(g), out(dx), stream());
        });
  m.def("scatter_rows", [](int type, int64_t n, int64_t rows, int64_t channels, const Buffer& g,
                           const Buffer& positions, const Buffer& dx) {
    const auto t = static_cast<DType>(type);
    expect_bytes(g, n * channels, t, "scatter_rows");
    expect_bytes(positions, n * channels, DType::kInt64, "scatter_rows");
    expect_bytes(dx, n * rows * channels, t, "scatter_rows");
    scatter_rows(t, n, rows, channels, in(g), in<int64_t>(positions), out(dx), stream());
  });
}

}  // namespace cnnfast::cuda::bindings
