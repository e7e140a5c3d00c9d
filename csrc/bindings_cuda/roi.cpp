#include "cuda/roi.h"

#include <pybind11/stl.h>

#include <limits>

#include "bindings_cuda/buffer.h"

namespace cnnfast::cuda::bindings {
namespace {

// Numbers: N, H, W, C, boxes, rows and columns of bins.
RoiShape make_roi(const std::vector<int64_t>& numbers, float scale, int sampling_ratio, bool aligned) {
  if (numbers.size() != 7) throw std::invalid_argument("roi: expected 7 numbers");
  for (const size_t i : {1, 2, 3, 5, 6})
    if (numbers[i] > std::numeric_limits<int>::max() / 2)
      throw std::invalid_argument("roi: an axis is too long");
  if (numbers[1] * numbers[2] > std::numeric_limits<int>::max())
    throw std::invalid_argument("roi: expected pictures of fewer than 2^31 pixels");
  const auto narrow = [&](size_t i) { return static_cast<int>(numbers[i]); };
  return {numbers[0], numbers[4], narrow(1), narrow(2),      narrow(3),
          narrow(5),  narrow(6),  scale,     sampling_ratio, aligned};
}

void expect(const RoiShape& s, DType type, const Buffer* x, const Buffer& boxes, const Buffer* y) {
  if (x) expect_bytes(*x, s.n * s.h * s.w * s.c, type, "roi");
  expect_bytes(boxes, 5 * s.k, DType::kFloat32, "roi");
  if (y) expect_bytes(*y, s.k * s.p * s.q * s.c, type, "roi");
}

}  // namespace

void bind_roi(py::module_& m) {
  m.def("roi_pool", [](int type, const std::vector<int64_t>& numbers, float scale, const Buffer& x,
                       const Buffer& boxes, const Buffer& y) {
    const auto t = static_cast<DType>(type);
    const RoiShape s = make_roi(numbers, scale, 0, false);
    expect(s, t, &x, boxes, &y);
    const Buffer workspace(static_cast<size_t>(roi_pool_workspace(s, false)));
    roi_pool(t, s, in(x), in<float>(boxes), out(y), out(workspace), stream());
  });
  m.def("roi_pool_grad", [](int type, const std::vector<int64_t>& numbers, float scale, const Buffer& x,
                            const Buffer& boxes, const Buffer& g, const Buffer& dx) {
    const auto t = static_cast<DType>(type);
    const RoiShape s = make_roi(numbers, scale, 0, false);
    expect(s, t, &x, boxes, &g);
    expect(s, t, &dx, boxes, nullptr);
    const Buffer workspace(static_cast<size_t>(roi_pool_workspace(s, true)));
    roi_pool_grad(t, s, in(x), in<float>(boxes), in(g), out(dx), out(workspace), stream());
  });
  m.def("roi_align", [](int type, const std::vector<int64_t>& numbers, float scale, int ratio, bool aligned,
                        const Buffer& x, const Buffer& boxes, const Buffer& y) {
    const auto t = static_cast<DType>(type);
    const RoiShape s = make_roi(numbers, scale, ratio, aligned);
    expect(s, t, &x, boxes, &y);
    roi_align(t, s, in(x), in<float>(boxes), out(y), stream());
  });
  m.def("roi_align_grad", [](int type, const std::vector<int64_t>& numbers, float scale, int ratio,
                             bool aligned, const Buffer& boxes, const Buffer& g, const Buffer& dx) {
    const auto t = static_cast<DType>(type);
    const RoiShape s = make_roi(numbers, scale, ratio, aligned);
    expect(s, t, &dx, boxes, &g);
    const Buffer workspace(static_cast<size_t>(roi_align_grad_workspace(s)));
    roi_align_grad(t, s, in<float>(boxes), in(g), out(dx), out(workspace), stream());
  });
}

}  // namespace cnnfast::cuda::bindings
