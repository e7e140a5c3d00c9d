#include "cuda/norm.h"

#include <pybind11/stl.h>

#include "bindings_cuda/buffer.h"

namespace cnnfast::cuda::bindings {
namespace {

using Vector = std::optional<Buffer>;

int64_t count(const NormShape& s) { return s.groups * s.rows * s.channels; }

void expect_vectors(const NormShape& s, const char* what, std::initializer_list<const Buffer*> statistics,
                    std::initializer_list<const Vector*> parameters) {
  for (const Buffer* b : statistics) expect_bytes(*b, s.groups * s.channels, DType::kFloat32, what);
  for (const Vector* v : parameters)
    if (*v) expect_bytes(**v, s.channels, DType::kFloat32, what);
}

LocalResponse local_response(int64_t rows, int64_t channels, int64_t before, int64_t after, float k,
                             float alpha, float beta) {
  return {rows, channels, before, after, k, alpha, beta};
}

}  // namespace

void bind_norm(py::module_& m) {
  m.def("normalize", [](int type, int64_t groups, int64_t rows, int64_t channels, const Buffer& x,
                        const Buffer& mean, const Buffer& var, const Vector& scale, const Vector& shift,
                        double eps, int activation, float slope, const Buffer& y) {
    const auto t = static_cast<DType>(type);
    const NormShape s{groups, rows, channels};
    expect_bytes(x, count(s), t, "normalize");
    expect_bytes(y, count(s), t, "normalize");
    expect_vectors(s, "normalize", {&mean, &var}, {&scale, &shift});
    normalize(t, s, in(x), in<float>(mean), in<float>(var), in<float>(scale), in<float>(shift), eps,
              activation, slope, out(y), stream());
  });
  m.def("statistics", [](int type, int64_t groups, int64_t rows, int64_t channels, const Buffer& x,
                         const Buffer& mean, const Buffer& var) {
    const auto t = static_cast<DType>(type);
    const NormShape s{groups, rows, channels};
    expect_bytes(x, count(s), t, "statistics");
    expect_vectors(s, "statistics", {&mean, &var}, {});
    const Buffer workspace(static_cast<size_t>(statistics_workspace(s)));
    statistics(t, s, in(x), out<float>(mean), out<float>(var), out(workspace), stream());
  });
  m.def("batch_norm_grad_sums", [](int type, int64_t rows, int64_t channels, const Buffer& g, const Buffer& x,
                                   const Buffer& mean, const Buffer& sums, const Buffer& along) {
    const auto t = static_cast<DType>(type);
    const NormShape s{1, rows, channels};
    for (const Buffer* b : {&g, &x}) expect_bytes(*b, count(s), t, "batch_norm_grad_sums");
    expect_vectors(s, "batch_norm_grad_sums", {&mean, &sums, &along}, {});
    const Buffer workspace(static_cast<size_t>(statistics_workspace(s)));
    normalize_grad_sums(t, s, in(g), in(x), in<float>(mean), nullptr, nullptr, nullptr, 0, 0,
                        out<float>(along), out<float>(sums), out(workspace), stream());
  });
  m.def("normalize_grad",
        [](int type, int64_t groups, int64_t rows, int64_t channels, const Buffer& g, const Buffer& x,
           const Buffer& mean, const Buffer& var, const Vector& scale, const Vector& shift, double eps,
           int activation, const Buffer& dx, const Buffer& dscale, const Buffer& dshift) {
          const auto t = static_cast<DType>(type);
          const NormShape s{groups, rows, channels};
          for (const Buffer* b : {&g, &x, &dx}) expect_bytes(*b, count(s), t, "normalize_grad");
          expect_vectors(s, "normalize_grad", {&mean, &var, &dscale, &dshift}, {&scale, &shift});
          const Buffer workspace(static_cast<size_t>(statistics_workspace(s)));
          normalize_grad(t, s, in(g), in(x), in<float>(mean), in<float>(var), in<float>(scale),
                         in<float>(shift), eps, activation, out(dx), out<float>(dscale), out<float>(dshift),
                         out(workspace), stream());
        });
  m.def("local_response_norm", [](int type, int64_t rows, int64_t channels, int64_t before, int64_t after,
                                  float k, float alpha, float beta, const Buffer& x, const Buffer& y) {
    const auto t = static_cast<DType>(type);
    expect_bytes(x, rows * channels, t, "local_response_norm");
    expect_bytes(y, rows * channels, t, "local_response_norm");
    local_response_norm(t, local_response(rows, channels, before, after, k, alpha, beta), in(x), out(y),
                        stream());
  });
  m.def("local_response_norm_grad",
        [](int type, int64_t rows, int64_t channels, int64_t before, int64_t after, float k, float alpha,
           float beta, const Buffer& x, const Buffer& g, const Buffer& dx) {
          const auto t = static_cast<DType>(type);
          for (const Buffer* b : {&x, &g, &dx})
            expect_bytes(*b, rows * channels, t, "local_response_norm_grad");
          const Buffer workspace(static_cast<size_t>(rows * channels) * sizeof(float));
          local_response_norm_grad(t, local_response(rows, channels, before, after, k, alpha, beta), in(x),
                                   in(g), out(dx), out<float>(workspace), stream());
        });
  m.def("l2_normalize",
        [](int type, int64_t outer, int64_t k, int64_t inner, double eps, const Buffer& x, const Buffer& y) {
          const auto t = static_cast<DType>(type);
          expect_bytes(x, outer * k * inner, t, "l2_normalize");
          expect_bytes(y, outer * k * inner, t, "l2_normalize");
          l2_normalize(t, outer, k, inner, eps, in(x), out(y), stream());
        });
}

}  // namespace cnnfast::cuda::bindings
