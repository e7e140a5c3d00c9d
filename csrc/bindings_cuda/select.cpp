#include "cuda/select.h"

#include <pybind11/stl.h>

#include "bindings_cuda/buffer.h"

namespace cnnfast::cuda::bindings {
void bind_select(py::module_& m) {
  m.def("compare", [](int type, int op, const Shape& out_shape, const Shape& a_shape, const Shape& b_shape,
                      const Buffer& a, const Buffer& b, const Buffer& y) {
    const auto t = static_cast<DType>(type);
    expect_bytes(a, product(a_shape), t, "compare");
    expect_bytes(b, product(b_shape), t, "compare");
    expect_bytes(y, product(out_shape), DType::kBool, "compare");
    compare(t, static_cast<Comparison>(op), out_shape, a_shape, b_shape, in(a), in(b), out<uint8_t>(y),
            stream());
  });
  m.def("where",
        [](int type, const Shape& out_shape, const Shape& condition_shape, const Shape& a_shape,
           const Shape& b_shape, const Buffer& condition, const Buffer& a, const Buffer& b, const Buffer& y) {
          const auto t = static_cast<DType>(type);
          expect_bytes(condition, product(condition_shape), DType::kBool, "where");
          expect_bytes(a, product(a_shape), t, "where");
          expect_bytes(b, product(b_shape), t, "where");
          expect_bytes(y, product(out_shape), t, "where");
          where(t, out_shape, condition_shape, a_shape, b_shape, in<uint8_t>(condition), in(a), in(b), out(y),
                stream());
        });
  m.def("logical_not", [](const Buffer& x, const Buffer& y, int64_t count) {
    expect_bytes(x, count, DType::kBool, "logical_not");
    expect_bytes(y, count, DType::kBool, "logical_not");
    logical_not(in<uint8_t>(x), out<uint8_t>(y), count, stream());
  });
  m.def("convert", [](int from, const Buffer& x, int to, const Buffer& y, int64_t count) {
    const auto f = static_cast<DType>(from), t = static_cast<DType>(to);
    expect_bytes(x, count, f, "convert");
    expect_bytes(y, count, t, "convert");
    convert(f, in(x), t, out(y), count, stream());
  });
}

}  // namespace cnnfast::cuda::bindings
