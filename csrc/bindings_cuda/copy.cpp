#include "cuda/copy.h"

#include <pybind11/stl.h>

#include <limits>

#include "bindings_cuda/buffer.h"

namespace cnnfast::cuda::bindings {
namespace {

// Raises ValueError where a walk from `start` leaves the buffer.
void expect_steps(const Buffer& buffer, int64_t element, int64_t start, const std::vector<int64_t>& sizes,
                  const std::vector<int64_t>& steps) {
  int64_t low = start, high = start;
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] == 0) return;
    (steps[i] < 0 ? low : high) += (sizes[i] - 1) * steps[i];
  }
  if (low < 0 || (high + 1) * element > static_cast<int64_t>(buffer.bytes()))
    throw std::invalid_argument("copy: a step leaves the buffer");
}

PadShape make_pad(const std::vector<int64_t>& numbers, int mode) {
  if (numbers.size() != 8) throw std::invalid_argument("pad2d: expected 8 numbers");
  for (size_t i = 1; i < 8; ++i)
    if (numbers[i] > std::numeric_limits<int>::max() / 4)
      throw std::invalid_argument("pad2d: an axis is too long");
  const auto narrow = [&](size_t i) { return static_cast<int>(numbers[i]); };
  return {numbers[0], narrow(1), narrow(2),
          narrow(3),  narrow(4), narrow(5),
          narrow(6),  narrow(7), static_cast<Padding>(mode)};
}

int64_t inner(const PadShape& s) { return s.n * s.h * s.w * s.c; }
int64_t padded(const PadShape& s) { return s.n * (s.top + s.h + s.bottom) * (s.left + s.w + s.right) * s.c; }

}  // namespace

void bind_copy(py::module_& m) {
  m.def("copy", [](int type, const std::vector<int64_t>& sizes, const std::vector<int64_t>& from,
                   const std::vector<int64_t>& to, const Buffer& x, int64_t x_start, const Buffer& y,
                   int64_t y_start) {
    if (from.size() != sizes.size() || to.size() != sizes.size())
      throw std::invalid_argument("copy: expected a step for every size");
    const int64_t element = size_of(static_cast<DType>(type));
    expect_steps(x, element, x_start, sizes, from);
    expect_steps(y, element, y_start, sizes, to);
    copy(element, sizes, from, to, in<char>(x) + x_start * element, out<char>(y) + y_start * element,
         stream());
  });
  m.def("gather", [](int type, int64_t outer, int64_t size, int64_t count, int64_t inner, const Buffer& x,
                     const Buffer& indices, const Buffer& y) {
    const auto t = static_cast<DType>(type);
    expect_bytes(x, outer * size * inner, t, "gather");
    expect_bytes(indices, count, DType::kInt64, "gather");
    expect_bytes(y, outer * count * inner, t, "gather");
    gather(size_of(t), outer, size, count, inner, in(x), in<int64_t>(indices), out(y), stream());
  });
  m.def("gather_grad", [](int type, int64_t outer, int64_t size, int64_t count, int64_t inner,
                          const Buffer& g, const Buffer& indices, const Buffer& dx) {
    const auto t = static_cast<DType>(type);
    expect_bytes(g, outer * count * inner, t, "gather_grad");
    expect_bytes(indices, count, DType::kInt64, "gather_grad");
    expect_bytes(dx, outer * size * inner, t, "gather_grad");
    gather_grad(t, outer, size, count, inner, in(g), in<int64_t>(indices), out(dx), stream());
  });
  m.def("pad2d", [](int type, const std::vector<int64_t>& numbers, int mode, float value, const Buffer& x,
                    const Buffer& y) {
    const auto t = static_cast<DType>(type);
    const PadShape s = make_pad(numbers, mode);
    expect_bytes(x, inner(s), t, "pad2d");
    expect_bytes(y, padded(s), t, "pad2d");
    pad2d(t, s, value, in(x), out(y), stream());
  });
  m.def("pad2d_grad",
        [](int type, const std::vector<int64_t>& numbers, int mode, const Buffer& g, const Buffer& dx) {
          const auto t = static_cast<DType>(type);
          const PadShape s = make_pad(numbers, mode);
          expect_bytes(g, padded(s), t, "pad2d_grad");
          expect_bytes(dx, inner(s), t, "pad2d_grad");
          pad2d_grad(t, s, in(g), out(dx), stream());
        });
}

}  // namespace cnnfast::cuda::bindings
