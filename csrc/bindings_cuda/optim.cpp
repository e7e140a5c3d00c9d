#include "cuda/optim.h"

#include <pybind11/stl.h>

#include "bindings_cuda/buffer.h"

namespace cnnfast::cuda::bindings {
namespace {

// The arrays of every tensor, None where there is none; and how many values they have.
using Rows = std::vector<std::vector<std::optional<Buffer>>>;
using Sizes = std::vector<int64_t>;

// What a launch goes over, and memory for its table.
class Launch {
 public:
  Launch(const Rows& rows, const Sizes& sizes, size_t arrays, size_t needed) {
    if (rows.size() != sizes.size()) throw std::invalid_argument("optim: as many sizes as tensors");
    for (size_t i = 0; i < rows.size(); ++i) {
      if (rows[i].size() != arrays) throw std::invalid_argument("optim: not the arrays of this step");
      std::vector<float*> pointers;
      for (const auto& buffer : rows[i]) {
        if (buffer)
          expect_bytes(*buffer, sizes[i], DType::kFloat32, "optim");
        else if (pointers.size() < needed)
          throw std::invalid_argument("optim: an array is missing");
        pointers.push_back(out<float>(buffer));
      }
      tensors.add(pointers, sizes[i]);
    }
    memory_.emplace(tensors.bytes());
  }
  void* table() const { return memory_->data(); }
  Tensors tensors;

 private:
  std::optional<Buffer> memory_;
};

}  // namespace

// The arguments of the functions of that name in the CPU module, but for many tensors.
void bind_optim(py::module_& m) {
  m.def("optim_sgd", [](const Rows& rows, const Sizes& sizes, float lr, float momentum, float gain,
                        float decay, float sign, bool nesterov, bool first) {
    const Launch launch(rows, sizes, 3, 2);
    sgd({lr, momentum, gain, decay, sign, nesterov, first}, launch.tensors, launch.table(), stream());
  });
  m.def("optim_rmsprop", [](const Rows& rows, const Sizes& sizes, float lr, float alpha, float rest,
                            float eps, float decay, float momentum, float sign) {
    const Launch launch(rows, sizes, 5, 3);
    rmsprop({lr, alpha, rest, eps, decay, momentum, sign}, launch.tensors, launch.table(), stream());
  });
  m.def("optim_adam", [](const Rows& rows, const Sizes& sizes, float size, float rest1, float beta2,
                         float rest2, float root, float eps, float decay, float keep, float sign) {
    const Launch launch(rows, sizes, 5, 4);
    adam({size, rest1, beta2, rest2, root, eps, decay, keep, sign}, launch.tensors, launch.table(), stream());
  });
  m.def("optim_approach", [](const Rows& rows, const Sizes& sizes, float share) {
    const Launch launch(rows, sizes, 2, 2);
    approach(share, launch.tensors, launch.table(), stream());
  });
  m.def("optim_add_scaled", [](const Rows& rows, const Sizes& sizes, float factor) {
    const Launch launch(rows, sizes, 2, 2);
    add_scaled(factor, launch.tensors, launch.table(), stream());
  });
  m.def("optim_scale", [](const Rows& rows, const Sizes& sizes, float factor, const std::optional<Buffer>& by,
                          const std::optional<Buffer>& unsound) {
    const Launch launch(rows, sizes, 2, 2);
    if (by) expect_bytes(*by, 1, DType::kFloat32, "factor");
    if (unsound) expect_bytes(*unsound, 1, DType::kInt32, "unsound");
    scale(factor, in<float>(by), out<int32_t>(unsound), launch.tensors, launch.table(), stream());
  });
  m.def("optim_clip", [](const Rows& rows, const Sizes& sizes, float bound) {
    const Launch launch(rows, sizes, 2, 2);
    clip(bound, launch.tensors, launch.table(), stream());
  });
  m.def("optim_norm", [](const Rows& rows, const Sizes& sizes, bool largest, double most,
                         const Buffer& result) {
    const Launch launch(rows, sizes, 1, 1);
    expect_bytes(result, 2, DType::kFloat32, "result");
    const Buffer parts(static_cast<size_t>(launch.tensors.blocks()) * sizeof(double));
    norm(largest, most, launch.tensors, launch.table(), out<double>(parts), out<float>(result), stream());
  });
}

}  // namespace cnnfast::cuda::bindings
