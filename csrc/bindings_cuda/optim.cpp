#include "cuda/optim.h"

#include <pybind11/stl.h>

#include "bindings_cuda/buffer.h"

namespace cnnfast::cuda::bindings {
namespace {

using Maybe = std::optional<Buffer>;

template <class... Buffers>
void expect_floats(int64_t n, const Buffers&... buffers) {
  const auto check = [n](const auto& b) {
    if constexpr (std::is_same_v<std::decay_t<decltype(b)>, Maybe>) {
      if (b) expect_bytes(*b, n, DType::kFloat32, "optim");
    } else {
      expect_bytes(b, n, DType::kFloat32, "optim");
    }
  };
  (check(buffers), ...);
}

}  // namespace

// The arguments of the functions of that name in the CPU module, after the number of values.
void bind_optim(py::module_& m) {
  m.def("optim_sgd", [](int64_t n, const Buffer& p, const Buffer& g, const Maybe& velocity, float lr,
                        float momentum, float gain, float decay, float sign, bool nesterov, bool first) {
    expect_floats(n, p, g, velocity);
    const SgdStep step{lr, momentum, gain, decay, sign, nesterov, first};
    sgd(step, out<float>(p), in<float>(g), out<float>(velocity), n, stream());
  });
  m.def("optim_rmsprop", [](int64_t n, const Buffer& p, const Buffer& g, const Buffer& square,
                            const Maybe& mean, const Maybe& velocity, float lr, float alpha, float rest,
                            float eps, float decay, float momentum, float sign) {
    expect_floats(n, p, g, square, mean, velocity);
    const RmspropStep step{lr, alpha, rest, eps, decay, momentum, sign};
    rmsprop(step, out<float>(p), in<float>(g), out<float>(square), out<float>(mean), out<float>(velocity), n,
            stream());
  });
  m.def("optim_adam", [](int64_t n, const Buffer& p, const Buffer& g, const Buffer& mean,
                         const Buffer& square, const Maybe& largest, float size, float rest1, float beta2,
                         float rest2, float root, float eps, float decay, float keep, float sign) {
    expect_floats(n, p, g, mean, square, largest);
    const AdamStep step{size, rest1, beta2, rest2, root, eps, decay, keep, sign};
    adam(step, out<float>(p), in<float>(g), out<float>(mean), out<float>(square), out<float>(largest), n,
         stream());
  });
  m.def("optim_approach", [](int64_t n, const Buffer& y, const Buffer& x, float share) {
    expect_floats(n, y, x);
    approach(share, out<float>(y), in<float>(x), n, stream());
  });
  m.def("optim_add_scaled", [](int64_t n, const Buffer& y, const Buffer& x, float factor) {
    expect_floats(n, y, x);
    add_scaled(factor, out<float>(y), in<float>(x), n, stream());
  });
}

}  // namespace cnnfast::cuda::bindings
