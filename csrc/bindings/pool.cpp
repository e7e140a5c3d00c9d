#include "cpu/pool.h"

#include "bindings/array.h"

namespace cnnfast::bindings {

void bind_pool(py::module_& m) {
  py::class_<PoolSpec>(m, "PoolSpec").def(py::init([](const std::vector<int64_t>& v) {
    if (v.size() != 21) throw std::invalid_argument("PoolSpec: expected 21 numbers");
    return PoolSpec{v[0],  v[1],  v[2],  v[3],  v[4],  v[5],  v[6],  v[7],  v[8],       v[9], v[10], v[11],
                    v[12], v[13], v[14], v[15], v[16], v[17], v[18], v[19], v[20] != 0, v[3], v[3]};
  }));
  m.def("max_pool2d", [](const PoolSpec& s, const Floats& x) {
    auto y = new_array({s.n, s.p, s.q, s.c});
    const float* xd = x.data();
    float* yd = y.mutable_data();
    without_gil([&] { max_pool2d(s, xd, yd, nullptr); });
    return y;
  });
  m.def("max_pool2d_positions", [](const PoolSpec& s, const Floats& x) {
    auto y = new_array({s.n, s.p, s.q, s.c});
    auto positions = new_array<int64_t>({s.n, s.p, s.q, s.c});
    const float* xd = x.data();
    float* yd = y.mutable_data();
    int64_t* pd = positions.mutable_data();
    without_gil([&] { max_pool2d(s, xd, yd, pd); });
    return py::make_tuple(y, positions);
  });
  m.def("avg_pool2d", [](const PoolSpec& s, const Floats& x) {
    auto y = new_array({s.n, s.p, s.q, s.c});
    const float* xd = x.data();
    float* yd = y.mutable_data();
    without_gil([&] { avg_pool2d(s, xd, yd); });
    return y;
  });
  m.def("l2_pool2d", [](const PoolSpec& s, int64_t size, const Floats& x) {
    auto y = new_array({s.n, s.p, s.q, s.c});
    const float* xd = x.data();
    float* yd = y.mutable_data();
    without_gil([&] { l2_pool2d(s, size, xd, yd); });
    return y;
  });
  m.def("global_pool2d", [](const Floats& x, bool average) {
    const int64_t n = x.shape(0), pixels = x.shape(1) * x.shape(2), c = x.shape(3);
    auto y = new_array({n, 1, 1, c});
    const float* xd = x.data();
    float* yd = y.mutable_data();
    without_gil([&] { (average ? global_avg_pool : global_max_pool)(n, pixels, c, c, xd, yd); });
    return y;
  });
}

}  // namespace cnnfast::bindings
