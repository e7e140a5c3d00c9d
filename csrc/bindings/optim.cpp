#include "cpu/optim.h"

#include "bindings/array.h"

namespace cnnfast::bindings {
namespace {

// Arrays that are written come as they are: a converted copy would take the results away with it.
using Written = py::array;
using Maybe = std::optional<Written>;

// Checked and turned into pointers with the GIL held: `n` values each, which may be written or only read.
float* written(Written& array, int64_t n) {
  if (!Floats::check_(array)) throw py::type_error("optim: expected C-contiguous arrays of float32");
  if (array.size() != n) throw std::invalid_argument("optim: arrays of different sizes");
  return static_cast<float*>(array.mutable_data());  // refuses what is read-only
}
float* written(Maybe& array, int64_t n) { return array ? written(*array, n) : nullptr; }
const float* only_read(const Floats& array, int64_t n) {
  if (array.size() != n) throw std::invalid_argument("optim: arrays of different sizes");
  return array.data();
}

}  // namespace

void bind_optim(py::module_& m) {
  // Lists of parameters, gradients and velocities (or None in their place).
  m.def("optim_sgd", [](std::vector<Written> ps, const std::vector<Floats>& gs,
                        std::optional<std::vector<Written>> velocities, float lr, float momentum, float gain,
                        float decay, float sign, bool nesterov, bool first) {
    if (gs.size() != ps.size() || (velocities && velocities->size() != ps.size()))
      throw std::invalid_argument("optim: lists of different lengths");
    std::vector<SgdArrays> all;
    for (size_t i = 0; i < ps.size(); ++i) {
      const int64_t n = ps[i].size();
      all.push_back(
          {written(ps[i], n), only_read(gs[i], n), velocities ? written((*velocities)[i], n) : nullptr, n});
    }
    const SgdStep step{lr, momentum, gain, decay, sign, nesterov, first};
    without_gil([&] { sgd(step, all); });
  });
  m.def("optim_rmsprop", [](Written p, const Floats& g, Written square, Maybe mean, Maybe velocity, float lr,
                            float alpha, float rest, float eps, float decay, float momentum, float sign) {
    const int64_t n = p.size();
    float *pd = written(p, n), *sd = written(square, n), *md = written(mean, n), *vd = written(velocity, n);
    const float* gd = only_read(g, n);
    const RmspropStep step{lr, alpha, rest, eps, decay, momentum, sign};
    without_gil([&] { rmsprop(step, n, pd, gd, sd, md, vd); });
  });
  m.def("optim_adam", [](Written p, const Floats& g, Written mean, Written square, Maybe largest, float size,
                         float rest1, float beta2, float rest2, float root, float eps, float decay,
                         float keep, float sign) {
    const int64_t n = p.size();
    float *pd = written(p, n), *md = written(mean, n), *sd = written(square, n), *ld = written(largest, n);
    const float* gd = only_read(g, n);
    const AdamStep step{size, rest1, beta2, rest2, root, eps, decay, keep, sign};
    without_gil([&] { adam(step, n, pd, gd, md, sd, ld); });
  });
  m.def("optim_approach", [](Written y, const Floats& x, float share) {
    const int64_t n = y.size();
    float* yd = written(y, n);
    const float* xd = only_read(x, n);
    without_gil([&] { approach(share, n, yd, xd); });
  });
  m.def("optim_add_scaled", [](Written y, const Floats& x, float factor) {
    const int64_t n = y.size();
    float* yd = written(y, n);
    const float* xd = only_read(x, n);
    without_gil([&] { add_scaled(factor, n, yd, xd); });
  });
  m.def("optim_dot", [](const Floats& a, const Floats& b) {
    const int64_t n = a.size();
    const float *ad = a.data(), *bd = only_read(b, n);
    double total = 0;
    without_gil([&] { total = dot(n, ad, bd); });
    return total;
  });
}

}  // namespace cnnfast::bindings
