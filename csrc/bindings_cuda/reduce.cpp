#include "cuda/reduce.h"

#include "bindings_cuda/buffer.h"

namespace cnnfast::cuda::bindings {

void bind_reduce(py::module_& m) {
  m.def("reduce", [](int type, int reduction, int64_t outer, int64_t k, int64_t inner, const Buffer& x,
                     const Buffer& y) {
    const auto t = static_cast<DType>(type);
    expect_bytes(x, outer * k * inner, t, "reduce");
    expect_bytes(y, outer * inner, t, "reduce");
    const Buffer workspace(static_cast<size_t>(reduce_workspace(outer, k, inner)));
    reduce(static_cast<Reduction>(reduction), t, outer, k, inner, in(x), out(y), out(workspace), stream());
  });
  m.def("argmax", [](int type, int64_t outer, int64_t k, int64_t inner, const Buffer& x, const Buffer& y) {
    const auto t = static_cast<DType>(type);
    expect_bytes(x, outer * k * inner, t, "argmax");
    expect_bytes(y, outer * inner, DType::kInt64, "argmax");
    argmax(t, outer, k, inner, in(x), out<int64_t>(y), stream());
  });
}

}  // namespace cnnfast::cuda::bindings
