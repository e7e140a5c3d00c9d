// Where the build has no target for it, the functions are missing from the module.
#if CNNFAST_HAVE_MMA
#include "cuda/conv_mma.h"

#include <pybind11/stl.h>

#include <array>

#include "bindings_cuda/buffer.h"

namespace cnnfast::cuda::bindings {
namespace {

// In the order of the struct's members, as python/cnnfast/ops/conv_mma.py writes them.
using Numbers = std::array<int64_t, 20>;
ConvMma make_conv(const Numbers& v) {
  ConvMma s{};
  int64_t* const members[] = {&s.n,      &s.h,  &s.w,   &s.c,         &s.kh,    &s.kw,      &s.o,
                              &s.groups, &s.sh, &s.sw,  &s.dh,        &s.dw,    &s.pt,      &s.pl,
                              &s.p,      &s.q,  &s.ldx, &s.y_picture, &s.y_row, &s.y_column};
  for (size_t i = 0; i < v.size(); ++i) *members[i] = v[i];
  return s;
}

// Elements from the first to behind the last that lies in y.
int64_t span(const ConvMma& s) {
  if (s.rows() == 0) return 0;
  return (s.n - 1) * s.y_picture + (s.p - 1) * s.y_row + (s.q - 1) * s.y_column + s.groups * s.o;
}

template <class T>
T* shifted(T* p, int64_t elements, DType type) {
  using Byte = std::conditional_t<std::is_const_v<T>, const char, char>;
  return p ? static_cast<Byte*>(p) + elements * size_of(type) : nullptr;
}

}  // namespace

void bind_conv_mma(py::module_& m) {
  m.attr("mma_tiles") = kMmaTiles;
  m.def("conv_mma_accepts", [](int type, const Numbers& numbers) {
    return conv_mma_accepts(static_cast<DType>(type), make_conv(numbers));
  });
  m.def("conv_mma_workspace", [](int type, const Numbers& numbers, int tile, int splits) {
    return conv_mma_workspace(static_cast<DType>(type), make_conv(numbers), {tile, splits});
  });
  m.def("conv_mma",
        [](int type, const Numbers& numbers, const Buffer& x, const Buffer& w, const Buffer& y, int64_t first,
           const std::optional<Buffer>& bias, const std::optional<Buffer>& residual, int activation,
           float slope, const std::optional<Buffer>& workspace, int tile, int splits) {
          const auto t = static_cast<DType>(type);
          const ConvMma s = make_conv(numbers);
          expect_bytes(x, s.n * s.h * s.w * s.ldx, t, "conv_mma");
          expect_bytes(w, s.groups * s.o * s.depth(), t, "conv_mma");
          expect_bytes(y, first + span(s), t, "conv_mma");
          if (bias) expect_bytes(*bias, s.groups * s.o, DType::kFloat32, "conv_mma");
          if (residual) expect_bytes(*residual, first + span(s), t, "conv_mma");
          const MmaEpilogue epilogue{in<float>(bias), shifted(in(residual), first, t), activation, slope};
          conv_mma(t, s, in(x), in(w), shifted(out(y), first, t), epilogue, out(workspace), stream(),
                   {tile, splits});
        });
  m.def("pack_mma", [](int from, int to, const std::array<int64_t, 12>& v, bool adjoint, const Buffer& w,
                       const Buffer& packed) {
    const PackMma s{v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8], v[9], v[10], v[11], adjoint};
    expect_bytes(w, s.kh * s.kw * s.c * s.groups * s.o, static_cast<DType>(from), "pack_mma");
    expect_bytes(packed, s.size(), static_cast<DType>(to), "pack_mma");
    pack_mma(static_cast<DType>(from), static_cast<DType>(to), s, in(w), out(packed), stream());
  });
  m.def("copy_rows",
        [](int from, int to, int64_t rows, int64_t c, int64_t to_c, const Buffer& x, const Buffer& y) {
          expect_bytes(x, rows * c, static_cast<DType>(from), "copy_rows");
          expect_bytes(y, rows * to_c, static_cast<DType>(to), "copy_rows");
          copy_rows(static_cast<DType>(from), static_cast<DType>(to), rows, c, to_c, in(x), out(y), stream());
        });
  m.def("conv_mma_grad_weight_workspace", [](int type, const Numbers& numbers, int tile, int splits) {
    return conv_mma_grad_weight_workspace(static_cast<DType>(type), make_conv(numbers), {tile, splits});
  });
  m.def("conv_mma_grad_weight",
        [](int type, const Numbers& numbers, const Buffer& x, const Buffer& g, const Buffer& dw,
           const std::optional<Buffer>& workspace, int tile, int splits) {
          const auto t = static_cast<DType>(type);
          const ConvMma s = make_conv(numbers);
          expect_bytes(x, s.n * s.h * s.w * s.ldx, t, "conv_mma_grad_weight");
          expect_bytes(g, span(s), t, "conv_mma_grad_weight");
          expect_bytes(dw, s.depth() * s.groups * s.o, t, "conv_mma_grad_weight");
          conv_mma_grad_weight(t, s, in(x), in(g), out(dw), out(workspace), stream(), {tile, splits});
        });
}

}  // namespace cnnfast::cuda::bindings

#endif
