#include "cuda/check.h"

#include <cstdlib>

namespace cnnfast::cuda {

void throw_error(cudaError_t error, const char* what, const char* file, int line) {
  std::string path = file;
  if (const size_t at = path.rfind("csrc/"); at != std::string::npos) path.erase(0, at);
  cudaGetLastError();  // errors that can be got over are not reported again
  throw CudaError(cudaGetErrorName(error), std::string(cudaGetErrorString(error)) + " in " + what,
                  path + ":" + std::to_string(line));
}

bool synchronous() {
  static const bool asked = [] {
    const char* value = std::getenv("CNNFAST_CUDA_SYNC");
    return value && std::string(value) == "1";
  }();
  return asked;
}

int compute_capability() {
#if defined(CNNFAST_SHIM)
  return 90;
#else
  static const int capability = [] {
    int device = 0, major = 0, minor = 0;
    CNNFAST_CUDA_CHECK(cudaGetDevice(&device));
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
    int device = 0, n = 0;
    CNNFAST_CUDA_CHECK(cudaGetDevice(&device));
    CNNFAST_CUDA_CHECK(cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, device));
    return n;
  }();
  return count;
#endif
}

}  // namespace cnnfast::cuda
