#include "cuda/softmax.h"

#include <pybind11/stl.h>

#include "bindings_cuda/buffer.h"

namespace cnnfast::cuda::bindings {

void bind_softmax(py::module_& m) {
  m.def("softmax",
        [](int type, int64_t outer, int64_t k, int64_t inner, bool log, const Buffer& x, const Buffer& y) {
          const auto t = static_cast<DType>(type);
          expect_bytes(x, outer * k * inner, t, "softmax");
          expect_bytes(y, outer * k * inner, t, "softmax");
          softmax(t, outer, k, inner, log, in(x), out(y), stream());
        });
  m.def("softmax_grad", [](int type, int64_t outer, int64_t k, int64_t inner, bool log, const Buffer& g,
                           const Buffer& y, const Buffer& dx) {
    const auto t = static_cast<DType>(type);
    for (const Buffer* b : {&g, &y, &dx}) expect_bytes(*b, outer * k * inner, t, "softmax_grad");
    softmax_grad(t, outer, k, inner, log, in(g), in(y), out(dx), stream());
  });
  m.def("softmax_cross_entropy",
        [](int type, int64_t rows, int64_t k, const Buffer& x, const Buffer& labels, double smoothing,
           int64_t ignored, const Buffer& loss, const Buffer& gradient) {
          const auto t = static_cast<DType>(type);
          expect_bytes(x, rows * k, t, "softmax_cross_entropy");
          expect_bytes(labels, rows, DType::kInt64, "softmax_cross_entropy");
          expect_bytes(loss, rows, t, "softmax_cross_entropy");
          expect_bytes(gradient, rows * k, t, "softmax_cross_entropy");
          softmax_cross_entropy(t, rows, k, in(x), in<int64_t>(labels), smoothing, ignored, out(loss),
                                out(gradient), stream());
        });
  m.def("sigmoid_cross_entropy",
        [](int type, int what, int64_t count, double pos_weight, const std::optional<Buffer>& g,
           const Buffer& x, const Buffer& target, const Buffer& y) {
          const auto t = static_cast<DType>(type);
          const auto loss = static_cast<SigmoidLoss>(what);
          if (loss != SigmoidLoss::kLoss && !g)
            throw std::invalid_argument("sigmoid_cross_entropy: expected a gradient");
          if (g) expect_bytes(*g, count, t, "sigmoid_cross_entropy");
          for (const Buffer* b : {&x, &target, &y}) expect_bytes(*b, count, t, "sigmoid_cross_entropy");
          sigmoid_cross_entropy(t, loss, count, pos_weight, in(g), in(x), in(target), out(y), stream());
        });
}

}  // namespace cnnfast::cuda::bindings
