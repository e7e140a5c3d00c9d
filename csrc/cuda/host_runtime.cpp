#include "cuda/host_runtime.h"

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "cuda/check.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else  // then the zones are looked at after every kernel
#define ASAN_POISON_MEMORY_REGION(p, n) static_cast<void>(p)
#define ASAN_UNPOISON_MEMORY_REGION(p, n) static_cast<void>(p)
#endif

namespace cnnfast::shim {

struct Graph {
  std::vector<std::function<void()>> work;
};
struct Stream {
  std::unique_ptr<Graph> capture;
};

namespace {
// Every allocation has a zone on either side that nothing may write to. All bits set is NaN in every
// floating-point type, so that what is read there, or before it is written, shows.
constexpr size_t kZone = 512;
constexpr unsigned char kPoison = 0xff;
std::mutex mutex;
std::map<char*, size_t>& allocations() {
  static auto* all = new std::map<char*, size_t>;
  return *all;
}

thread_local int current_device = 0;

[[maybe_unused]] bool intact(const char* p, size_t bytes) {
  for (size_t i = 0; i < kZone; ++i)
    if (static_cast<unsigned char>(p[bytes + i]) != kPoison ||
        static_cast<unsigned char>(p[-1 - static_cast<ptrdiff_t>(i)]) != kPoison)
      return false;
  return true;
}
}  // namespace

void set_device(int device) { current_device = device; }

void submit(cudaStream_t stream, std::function<void()> work) {
  if (stream && stream->capture)
    stream->capture->work.push_back(std::move(work));
  else
    work();
}

void check_red_zones([[maybe_unused]] const char* kernel) {
#if !defined(__SANITIZE_ADDRESS__)
  const std::lock_guard<std::mutex> lock(mutex);
  for (auto& [p, bytes] : allocations())
    if (!intact(p, bytes)) {
      std::memset(p - kZone, kPoison, kZone);
      std::memset(p + bytes, kPoison, kZone);
      throw cuda::CudaError("cudaErrorIllegalAddress",
                            "a write beside an array of " + std::to_string(bytes) + " bytes", kernel);
    }
#endif
}

}  // namespace cnnfast::shim

using namespace cnnfast::shim;

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    default:
      return "cudaErrorUnknown";
  }
}
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    default:
      return "invalid argument";
  }
}
cudaError_t cudaGetLastError() { return cudaSuccess; }

cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** p, size_t bytes) {
  if (bytes > size_t{1} << 46) return cudaErrorMemoryAllocation;
  // Aligned as cudaMalloc aligns.
  void* whole = nullptr;
  if (posix_memalign(&whole, 512, bytes + 2 * kZone) != 0) return cudaErrorMemoryAllocation;
  char* data = static_cast<char*>(whole) + kZone;
  std::memset(whole, kPoison, bytes + 2 * kZone);
  ASAN_POISON_MEMORY_REGION(whole, kZone);
  ASAN_POISON_MEMORY_REGION(data + bytes, kZone);
  const std::lock_guard<std::mutex> lock(mutex);
  allocations()[data] = bytes;
  *p = data;
  return cudaSuccess;
}
cudaError_t cudaFree(void* p) {
  if (!p) return cudaSuccess;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = allocations().find(static_cast<char*>(p));
    if (found == allocations().end()) return cudaErrorInvalidValue;
    ASAN_UNPOISON_MEMORY_REGION(found->first - kZone, found->second + 2 * kZone);
    allocations().erase(found);
  }
  std::free(static_cast<char*>(p) - kZone);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  submit(stream, [=] {
    if (bytes) std::memcpy(to, from, bytes);
  });
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  submit(stream, [=] {
    if (bytes) std::memset(to, value, bytes);
  });
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new Stream;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return stream && stream->capture ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = stream && stream->capture ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (!stream || stream->capture) return cudaErrorInvalidValue;
  stream->capture = std::make_unique<Graph>();
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (!stream || !stream->capture) return cudaErrorInvalidValue;
  *graph = stream->capture.release();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new Graph(*graph);
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t) {
  for (const auto& work : exec->work) work();
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new double(0);
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  *event = std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  *milliseconds = static_cast<float>(1e3 * (*to - *from));
  return cudaSuccess;
}
