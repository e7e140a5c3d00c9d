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
  m.def("topk", [](int type, int64_t outer, int64_t k, int64_t inner, int64_t count, bool largest,
                   const Buffer& x, const Buffer& values, const Buffer& places) {
    const auto t = static_cast<DType>(type);
    if (k >> 32) throw std::invalid_argument("topk: an axis is too long");
    expect_bytes(x, outer * k * inner, t, "topk");
    expect_bytes(values, outer * count * inner, t, "topk");
    expect_bytes(places, outer * count * inner, DType::kInt64, "topk");
    const Buffer workspace(static_cast<size_t>(topk_workspace(outer, k, inner)));
    topk(t, outer, k, inner, count, largest, in(x), out(values), out<int64_t>(places), out(workspace),
         stream());
  });
  m.def("topk_grad", [](int type, int64_t outer, int64_t k, int64_t inner, int64_t count, const Buffer& g,
                        const Buffer& places, const Buffer& dx) {
    const auto t = static_cast<DType>(type);
    expect_bytes(g, outer * count * inner, t, "topk_grad");
    expect_bytes(places, outer * count * inner, DType::kInt64, "topk_grad");
    expect_bytes(dx, outer * k * inner, t, "topk_grad");
    topk_grad(t, outer, k, inner, count, in(g), in<int64_t>(places), out(dx), stream());
  });
}

}  // namespace cnnfast::cuda::bindings
