#include "cuda/check.h"

#include <cstdlib>

namespace cnnfast::cuda {

namespace {

// Number of the current device, and the first that there was.
struct Devices {
  int now = 0, first = 0;
  Devices() {
    if (cudaGetDevice(&now) != cudaSuccess) return;
    static const int before = now;
    first = before;
  }
  std::string text() const {
    return now == first ? ""
                        : "device " + std::to_string(now) + " is current, where cnnfast works on device " +
                              std::to_string(first) + ", the first that was";
  }
};

}  // namespace

int device_number() {
  const Devices devices;
  if (devices.now != devices.first)
    throw CudaError("cudaErrorInvalidDevice", devices.text(), "cudaGetDevice");
  return devices.first;
}

void throw_error(cudaError_t error, const char* what, const char* file, int line) {
  std::string path = file;
  if (const size_t at = path.rfind("csrc/"); at != std::string::npos) path.erase(0, at);
  cudaGetLastError();  // errors that can be got over are not reported again
  const std::string other = Devices().text();
  throw CudaError(
      cudaGetErrorName(error),
      std::string(cudaGetErrorString(error)) + " in " + what + (other.empty() ? "" : "; " + other),
      path + ":" + std::to_string(line));
}

namespace {
bool is_set(const char* name) {
  const char* value = std::getenv(name);
  return value && std::string(value) == "1";
}
}  // namespace

bool synchronous() {
  static const bool asked = is_set("CNNFAST_CUDA_SYNC");
  return asked;
}

bool dependent_launches() {
#if defined(CNNFAST_CUDA_TARGETS)
  // What was compiled for older devices does not wait.
  static const bool asked =
      is_set("CNNFAST_CUDA_DEPENDENT") && compute_capability() >= 90 &&
      std::string(CNNFAST_CUDA_TARGETS).find(std::to_string(compute_capability()) + "-real") !=
          std::string::npos;
  return asked;
#else
  return false;
#endif
}

int compute_capability() {
#if defined(CNNFAST_SHIM)
  return 90;
#else
  static const int capability = [] {
    const int device = device_number();
    int major = 0, minor = 0;
    CNNFAST_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    CNNFAST_CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
    return 10 * major + minor;
  }();
  return capability;
#endif
}

void after_launch(const char* kernel, cudaStream_t stream, const char* file, int line) {
  cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess && synchronous()) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    error = cudaStreamIsCapturing(stream, &status);
    if (error == cudaSuccess && status == cudaStreamCaptureStatusNone) error = cudaStreamSynchronize(stream);
  }
  if (error != cudaSuccess) throw_error(error, kernel, file, line);
}

int multiprocessors() {
#if defined(CNNFAST_SHIM)
  return 4;
#else
  static const int count = [] {
    int n = 0;
    CNNFAST_CUDA_CHECK(cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, device_number()));
    return n;
  }();
  return count;
#endif
}

}  // namespace cnnfast::cuda
