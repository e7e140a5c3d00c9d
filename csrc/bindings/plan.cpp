#include "plan/plan.h"

#include <algorithm>

#include "bindings/array.h"
#include "core/threads.h"
#include "kernels/table.h"
#include "cpu/pixel_lanes.h"
#include "plan/steps.h"

namespace cnnfast::bindings {
namespace {

// Values of a parameter in memory that plans share: a copy, or what a file holds.
class Constant {
 public:
  explicit Constant(const Floats& array) : size_(array.size()) {
    auto copy = std::make_shared<Buffer>(static_cast<size_t>(size_) * sizeof(float), Life::kWeights);
    std::copy_n(array.data(), size_, copy->floats());
    data_ = copy->floats();
    owner_ = std::move(copy);
  }
  Constant(const float* data, int64_t size, std::shared_ptr<const void> owner)
      : size_(size), data_(data), owner_(std::move(owner)) {}

  Place place(int64_t offset) const {
    if (offset < 0 || offset > size_) throw std::invalid_argument("Constant: no such place");
    Place p;
    p.space = Place::kConstant;
    p.constant = data_ + offset;
    p.owner = owner_;
    return p;
  }
  const float* data() const { return data_; }
  int64_t size() const { return size_; }

 private:
  int64_t size_;
  const float* data_;
  std::shared_ptr<const void> owner_;
};

using Shape = std::vector<py::ssize_t>;

// A plan with the shapes of what it takes and gives.
struct BoundPlan {
  Plan plan;
  std::vector<Shape> inputs, outputs;

  // Whether these objects can go to the kernels as they are.
  bool takes(const py::args& arrays) const {
    if (arrays.size() != inputs.size()) return false;
    for (size_t i = 0; i < inputs.size(); ++i) {
      PyObject* array = PyTuple_GET_ITEM(arrays.ptr(), static_cast<py::ssize_t>(i));
      if (!is_plain(array)) return false;
      const auto* a = py::detail::array_proxy(array);
      if (static_cast<size_t>(a->nd) != inputs[i].size() ||
          !std::equal(inputs[i].begin(), inputs[i].end(), a->dimensions))
        return false;
    }
    return true;
  }

  // New arrays for the results; `pointers` gets the inputs, then these.
  std::vector<py::object> prepare(const py::args& arrays, float** pointers) const {
    for (size_t i = 0; i < inputs.size(); ++i)
      pointers[i] = reinterpret_cast<float*>(
          py::detail::array_proxy(PyTuple_GET_ITEM(arrays.ptr(), static_cast<py::ssize_t>(i)))->data);
    std::vector<py::object> results;
    results.reserve(outputs.size());
    for (const Shape& shape : outputs) {
      auto y = new_array(shape);
      pointers[inputs.size() + results.size()] = y.mutable_data();
      results.push_back(std::move(y));
    }
    return results;
  }
};

py::object run(const BoundPlan& p, const py::args& arrays) {
  if (!p.takes(arrays)) return py::none();
  constexpr size_t kMany = 16;
  float* few[kMany];
  std::vector<float*> many;
  float** pointers = few;
  if (p.inputs.size() + p.outputs.size() > kMany) {
    many.resize(p.inputs.size() + p.outputs.size());
    pointers = many.data();
  }
  std::vector<py::object> results = p.prepare(arrays, pointers);
  without_gil([&] { p.plan.run(pointers); });
  if (results.size() == 1) return std::move(results[0]);
  py::tuple all(results.size());
  for (size_t i = 0; i < results.size(); ++i) all[i] = std::move(results[i]);
  return std::move(all);
}

// The results, and the seconds of every step.
py::object run_timed(const BoundPlan& p, const py::args& arrays) {
  if (!p.takes(arrays)) return py::none();
  std::vector<float*> pointers(p.inputs.size() + p.outputs.size());
  std::vector<py::object> results = p.prepare(arrays, pointers.data());
  std::vector<double> seconds(p.plan.steps().size());
  without_gil([&] { p.plan.run_timed(pointers.data(), seconds.data()); });
  return py::make_tuple(results, seconds);
}

Place place_at(int32_t space, int64_t offset) {
  Place p;
  p.space = space;
  p.offset = offset;
  return p;
}

using Weights = std::shared_ptr<const ConvWeights>;

void bind_steps(py::class_<BoundPlan>& c) {
  const auto finish = [](const Place& bias, const Place& residual, int activation, float slope) {
    return Finish{bias, residual, activation, slope};
  };
  c.def("conv2d", [finish](BoundPlan& p, Conv2dSpec s, int64_t ldx, int64_t ldy,
                           std::shared_ptr<ConvWeights> weights, const Place& x, const Place& bias,
                           const Place& residual, const Place& y, int activation, float slope) {
    s.ldx = ldx, s.ldy = ldy;
    add_conv2d(p.plan, s, weights, x, finish(bias, residual, activation, slope), y);
  });
  c.def("depthwise_block",
        [](BoundPlan& p, const BlockStage& expand, const BlockStage& filter, const BlockStage& project,
           const Place& x, const Place& y) { add_depthwise_block(p.plan, expand, filter, project, x, y); });
  c.def("gated_conv2d",
        [finish](BoundPlan& p, Conv2dSpec s, int64_t ldx, int64_t ldy, std::shared_ptr<ConvWeights> weights,
                 const Place& x, const Place& gates, const Place& bias, const Place& residual, const Place& y,
                 int activation, float slope) {
          s.ldx = ldx, s.ldy = ldy;
          add_gated_conv2d(p.plan, s, weights, x, gates, finish(bias, residual, activation, slope), y);
        });
  c.def("pooled_conv2d", [finish](BoundPlan& p, Conv2dSpec s, PoolSpec pool, int64_t ldx, int64_t ldy,
                                  std::shared_ptr<ConvWeights> weights, const Place& x, const Place& bias,
                                  const Place& y, int activation, float slope) {
    if (!pools_sums(s, pool)) throw std::invalid_argument("pooled_conv2d: no kernel for these windows");
    s.ldx = ldx, pool.ldy = ldy;
    add_pooled_conv2d(p.plan, s, pool, weights, x, finish(bias, Place(), activation, slope), y);
  });
  c.def("conv2d_plain",
        [finish](BoundPlan& p, Conv2dSpec s, int64_t ldx, int64_t ldy, const Place& w, const Place& x,
                 const Place& bias, const Place& residual, const Place& y, int activation, float slope) {
          s.ldx = ldx, s.ldy = ldy;
          add_conv2d_plain(p.plan, s, w, x, finish(bias, residual, activation, slope), y);
        });
  c.def("conv2d_transpose",
        [finish](BoundPlan& p, ConvTransposeSpec s, int64_t ldx, int64_t ldy, const Place& plain,
                 std::shared_ptr<PackedTranspose> weights, const Place& x, const Place& bias, const Place& y,
                 int activation, float slope) {
          s.ldx = ldx, s.ldy = ldy;
          add_conv2d_transpose(p.plan, s, plain, weights, x, finish(bias, Place(), activation, slope), y);
        });
  c.def("linear", [finish](BoundPlan& p, int64_t rows, int64_t in, int64_t out, const Place& w,
                           std::shared_ptr<PackedMatrix> weights, const Place& x, const Place& bias,
                           const Place& y, int activation, float slope) {
    add_linear(p.plan, {rows, in, out}, w, weights, x, finish(bias, Place(), activation, slope), y);
  });
  c.def("matmul", [](BoundPlan& p, const MatmulSpec& s, const Place& a, const Place& b, const Place& y) {
    add_matmul(p.plan, s, a, b, y);
  });
  c.def("gram_matrix", [](BoundPlan& p, int64_t n, int64_t rows, int64_t channels, const Place& x,
                          const Place& y) { add_gram_matrix(p.plan, n, rows, channels, x, y); });
  c.def("pool2d",
        [](BoundPlan& p, PoolSpec s, int64_t ldx, int64_t ldy, bool average, const Place& x, const Place& y) {
          s.ldx = ldx, s.ldy = ldy;
          add_pool2d(p.plan, s, average, x, y);
        });
  c.def("global_pool2d", [](BoundPlan& p, int64_t n, int64_t pixels, int64_t channels, int64_t ldx,
                            bool average, const Place& x, const Place& y) {
    add_global_pool2d(p.plan, {n, pixels, channels, ldx}, average, x, y);
  });
  c.def("l2_pool2d", [](BoundPlan& p, const PoolSpec& s, int64_t size, const Place& x, const Place& y) {
    add_l2_pool2d(p.plan, s, size, x, y);
  });
  c.def("activation", [](BoundPlan& p, int64_t count, int kind, float slope, const Place& x, const Place& y) {
    add_activation(p.plan, count, kind, slope, x, y);
  });
  c.def("unary",
        [](BoundPlan& p, int function, float first, float second, int64_t count, const Place& x,
           const Place& y) { add_unary(p.plan, static_cast<Unary>(function), first, second, count, x, y); });
  c.def("binary", [](BoundPlan& p, int op, const Broadcast& s, bool alike, const Place& a, const Place& b,
                     int activation, float slope, const Place& y) {
    add_binary(p.plan, static_cast<Binary>(op), s, alike, a, b, activation, slope, y);
  });
  c.def("batch_norm",
        [](BoundPlan& p, int64_t rows, int64_t channels, double eps, const Place& x, const Place& mean,
           const Place& var, const Place& scale, const Place& shift,
           const Place& y) { add_batch_norm(p.plan, {rows, channels, eps}, x, mean, var, scale, shift, y); });
  c.def("local_response_norm", [](BoundPlan& p, int64_t rows, int64_t channels, int64_t before, int64_t after,
                                  double k, double alpha, double beta, const Place& x, const Place& y) {
    add_local_response_norm(p.plan, {rows, channels, before, after, k, alpha, beta}, x, y);
  });
  c.def("reduce", [](BoundPlan& p, int kind, const ReduceAxes& s, const Place& x, const Place& y) {
    add_reduce(p.plan, static_cast<Reduce>(kind), s, x, y);
  });
  c.def("l2_normalize", [](BoundPlan& p, int64_t outer, int64_t k, int64_t inner, double eps, const Place& x,
                           const Place& y) { add_l2_normalize(p.plan, {outer, k, inner, eps}, x, y); });
  c.def("instance_norm", [](BoundPlan& p, int64_t n, int64_t pixels, int64_t channels, double eps,
                            const Place& x, const Place& scale, const Place& shift, const Place& y) {
    add_instance_norm(p.plan, {n, pixels, channels, eps}, x, scale, shift, y);
  });
  c.def("softmax", [](BoundPlan& p, int64_t outer, int64_t k, int64_t inner, bool log, const Place& x,
                      const Place& y) { add_softmax(p.plan, {outer, k, inner, log}, x, y); });
  c.def("pad2d", [](BoundPlan& p, const std::vector<int64_t>& v, int mode, float value, const Place& x,
                    const Place& y) {
    if (v.size() != 8) throw std::invalid_argument("pad2d: expected 8 numbers");
    add_pad2d(p.plan, {v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], mode, value}, x, y);
  });
  c.def("resize", [](BoundPlan& p, int64_t n, int64_t channels, const ResizeAxis& vertical,
                     const ResizeAxis& horizontal, bool columns_first, const Place& x, const Place& y) {
    add_resize(p.plan, {n, channels, vertical, horizontal, columns_first}, x, y);
  });
  c.def("concat",
        [](BoundPlan& p, int64_t rows, const std::vector<Place>& parts, const std::vector<int64_t>& columns,
           const Place& y) { add_concat(p.plan, rows, parts, columns, y); });
  c.def("copy", [](BoundPlan& p, const std::vector<int64_t>& sizes, const std::vector<int64_t>& x_steps,
                   const std::vector<int64_t>& y_steps, const Place& x,
                   const Place& y) { add_copy(p.plan, sizes, x_steps, y_steps, x, y); });
  c.def("roi_pool", [](BoundPlan& p, const std::vector<int64_t>& v, float scale, const Place& x,
                       const Place& boxes, const Place& y) {
    add_roi_pool(p.plan, {v.at(0), v.at(1), v.at(2), v.at(3), v.at(4), v.at(5), scale}, x, boxes, y);
  });
  c.def("roi_align", [](BoundPlan& p, const std::vector<int64_t>& v, float scale, int64_t samples,
                        bool aligned, const Place& x, const Place& boxes, const Place& y) {
    add_roi_align(p.plan, {v.at(0), v.at(1), v.at(2), v.at(3), v.at(4), v.at(5), scale}, samples, aligned, x,
                  boxes, y);
  });
}

}  // namespace

void bind_plan(py::module_& m) {
  py::class_<Place>(m, "Place").def(py::init<>()).def(py::init(&place_at));
  py::class_<Constant>(m, "Constant")
      .def(py::init<const Floats&>())
      .def("place", &Constant::place)
      .def("parts",
           [](const py::object& self) {
             const auto& c = self.cast<const Constant&>();
             return WeightParts{{view_of(c.data(), c.size(), self), false}};
           })
      .def_static("restore", [](int64_t size, const WeightParts& parts) {
        expect_parts(parts, 1);
        return Constant(expect_floats(parts[0].first, size), size, kept(parts[0].first));
      });
  py::enum_<ConvKind>(m, "ConvKind")
      .value("direct", ConvKind::kDirect)
      .value("depthwise", ConvKind::kDepthwise)
      .value("pixels", ConvKind::kPixels)
      .value("winograd_rows", ConvKind::kWinogradRows)
      .value("winograd2", ConvKind::kWinograd2)
      .value("winograd3", ConvKind::kWinograd3)
      .value("winograd4", ConvKind::kWinograd4)
      .value("winograd5", ConvKind::kWinograd5)
      .value("winograd6", ConvKind::kWinograd6)
      .value("winograd_strided", ConvKind::kWinogradStrided)
      .value("strassen1", ConvKind::kStrassen1)
      .value("strassen2", ConvKind::kStrassen2);
  py::class_<ConvForm>(m, "ConvForm")
      .def(py::init<ConvKind, bool>(), py::arg("kind"), py::arg("plain") = false)
      .def_readonly("kind", &ConvForm::kind)
      .def_readonly("plain", &ConvForm::plain);
  py::class_<ConvChoice>(m, "ConvChoice")
      .def_readonly("form", &ConvChoice::form)
      .def_readonly("nanoseconds", &ConvChoice::nanoseconds)
      .def_readonly("bytes", &ConvChoice::bytes);
  m.def("choose_conv", choose_conv, py::arg("spec"), py::arg("winograd"), py::arg("lean") = false);
  m.def("pools_sums", pools_sums);
  m.attr("packing_version") = kPackingVersion;
  py::class_<ConvWeights, std::shared_ptr<ConvWeights>>(m, "ConvWeights")
      .def(py::init([](ConvForm form, const Conv2dSpec& s, const Floats& w) {
        if (w.size() != s.depth() * s.o) throw std::invalid_argument("ConvWeights: wrong number of weights");
        const float* data = w.data();
        py::gil_scoped_release release;
        return std::make_shared<ConvWeights>(form, s, data);
      }))
      .def("parts",
           [](const py::object& self) {
             const auto& w = self.cast<const ConvWeights&>();
             return WeightParts{{view_of(w.data(), w.floats(), self), w.finite()}};
           })
      .def_static("restore", [](ConvForm form, const Conv2dSpec& s, const WeightParts& parts) {
        expect_parts(parts, 1);
        const float* data = expect_floats(parts[0].first, ConvWeights::floats(form, s));
        return std::make_shared<ConvWeights>(form, s, parts[0].second, data, kept(parts[0].first));
      });

  py::class_<BlockStage>(m, "BlockStage")
      .def(py::init<>())
      .def(py::init([](const Conv2dSpec& spec, std::shared_ptr<ConvWeights> weights, int64_t ld,
                       const Place& bias, const Place& residual, int activation, float slope) {
        return BlockStage{spec, std::move(weights), {bias, residual, activation, slope}, ld};
      }));

  py::class_<BoundPlan> plan(m, "Plan");
  plan.def(
      py::init([](int64_t arena_floats, std::vector<Shape> inputs, std::vector<Shape> outputs, int threads) {
        return BoundPlan{Plan(arena_floats, threads), std::move(inputs), std::move(outputs)};
      }));
  plan.def_property_readonly("size", [](const BoundPlan& p) { return p.plan.steps().size(); });
  plan.def("run", run);
  plan.def("run_timed", run_timed);
  plan.def("algorithms", [](const BoundPlan& p) {
    std::vector<std::string> names;
    for (const Step& step : p.plan.steps()) names.push_back(step.algorithm);
    return names;
  });
  bind_steps(plan);
}

}  // namespace cnnfast::bindings
