#include "cuda/elementwise.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <array>

#include "bindings_cuda/buffer.h"

namespace cnnfast::cuda::bindings {
namespace {

// Axes of (size, step of a, step of b); neighbours that are walked through as one are merged.
Broadcast make_broadcast(const std::vector<int64_t>& a, const std::vector<int64_t>& b) {
  const size_t rank = std::max(a.size(), b.size());
  Broadcast s;
  std::vector<std::array<int64_t, 3>> axes;  // innermost first
  int64_t step_a = 1, step_b = 1;
  for (size_t i = 0; i < rank; ++i) {
    const int64_t m = i < a.size() ? a[a.size() - 1 - i] : 1, n = i < b.size() ? b[b.size() - 1 - i] : 1;
    const int64_t size = m == 1 ? n : m;
    const int64_t by_a = m == 1 ? 0 : step_a, by_b = n == 1 ? 0 : step_b;
    s.count *= size;
    step_a *= m;
    step_b *= n;
    if (size == 1) continue;
    if (!axes.empty()) {
      auto& inner = axes.back();
      if (by_a == inner[1] * inner[0] && by_b == inner[2] * inner[0]) {
        inner[0] *= size;
        continue;
      }
    }
    axes.push_back({size, by_a, by_b});
  }
  if (axes.size() > kMostAxes)
    throw std::invalid_argument("broadcast: more axes than six differ in how they repeat");
  s.rank = static_cast<int>(axes.size());
  for (int i = 0; i < s.rank; ++i) {
    const auto& axis = axes[axes.size() - 1 - static_cast<size_t>(i)];
    s.size[i] = axis[0];
    s.a[i] = axis[1];
    s.b[i] = axis[2];
  }
  return s;
}

}  // namespace

void bind_elementwise(py::module_& m) {
  m.def("activate", [](int type, int kind, float slope, const Buffer& x, const Buffer& y, int64_t count) {
    const auto t = static_cast<DType>(type);
    expect_bytes(x, count, t, "activate");
    expect_bytes(y, count, t, "activate");
    activate(t, kind, slope, in(x), out(y), count, stream());
  });
  m.def("activation_grad", [](int type, int kind, float slope, const Buffer& g, const Buffer& v,
                              const Buffer& dx, int64_t count) {
    const auto t = static_cast<DType>(type);
    for (const Buffer* b : {&g, &v, &dx}) expect_bytes(*b, count, t, "activation_grad");
    activation_grad(t, kind, slope, in(g), in(v), out(dx), count, stream());
  });
  m.def("unary",
        [](int type, int function, float p, float q, const Buffer& x, const Buffer& y, int64_t count) {
          const auto t = static_cast<DType>(type);
          expect_bytes(x, count, t, "unary");
          expect_bytes(y, count, t, "unary");
          unary(t, static_cast<Unary>(function), p, q, in(x), out(y), count, stream());
        });
  m.def("unary_grad", [](int type, int function, float p, float q, const Buffer& g, const Buffer& v,
                         const Buffer& dx, int64_t count) {
    const auto t = static_cast<DType>(type);
    for (const Buffer* b : {&g, &v, &dx}) expect_bytes(*b, count, t, "unary_grad");
    unary_grad(t, static_cast<Unary>(function), p, q, in(g), in(v), out(dx), count, stream());
  });
  m.def("binary",
        [](int type, int op, const std::vector<int64_t>& a_shape, const std::vector<int64_t>& b_shape,
           const Buffer& a, const Buffer& b, int activation, float slope, const Buffer& y) {
          const auto t = static_cast<DType>(type);
          const Broadcast s = make_broadcast(a_shape, b_shape);
          expect_bytes(a, product(a_shape), t, "binary");
          expect_bytes(b, product(b_shape), t, "binary");
          expect_bytes(y, s.count, t, "binary");
          binary(t, static_cast<Binary>(op), s, in(a), in(b), activation, slope, out(y), stream());
        });
  m.def("binary_grad",
        [](int type, int op, const std::vector<int64_t>& a_shape, const std::vector<int64_t>& b_shape,
           const Buffer& g, const Buffer& a, const Buffer& b, const Buffer& dx) {
          const auto t = static_cast<DType>(type);
          const Broadcast s = make_broadcast(a_shape, b_shape);
          expect_bytes(a, product(a_shape), t, "binary_grad");
          expect_bytes(b, product(b_shape), t, "binary_grad");
          for (const Buffer* buffer : {&g, &dx}) expect_bytes(*buffer, s.count, t, "binary_grad");
          binary_grad(t, static_cast<BinaryGrad>(op), s, in(g), in(a), in(b), out(dx), stream());
        });
  m.def("fill", [](int type, float value, const Buffer& y, int64_t count) {
    const auto t = static_cast<DType>(type);
    expect_bytes(y, count, t, "fill");
    fill(t, value, out(y), count, stream());
  });
  m.def("cast", [](int from, const Buffer& x, int to, const Buffer& y, int64_t count) {
    const auto f = static_cast<DType>(from), t = static_cast<DType>(to);
    expect_bytes(x, count, f, "cast");
    expect_bytes(y, count, t, "cast");
    cast(f, in(x), t, out(y), count, stream());
  });
}

}  // namespace cnnfast::cuda::bindings
