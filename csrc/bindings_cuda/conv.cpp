#include "cuda/conv2d.h"

#include <pybind11/stl.h>

#include "bindings_cuda/buffer.h"
#include "cuda/workspace.h"

namespace cnnfast::cuda::bindings {
namespace {

// Workspace out of the pool; given back, in the order of the stream, when the call returns.
class PoolWorkspace : public Workspace {
 public:
  float* floats(int64_t count) override {
    held_.emplace_back(static_cast<size_t>(count) * sizeof(float));
    return out<float>(held_.back());
  }

 private:
  std::vector<Buffer> held_;
};

// In the order of csrc/core/spec.h, as Python's _spec_numbers.
Conv2dSpec make_spec(const std::vector<int64_t>& v) {
  if (v.size() != 16) throw std::invalid_argument("Conv2dSpec: expected 16 numbers");
  Conv2dSpec s{};
  s.n = v[0], s.h = v[1], s.w = v[2], s.c = v[3];
  s.kh = v[4], s.kw = v[5], s.o = v[6], s.groups = v[7];
  s.sh = v[8], s.sw = v[9], s.dh = v[10], s.dw = v[11];
  s.pt = v[12], s.pl = v[13], s.p = v[14], s.q = v[15];
  s.ldx = s.c, s.ldy = s.o;
  return s;
}
int64_t size_x(const Conv2dSpec& s) { return s.n * s.h * s.w * s.c; }
int64_t size_w(const Conv2dSpec& s) { return s.depth() * s.o; }
int64_t size_y(const Conv2dSpec& s) { return s.n * s.p * s.q * s.o; }

Ends make_ends(const char* op, DType type, const std::optional<Buffer>& bias, int64_t channels,
               const std::optional<Buffer>& residual, int64_t count, int activation, float slope) {
  if (bias) expect_bytes(*bias, channels, DType::kFloat32, op);
  if (residual) expect_bytes(*residual, count, type, op);
  return {in<float>(bias), in(residual), activation, slope};
}

// Distances between matrices of a stack that broadcasts, outermost axis first; axes of size one are left out,
// and neighbours that are walked through as one are merged.
Stack make_stack(const std::vector<int64_t>& a, const std::vector<int64_t>& b, int64_t size_a,
                 int64_t size_b) {
  struct Axis {
    int64_t size, a, b;
  };
  std::vector<Axis> axes;  // innermost first
  for (size_t i = 0; i < std::max(a.size(), b.size()); ++i) {
    const int64_t m = i < a.size() ? a[a.size() - 1 - i] : 1, n = i < b.size() ? b[b.size() - 1 - i] : 1;
    const Axis axis{m == 1 ? n : m, m == 1 ? 0 : size_a, n == 1 ? 0 : size_b};
    size_a *= m;
    size_b *= n;
    if (axis.size == 1) continue;
    if (!axes.empty() && axis.a == axes.back().a * axes.back().size &&
        axis.b == axes.back().b * axes.back().size)
      axes.back().size *= axis.size;
    else
      axes.push_back(axis);
  }
  if (axes.size() > Stack::kMost)
    throw std::invalid_argument("matmul: more axes than six differ in how they repeat");
  Stack stack;
  stack.axes = static_cast<int>(axes.size());
  for (size_t i = 0; i < axes.size(); ++i) {
    const Axis& axis = axes[axes.size() - 1 - i];
    stack.size[i] = axis.size, stack.a[i] = axis.a, stack.b[i] = axis.b;
  }
  return stack;
}

}  // namespace

void bind_conv(py::module_& m) {
  using Optional = std::optional<Buffer>;
  m.def("conv2d",
        [](int type, const std::vector<int64_t>& numbers, const Buffer& x, const Buffer& w,
           const Optional& bias, const Optional& residual, int activation, float slope, const Buffer& y) {
          const auto t = static_cast<DType>(type);
          const Conv2dSpec s = make_spec(numbers);
          expect_bytes(x, size_x(s), t, "conv2d");
          expect_bytes(w, size_w(s), t, "conv2d");
          expect_bytes(y, size_y(s), t, "conv2d");
          const Ends ends = make_ends("conv2d", t, bias, s.o, residual, size_y(s), activation, slope);
          PoolWorkspace workspace;
          conv2d(t, s, in(x), in(w), ends, out(y), workspace, stream());
        });
  m.def("conv2d_adjoint", [](int type, const std::vector<int64_t>& numbers, const Buffer& g, const Buffer& w,
                             const Optional& bias, int activation, float slope, const Buffer& dx) {
    const auto t = static_cast<DType>(type);
    const Conv2dSpec s = make_spec(numbers);
    expect_bytes(g, size_y(s), t, "conv2d_adjoint");
    expect_bytes(w, size_w(s), t, "conv2d_adjoint");
    expect_bytes(dx, size_x(s), t, "conv2d_adjoint");
    const Ends ends = make_ends("conv2d_adjoint", t, bias, s.c, {}, 0, activation, slope);
    PoolWorkspace workspace;
    conv2d_adjoint(t, s, in(g), in(w), ends, out(dx), workspace, stream());
  });
  m.def("conv2d_grad_weight", [](int type, const std::vector<int64_t>& numbers, const Buffer& x,
                                 const Buffer& g, const Buffer& dw) {
    const auto t = static_cast<DType>(type);
    const Conv2dSpec s = make_spec(numbers);
    expect_bytes(x, size_x(s), t, "conv2d_grad_weight");
    expect_bytes(g, size_y(s), t, "conv2d_grad_weight");
    expect_bytes(dw, size_w(s), t, "conv2d_grad_weight");
    PoolWorkspace workspace;
    conv2d_grad_weight(t, s, in(x), in(g), out(dw), workspace, stream());
  });
  // y = act(a b + bias), where a is stored k x m if transpose_a, and b n x k if transpose_b.
  m.def("gemm", [](int type, int64_t rows, int64_t columns, int64_t k, bool transpose_a, bool transpose_b,
                   const Buffer& a, const Buffer& b, const Optional& bias, int activation, float slope,
                   const Buffer& y) {
    const auto t = static_cast<DType>(type);
    expect_bytes(a, rows * k, t, "gemm");
    expect_bytes(b, k * columns, t, "gemm");
    expect_bytes(y, rows * columns, t, "gemm");
    const Ends ends = make_ends("gemm", t, bias, columns, {}, 0, activation, slope);
    PoolWorkspace workspace;
    gemm(t, {rows, columns, k, transpose_a, transpose_b, {}}, in(a), in(b), ends, out(y), workspace,
         stream());
  });
  // y = a b + residual for stacks that broadcast, the matrices of a or of b transposed where asked.
  m.def("matmul", [](int type, std::vector<int64_t> a_shape, std::vector<int64_t> b_shape, bool transpose_a,
                     bool transpose_b, const Buffer& a, const Buffer& b, const Optional& residual,
                     const Buffer& y) {
    const auto t = static_cast<DType>(type);
    if (a_shape.size() < 2 || b_shape.size() < 2 || (transpose_a && transpose_b))
      throw std::invalid_argument("matmul: expected stacks of matrices, of which one at most is transposed");
    expect_bytes(a, product(a_shape), t, "matmul");
    expect_bytes(b, product(b_shape), t, "matmul");
    const int64_t *last_a = &a_shape.back(), *last_b = &b_shape.back();
    const int64_t rows = transpose_a ? last_a[0] : last_a[-1], k = transpose_a ? last_a[-1] : last_a[0];
    const int64_t columns = transpose_b ? last_b[-1] : last_b[0];
    a_shape.resize(a_shape.size() - 2);
    b_shape.resize(b_shape.size() - 2);
    const Stack stack = make_stack(a_shape, b_shape, rows * k, k * columns);
    int64_t count = rows * columns;
    for (int axis = 0; axis < stack.axes; ++axis) count *= stack.size[axis];
    expect_bytes(y, count, t, "matmul");
    const Ends ends = make_ends("matmul", t, {}, 0, residual, count, kNone, 0.0f);
    PoolWorkspace workspace;
    gemm(t, {rows, columns, k, transpose_a, transpose_b, stack}, in(a), in(b), ends, out(y), workspace,
         stream());
  });
  m.def("gram_matrix", [](int type, int64_t n, int64_t rows, int64_t c, const Buffer& x, const Buffer& y) {
    const auto t = static_cast<DType>(type);
    expect_bytes(x, n * rows * c, t, "gram_matrix");
    expect_bytes(y, n * c * c, t, "gram_matrix");
    PoolWorkspace workspace;
    gram(t, n, rows, c, in(x), out(y), workspace, stream());
  });
  m.def("channel_sums", [](int type, int64_t rows, int64_t columns, const Buffer& x, const Buffer& y) {
    const auto t = static_cast<DType>(type);
    expect_bytes(x, rows * columns, t, "channel_sums");
    expect_bytes(y, columns, t, "channel_sums");
    PoolWorkspace workspace;
    column_sums(t, rows, columns, in(x), out(y), workspace, stream());
  });
}

}  // namespace cnnfast::cuda::bindings
