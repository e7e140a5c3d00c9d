// The CUDA runtime (or its stand-in on the host), and the one way its errors are raised.
#pragma once
#include <stdexcept>
#include <string>

#if defined(CNNFAST_SHIM)
#include "cuda/host_runtime.h"
#else
#include <cuda_runtime_api.h>
#endif

namespace cnnfast::cuda {

// What a call of the CUDA runtime, or a kernel, reported; becomes cnnfast.errors.CudaError.
class CudaError : public std::runtime_error {
 public:
  CudaError(std::string name, std::string text, std::string where)
      : std::runtime_error(name + ": " + text + " (" + where + ")"),
        name(std::move(name)),
        text(std::move(text)),
        where(std::move(where)) {}
  std::string name, text, where;
};

[[noreturn]] void throw_error(cudaError_t error, const char* what, const char* file, int line);

// Whether CNNFAST_CUDA_SYNC=1 asks for every kernel to be waited for, so that errors name the kernel.
bool synchronous();

// Whether CNNFAST_CUDA_DEPENDENT=1 asks for launches whose blocks come before the kernel before has ended, to
// wait for it in ptx::begin_kernel, and the device can do that (9.0 and up).
bool dependent_launches();

// After every launch: raises what the launch reported.
void after_launch(const char* kernel, cudaStream_t stream, const char* file, int line);

// Everything lies and runs on one device: the one that was current when this was first asked for. Raises
// where another one is current now, whose memory would not be reached.
int device_number();

// Of the device, as 10 * major + minor; 90 for the stand-in. Asked for once.
int compute_capability();
// Of the device; 4 for the stand-in. Asked for once.
int multiprocessors();

}  // namespace cnnfast::cuda

#define CNNFAST_CUDA_CHECK(call)                                              \
  do {                                                                        \
    const cudaError_t cnnfast_error = (call);                                 \
    if (cnnfast_error != cudaSuccess)                                         \
      ::cnnfast::cuda::throw_error(cnnfast_error, #call, __FILE__, __LINE__); \
  } while (false)
