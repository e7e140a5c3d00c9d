#include "cpu/conv2d.h"

#include <algorithm>

#include "bindings/array.h"
#include "core/threads.h"

namespace cnnfast::bindings {
namespace {

Epilogue epilogue_of(const std::optional<Floats>& bias, const std::optional<Floats>& residual, int activation,
                     float slope) {
  return {data_or_null(bias), data_or_null(residual), activation, slope};
}

}  // namespace

void bind_conv(py::module_& m) {
  py::class_<Conv2dSpec>(m, "Conv2dSpec").def(py::init([](const std::vector<int64_t>& v) {
    if (v.size() != 16) throw std::invalid_argument("Conv2dSpec: expected 16 numbers");
    return Conv2dSpec{v[0], v[1],  v[2],  v[3],  v[4],  v[5],  v[6],  v[7], v[8],
                      v[9], v[10], v[11], v[12], v[13], v[14], v[15], v[3], v[6]};
  }));
  py::class_<ConvTransposeSpec>(m, "ConvTransposeSpec").def(py::init([](const std::vector<int64_t>& v) {
    if (v.size() != 16) throw std::invalid_argument("ConvTransposeSpec: expected 16 numbers");
    return ConvTransposeSpec{v[0], v[1],  v[2],  v[3],  v[4],  v[5],  v[6],  v[7], v[8],
                             v[9], v[10], v[11], v[12], v[13], v[14], v[15], v[3], v[6]};
  }));
  py::class_<PackedMatrix, std::shared_ptr<PackedMatrix>>(m, "PackedMatrix")
      .def("parts",
           [](const py::object& self) {
             const auto& p = self.cast<const PackedMatrix&>();
             return WeightParts{{view_of(p.view().data, p.floats(), self), p.view().finite}};
           })
      .def_static("restore", [](int64_t depth, int64_t columns, const WeightParts& parts) {
        expect_parts(parts, 1);
        const float* data = expect_floats(parts[0].first, PackedMatrix::floats(1, depth, columns));
        return PackedMatrix(1, depth, columns, parts[0].second, data, kept(parts[0].first));
      });
  py::class_<PackedTranspose, std::shared_ptr<PackedTranspose>>(m, "PackedTranspose")
      .def_property_readonly("finite", &PackedTranspose::finite)
      .def("parts",
           [](const py::object& self) {
             WeightParts parts;
             for (const PackedMatrix& p : self.cast<const PackedTranspose&>().phases())
               parts.emplace_back(view_of(p.view().data, p.floats(), self), p.view().finite);
             return parts;
           })
      .def_static("restore", [](const ConvTransposeSpec& s, const WeightParts& parts) {
        const std::vector<int64_t> depths = PackedTranspose::depths(s);
        expect_parts(parts, depths.size());
        std::vector<PackedMatrix> phases;
        const int64_t columns = s.o / s.groups;
        for (size_t i = 0; i < depths.size(); ++i) {
          const float* data =
              expect_floats(parts[i].first, PackedMatrix::floats(s.groups, depths[i], columns));
          phases.emplace_back(s.groups, depths[i], columns, parts[i].second, data, kept(parts[i].first));
        }
        return PackedTranspose(std::move(phases));
      });

  m.def("pack_conv2d", [](const Floats& w, int64_t groups) {
    py::gil_scoped_release release;
    return pack_conv2d(w.data(), w.shape(0), w.shape(1), w.shape(2), w.shape(3), groups);
  });
  m.def("pack_linear", [](const Floats& w) {
    py::gil_scoped_release release;
    const float* data = w.data();
    return PackedMatrix(&data, 1, w.shape(0), 1, w.shape(1), 0, w.shape(1), 1, num_threads(), Life::kWeights);
  });
  m.def("pack_conv2d_transpose", [](const ConvTransposeSpec& spec, const Floats& w) {
    py::gil_scoped_release release;
    return PackedTranspose(spec, w.data(), num_threads());
  });

  m.def("conv2d", [](const Conv2dSpec& s, const Floats& x, const std::optional<Floats>& w,
                     const PackedMatrix* packed, const std::optional<Floats>& bias,
                     const std::optional<Floats>& residual, int activation, float slope) {
    auto y = new_array({s.n, s.p, s.q, s.o});
    Epilogue epilogue = epilogue_of(bias, residual, activation, slope);
    const float *xd = x.data(), *wd = data_or_null(w);
    float* yd = y.mutable_data();
    without_gil([&] { conv2d(s, xd, wd, packed, epilogue, yd); });
    return y;
  });
  m.def("depthwise_conv2d",
        [](const Conv2dSpec& s, const Floats& x, const Floats& w, const std::optional<Floats>& bias,
           const std::optional<Floats>& residual, int activation, float slope) {
          auto y = new_array({s.n, s.p, s.q, s.o});
          Epilogue epilogue = epilogue_of(bias, residual, activation, slope);
          const float *xd = x.data(), *wd = w.data();
          float* yd = y.mutable_data();
          without_gil([&] { depthwise_conv2d(s, xd, wd, all_finite(wd, s.depth() * s.o), epilogue, yd); });
          return y;
        });
  m.def("conv2d_transpose",
        [](const ConvTransposeSpec& s, const Floats& x, const Floats& w, const PackedTranspose* packed,
           const std::optional<Floats>& bias, int activation, float slope) {
          auto y = new_array({s.n, s.p, s.q, s.o});
          Epilogue epilogue = epilogue_of(bias, std::nullopt, activation, slope);
          const float *xd = x.data(), *wd = w.data();
          float* yd = y.mutable_data();
          without_gil([&] {
            if (packed)
              conv2d_transpose(s, xd, wd, *packed, epilogue, yd);
            else
              conv2d_transpose(s, xd, wd, PackedTranspose(s, wd, num_threads()), epilogue, yd);
          });
          return y;
        });
  m.def("linear", [](const Floats& x, int64_t out, const std::optional<Floats>& w, const PackedMatrix* packed,
                     const std::optional<Floats>& bias, int activation, float slope) {
    std::vector<py::ssize_t> shape(x.shape(), x.shape() + x.ndim());
    const int64_t in = shape.back();
    int64_t rows = 1;
    for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
    shape.back() = out;
    auto y = new_array(shape);
    Epilogue epilogue = epilogue_of(bias, std::nullopt, activation, slope);
    const float *xd = x.data(), *wd = data_or_null(w);
    float* yd = y.mutable_data();
    without_gil([&] { linear(rows, in, out, xd, wd, packed, epilogue, yd); });
    return y;
  });
  // For plain arrays whose shapes fit, which need no checks; None for all others.
  m.def("linear_plain", [](py::handle x, py::handle w, py::handle b) -> py::object {
    if (!is_plain(x.ptr()) || !is_plain(w.ptr()) || !(b.is_none() || is_plain(b.ptr()))) return py::none();
    const auto xs = py::reinterpret_borrow<Floats>(x), ws = py::reinterpret_borrow<Floats>(w);
    constexpr py::ssize_t kMost = 8;
    const py::ssize_t last = xs.ndim() - 1;
    if (last < 0 || last >= kMost || ws.ndim() != 2 || ws.size() == 0 || xs.shape(last) != ws.shape(0))
      return py::none();
    const int64_t in = ws.shape(0), out = ws.shape(1);
    Epilogue epilogue;
    if (!b.is_none()) {
      const auto bs = py::reinterpret_borrow<Floats>(b);
      if (bs.ndim() != 1 || bs.size() != out) return py::none();
      epilogue.bias = bs.data();
    }
    py::ssize_t shape[kMost];
    std::copy_n(xs.shape(), last, shape);
    shape[last] = out;
    auto y = new_array(shape, static_cast<size_t>(last) + 1);
    const float *xd = xs.data(), *wd = ws.data();
    float* yd = y.mutable_data();
    without_gil([&] { linear(xs.size() / in, in, out, xd, wd, nullptr, epilogue, yd); });
    return y;
  });
  py::class_<MatmulSpec>(m, "MatmulSpec")
      .def(py::init([](int64_t rows, int64_t depth, int64_t columns, const Broadcast& stacks) {
        return MatmulSpec{rows, depth, columns, stacks};
      }));
  m.def("matmul",
        [](const MatmulSpec& s, const std::vector<py::ssize_t>& out, const Floats& a, const Floats& b) {
          auto y = new_array(out);
          const float *ad = a.data(), *bd = b.data();
          float* yd = y.mutable_data();
          without_gil([&] { matmul(s, ad, bd, yd); });
          return y;
        });
  m.def("gram_matrix", [](const Floats& x) {
    const int64_t n = x.shape(0), c = x.shape(x.ndim() - 1);
    int64_t rows = 1;
    for (py::ssize_t i = 1; i + 1 < x.ndim(); ++i) rows *= x.shape(i);
    auto y = new_array({n, c, c});
    const float* xd = x.data();
    float* yd = y.mutable_data();
    without_gil([&] { gram_matrix(n, rows, c, xd, yd); });
    return y;
  });
}

}  // namespace cnnfast::bindings
