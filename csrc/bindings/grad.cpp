#include "bindings/array.h"
#include "cpu/conv_grad.h"
#include "cpu/train.h"

namespace cnnfast::bindings {

void bind_grad(py::module_& m) {
  m.def("conv2d_grad_input", [](const Conv2dSpec& s, const Floats& g, const Floats& w, bool winograd) {
    auto dx = new_array({s.n, s.h, s.w, s.c});
    const float *gd = g.data(), *wd = w.data();
    float* to = dx.mutable_data();
    without_gil([&] { conv2d_grad_input(s, gd, wd, winograd, to); });
    return dx;
  });
  m.def("conv2d_grad_weight", [](const Conv2dSpec& s, const Floats& x, const Floats& g, bool winograd) {
    auto dw = new_array({s.kh, s.kw, s.c / s.groups, s.o});
    const float *xd = x.data(), *gd = g.data();
    float* to = dw.mutable_data();
    without_gil([&] { conv2d_grad_weight(s, xd, gd, winograd, to); });
    return dw;
  });
  m.def("linear_grad_input", [](const Floats& g, const Floats& w) {
    std::vector<py::ssize_t> shape(g.shape(), g.shape() + g.ndim());
    shape.back() = w.shape(0);
    auto dx = new_array(shape);
    const int64_t in = w.shape(0), out = w.shape(1);
    const float *gd = g.data(), *wd = w.data();
    float* to = dx.mutable_data();
    without_gil([&] { linear_grad_input(g.size() / out, in, out, gd, wd, to); });
    return dx;
  });
  m.def("linear_grad_weight", [](const Floats& x, const Floats& g) {
    const int64_t in = x.shape(x.ndim() - 1), out = g.shape(g.ndim() - 1);
    auto dw = new_array({in, out});
    const float *xd = x.data(), *gd = g.data();
    float* to = dw.mutable_data();
    without_gil([&] { linear_grad_weight(x.size() / in, in, out, xd, gd, to); });
    return dw;
  });
  m.def("channel_sums", [](const Floats& x) {
    const int64_t c = x.shape(x.ndim() - 1);
    auto y = new_array({c});
    const float* xd = x.data();
    float* to = y.mutable_data();
    without_gil([&] { channel_sums(c ? x.size() / c : 0, c, xd, to); });
    return y;
  });
  m.def("batch_norm_train", [](const Floats& x, const std::optional<Floats>& scale,
                               const std::optional<Floats>& shift, double eps, int activation) {
    const int64_t c = x.shape(x.ndim() - 1), rows = c ? x.size() / c : 0;
    auto y = like(x), mean = new_array({c}), var = new_array({c});
    const float *xd = x.data(), *scales = data_or_null(scale), *shifts = data_or_null(shift);
    float *to = y.mutable_data(), *md = mean.mutable_data(), *vd = var.mutable_data();
    without_gil([&] { batch_norm_train(rows, c, xd, scales, shifts, eps, activation, to, md, vd); });
    return py::make_tuple(y, mean, var);
  });
  m.def("batch_norm_train_grad", [](const Floats& g, const Floats& x, const Floats& mean, const Floats& var,
                                    const std::optional<Floats>& scale, const std::optional<Floats>& shift,
                                    double eps, int activation) {
    const int64_t c = x.shape(x.ndim() - 1), rows = c ? x.size() / c : 0;
    auto dx = like(x), dscale = new_array({c}), dshift = new_array({c});
    const float *gd = g.data(), *xd = x.data(), *md = mean.data(), *vd = var.data();
    const float *scales = data_or_null(scale), *shifts = data_or_null(shift);
    float *to = dx.mutable_data(), *sd = dscale.mutable_data(), *hd = dshift.mutable_data();
    without_gil(
        [&] { batch_norm_train_grad(rows, c, gd, xd, md, vd, scales, shifts, eps, activation, to, sd, hd); });
    return py::make_tuple(dx, dscale, dshift);
  });
  m.def("batch_norm_grad_sums", [](const Floats& g, const Floats& x, const Floats& mean) {
    if (g.size() != x.size()) throw std::invalid_argument("batch_norm_grad_sums: g and x differ");
    const int64_t c = mean.size(), rows = c ? x.size() / c : 0;
    auto sums = new_array<double>({c}), products = new_array<double>({c});
    const float *gd = g.data(), *xd = x.data(), *md = mean.data();
    double *sd = sums.mutable_data(), *pd = products.mutable_data();
    without_gil([&] { batch_norm_grad_sums(rows, c, gd, xd, md, sd, pd); });
    return py::make_tuple(sums, products);
  });
  m.def("activation_grad", [](const Floats& g, const Floats& v, int kind, float slope) {
    auto y = like(g);
    const float *gd = g.data(), *vd = v.data();
    float* to = y.mutable_data();
    const int64_t n = g.size();
    without_gil([&] { activation_grad(kind, slope, gd, vd, to, n); });
    return y;
  });
  m.def("max_pool2d_grad", [](const PoolSpec& s, const Floats& g, const Floats& x) {
    auto dx = new_array({s.n, s.h, s.w, s.c});
    const float *gd = g.data(), *xd = x.data();
    float* to = dx.mutable_data();
    without_gil([&] { max_pool2d_grad(s, gd, xd, to); });
    return dx;
  });
  m.def("avg_pool2d_grad", [](const PoolSpec& s, const Floats& g) {
    auto dx = new_array({s.n, s.h, s.w, s.c});
    const float* gd = g.data();
    float* to = dx.mutable_data();
    without_gil([&] { avg_pool2d_grad(s, gd, to); });
    return dx;
  });
  using Labels = py::array_t<int64_t, py::array::c_style>;
  m.def("softmax_cross_entropy",
        [](const Floats& x, const Labels& labels, double smoothing, int64_t ignored) {
          const int64_t k = x.shape(x.ndim() - 1), rows = labels.size();
          if (rows * k != x.size())
            throw std::invalid_argument("softmax_cross_entropy: rows and labels differ");
          auto loss = new_array(labels.shape(), static_cast<size_t>(labels.ndim()));
          auto gradient = like(x);
          const float* xd = x.data();
          const int64_t* of = labels.data();
          float *ld = loss.mutable_data(), *to = gradient.mutable_data();
          without_gil([&] { softmax_cross_entropy(rows, k, xd, of, smoothing, ignored, ld, to); });
          return py::make_tuple(loss, gradient);
        });
  m.def("sigmoid_cross_entropy",
        [](int what, const std::optional<Floats>& g, const Floats& x, const Floats& t, float weight) {
          if (t.size() != x.size() || (g && g->size() != x.size()))
            throw std::invalid_argument("sigmoid_cross_entropy: scores, targets and gradient differ");
          auto y = like(x);
          const SigmoidRun all{data_or_null(g), x.data(), t.data(), y.mutable_data(), x.size(), weight};
          without_gil([&] { sigmoid_cross_entropy(static_cast<SigmoidLoss>(what), all); });
          return y;
        });
}

}  // namespace cnnfast::bindings
