#include <pybind11/stl.h>

#include <chrono>
#include <cstring>

#include "bindings/array.h"
#include "core/cpuid.h"
#include "core/threads.h"
#include "kernels/table.h"

namespace cnnfast::bindings {
namespace {

// Only the main thread runs Python's signal handlers; for others this returns false at once.
bool python_interrupt() {
  py::gil_scoped_acquire gil;
  return PyErr_CheckSignals() != 0;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Best of several short runs, in GFLOP/s over all threads.
double measure_peak(int threads) {
  if (threads < 1) throw std::invalid_argument("measure_peak: threads must be at least 1");
  double best = 0;
  py::gil_scoped_release release;
  for (int round = 0; round < 8; ++round) {
    std::vector<double> flops(threads);
    auto start = std::chrono::steady_clock::now();
    parallel_for(threads, threads, [&](int64_t t) { flops[t] = kernels().spin_fma(200000); });
    double seconds = seconds_since(start), total = 0;
    for (double f : flops) total += f;
    if (total / seconds > best) best = total / seconds;
  }
  return best * 1e-9;
}

// Bytes read and written by copying between two halves of `bytes` per thread, best of several, GB/s.
double measure_bandwidth(int threads, int64_t bytes) {
  if (threads < 1 || bytes < 4096) throw std::invalid_argument("measure_bandwidth: too small");
  py::gil_scoped_release release;
  std::vector<Buffer> buffers;
  for (int t = 0; t < threads; ++t) {
    buffers.emplace_back(static_cast<size_t>(bytes));
    std::memset(buffers.back().floats(), 1, static_cast<size_t>(bytes));
  }
  size_t half = static_cast<size_t>(bytes) / 2;
  int repeats = static_cast<int>((int64_t{1} << 26) / bytes) + 1;
  double best = 0;
  for (int round = 0; round < 8; ++round) {
    auto start = std::chrono::steady_clock::now();
    parallel_for(threads, threads, [&](int64_t t) {
      char* data = buffers[t].as<char>();
      for (int i = 0; i < repeats; ++i) std::memcpy(data + (i & 1) * half, data + (~i & 1) * half, half);
    });
    double rate = 2.0 * static_cast<double>(half) * repeats * threads / seconds_since(start);
    if (rate > best) best = rate;
  }
  return best * 1e-9;
}

}  // namespace
}  // namespace cnnfast::bindings

PYBIND11_MODULE(_cpu, m) {
  using namespace cnnfast;
  using namespace cnnfast::bindings;
  m.doc() = "Native CPU kernels of cnnfast";
  kernels();  // chooses the level now, so that a bad CNNFAST_ISA is an import error
  set_interrupt_hook(python_interrupt);
  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const Interrupted&) {
      // The signal handler has set the Python error already.
      if (!PyErr_Occurred()) PyErr_SetNone(PyExc_KeyboardInterrupt);
    }
  });
  m.def("is_plain", [](py::handle value) { return is_plain(value.ptr()); });
  m.def("isa", [] { return std::string(kernels().level); });
  m.def("levels", [] {
    py::dict all;
    for (const Level& level : levels()) all[py::str(level.name)] = level.supported;
    return all;
  });
  m.def("cpu_name", cpu_name);
  m.def("vector_length", [] { return kernels().vl; });
  m.def("num_threads", num_threads);
  m.def("set_num_threads", set_num_threads);
  m.def("thread_reason", thread_reason);
  m.def("cached_bytes", cached_bytes);
  m.def("drop_cached_buffers", drop_cached_buffers);
  m.def("measure_peak", measure_peak, py::arg("threads"));
  m.def("measure_bandwidth", measure_bandwidth, py::arg("threads"), py::arg("bytes"));
  bind_conv(m);
  bind_pool(m);
  bind_pointwise(m);
  bind_norm(m);
  bind_reduce(m);
  bind_resample(m);
  bind_boxes(m);
  bind_roi(m);
  bind_winograd(m);
  bind_grad(m);
  bind_optim(m);
  bind_plan(m);
}
