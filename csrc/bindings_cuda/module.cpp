// The Python module `_cuda`; built against the host stand-in it is `_cuda_shim`, with the same interface.
#include <pybind11/stl.h>

#include "bindings_cuda/buffer.h"
#if defined(CNNFAST_SHIM)
#include "cuda/selftest_shim.h"
#endif

namespace cnnfast::cuda::bindings {
namespace {

// Raises cnnfast.errors.CudaError(name, text, where).
void raise(const CudaError& e) {
  const py::object type = py::module_::import("cnnfast.errors").attr("CudaError");
  PyErr_SetObject(type.ptr(), type(e.name, e.text, e.where).ptr());
}

#if defined(CNNFAST_SHIM)
void bind_device(py::module_& m) {
  m.attr("is_shim") = true;
#if defined(__SANITIZE_ADDRESS__)
  m.attr("sanitized") = true;
#else
  m.attr("sanitized") = false;
#endif
  m.def("why_unavailable", [] { return std::string(); });
  m.def("device", [] {
    py::dict d;
    d["name"] = "host stand-in";
    d["capability"] = py::make_tuple(9, 0);
    d["memory"] = 0;
    d["driver"] = "none";
    d["runtime"] = "none";
    d["targets"] = "the host";
    return d;
  });
  m.def("set_schedule", &shim::set_schedule, py::arg("name"), py::arg("seed") = 0u);
  m.def("selftest", [](const std::string& name, const Buffer& a, const Buffer& b, const Buffer& y) {
    selftest(name, in<float>(a), in<float>(b), out<float>(y), stream());
  });
  m.def("set_device", &shim::set_device);
  m.def("schedule", [] { return std::string(shim::schedule()); });
}
#else
std::string version(int number) {
  return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
}

// Why nothing can run here, or an empty string.
std::string why_unavailable() {
  int driver = 0, runtime = 0, devices = 0;
  cudaRuntimeGetVersion(&runtime);
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
    cudaGetLastError();
    return "no NVIDIA driver was found";
  }
  const cudaError_t error = cudaGetDeviceCount(&devices);
  cudaGetLastError();
  if (error == cudaErrorInsufficientDriver)
    return "the NVIDIA driver is too old: it is for CUDA " + version(driver) + ", expected " +
           version(runtime);
  if (error == cudaErrorNoDevice || (error == cudaSuccess && devices == 0)) return "no CUDA device was found";
  if (error != cudaSuccess) return std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error);
  cudaDeviceProp p{};
  CNNFAST_CUDA_CHECK(cudaGetDeviceProperties(&p, 0));
  if (p.major * 10 + p.minor < 75)
    return std::string(p.name) + " has compute capability " + std::to_string(p.major) + "." +
           std::to_string(p.minor) + ", expected at least 7.5";
  return "";
}

void bind_device(py::module_& m) {
  m.attr("is_shim") = false;
  m.def("why_unavailable", &why_unavailable);
  m.def("device", [] {
    int driver = 0, runtime = 0, number = 0;
    CNNFAST_CUDA_CHECK(cudaDriverGetVersion(&driver));
    CNNFAST_CUDA_CHECK(cudaRuntimeGetVersion(&runtime));
    CNNFAST_CUDA_CHECK(cudaGetDevice(&number));
    cudaDeviceProp p{};
    CNNFAST_CUDA_CHECK(cudaGetDeviceProperties(&p, number));
    py::dict d;
    d["name"] = std::string(p.name);
    d["capability"] = py::make_tuple(p.major, p.minor);
    d["memory"] = p.totalGlobalMem;
    d["driver"] = version(driver);
    d["runtime"] = version(runtime);
    d["targets"] = CNNFAST_CUDA_TARGETS;
    return d;
  });
}
#endif

}  // namespace
}  // namespace cnnfast::cuda::bindings

PYBIND11_MODULE(CNNFAST_MODULE, m) {
  using namespace cnnfast::cuda;
  using namespace cnnfast::cuda::bindings;
  m.doc() = "Device memory and kernels of cnnfast";
  py::register_local_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const CudaError& e) {
      raise(e);
    }
  });
  m.def("synchronize", [] {
    py::gil_scoped_release release;
    CNNFAST_CUDA_CHECK(cudaDeviceSynchronize());
  });
  m.def("synchronous", &synchronous);
  bind_device(m);
  bind_buffer(m);
#if CNNFAST_HAVE_MMA
  bind_conv_mma(m);
#endif
  bind_dlpack(m);
  bind_graph(m);
  bind_boxes(m);
  bind_copy(m);
  bind_elementwise(m);
  bind_norm(m);
  bind_optim(m);
  bind_pool(m);
  bind_reduce(m);
  bind_resize(m);
  bind_roi(m);
  bind_select(m);
  bind_softmax(m);
  bind_conv(m);
  bind_wrappers(m);
  bind_yolo(m);
}
