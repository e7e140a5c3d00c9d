#include "bindings_cuda/buffer.h"

#include <algorithm>

namespace cnnfast::cuda::bindings {

// --- streams ---------------------------------------------------------------------------------------

Stream::Stream() : own_(true) {
  device_number();
  CNNFAST_CUDA_CHECK(cudaStreamCreateWithFlags(&handle_, cudaStreamNonBlocking));
}
Stream::~Stream() {
  if (own_) cudaStreamDestroy(handle_);
}
void Stream::wait_for(const Stream& other) const {
  cudaEvent_t event = nullptr;
  CNNFAST_CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  cudaError_t error = cudaEventRecord(event, other.handle_);
  if (error == cudaSuccess) error = cudaStreamWaitEvent(handle_, event, 0);
  cudaEventDestroy(event);  // freed when the wait is over
  CNNFAST_CUDA_CHECK(error);
}

namespace {
thread_local StreamPointer chosen_stream;
thread_local PoolPointer chosen_pool;
}  // namespace

// Neither is ever destroyed: the driver may be gone before static objects are.
const StreamPointer& current_stream() {
  if (chosen_stream) return chosen_stream;
  static auto* const own = new StreamPointer(std::make_shared<Stream>());
  return *own;
}
void set_current_stream(StreamPointer stream) { chosen_stream = std::move(stream); }

// --- the pool --------------------------------------------------------------------------------------

namespace {
const PoolPointer& process_pool() {
#if defined(CNNFAST_SHIM)
  constexpr bool kKeep = false;  // so that use after this shows, and what is handed out is NaN
#else
  constexpr bool kKeep = true;
#endif
  static auto* const own = new PoolPointer(std::make_shared<Pool>(kKeep));
  return *own;
}
}  // namespace
const PoolPointer& current_pool() { return chosen_pool ? chosen_pool : process_pool(); }
void set_current_pool(PoolPointer pool) { chosen_pool = std::move(pool); }

namespace {
// Blocks come in sizes that differ by an eighth, so that arrays of similar sizes share them. The stand-in
// hands out exact sizes, so that its checks see the end of every array.
size_t block_bytes(size_t bytes) {
#if defined(CNNFAST_SHIM)
  return bytes;
#else
  size_t step = 512;
  while (step * 16 <= bytes) step *= 2;
  return (bytes + step - 1) / step * step;
#endif
}
}  // namespace

Pool::~Pool() { trim(); }

Pool::Block Pool::acquire(size_t bytes) {
  const StreamPointer& stream = current_stream();
  const size_t wanted = block_bytes(std::max<size_t>(bytes, 1));
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    auto at = std::lower_bound(free_.begin(), free_.end(), wanted,
                               [](const Block& b, size_t size) { return b.bytes < size; });
    for (; at != free_.end() && at->bytes <= wanted + wanted / 4; ++at)
      if (at->stream == stream) {
        Block block = std::move(*at);
        free_.erase(at);
        used_ += block.bytes;
        most_ = std::max(most_, used_);
        return block;
      }
  }
  device_number();
  void* data = nullptr;
  cudaError_t error = cudaMalloc(&data, wanted);
  if (error == cudaErrorMemoryAllocation) {
    trim();
    if (process_pool().get() != this) process_pool()->trim();
    cudaGetLastError();
    error = cudaMalloc(&data, wanted);
  }
  CNNFAST_CUDA_CHECK(error);
  const std::lock_guard<std::mutex> lock(mutex_);
  bytes_ += wanted;
  used_ += wanted;
  most_ = std::max(most_, used_);
  return {data, wanted, stream};
}

void Pool::release(Block block) {
  const std::lock_guard<std::mutex> lock(mutex_);
  used_ -= block.bytes;
  if (!keep_) {
    bytes_ -= block.bytes;
    cudaFree(block.data);
    return;
  }
#if defined(CNNFAST_SHIM)
  // So that a plan that reads what it gave back reads NaN, in every run.
  cudaMemsetAsync(block.data, 0xff, block.bytes, block.stream->handle());
#endif
  const auto at = std::lower_bound(free_.begin(), free_.end(), block.bytes,
                                   [](const Block& b, size_t size) { return b.bytes < size; });
  free_.insert(at, std::move(block));
}

void Pool::trim() {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const Block& block : free_) {
    cudaFree(block.data);  // which waits for the device
    bytes_ -= block.bytes;
  }
  free_.clear();
}

// --- buffers ---------------------------------------------------------------------------------------

struct Buffer::Memory {
  PoolPointer pool;  // null: another library's
  Pool::Block block;
  py::object owner;
  std::mutex mutex;
  ~Memory() {
    if (pool) {
      pool->release(std::move(block));
    } else {
      // Its owner may hand the memory out again at once.
      cudaStreamSynchronize(block.stream->handle());
      py::gil_scoped_acquire gil;
      owner = py::object();
    }
  }
};

Buffer::Buffer(size_t bytes) : bytes_(bytes) {
  Pool::Block block = current_pool()->acquire(bytes);
  memory_ = std::make_shared<Memory>();
  memory_->block = std::move(block);
  memory_->pool = current_pool();
  data_ = memory_->block.data;
}
Buffer::Buffer(uintptr_t pointer, size_t bytes, py::object owner)
    : memory_(std::make_shared<Memory>()), data_(reinterpret_cast<void*>(pointer)), bytes_(bytes) {
  memory_->owner = std::move(owner);
  memory_->block = {data_, bytes, current_stream()};
}
Buffer Buffer::part(size_t offset, size_t bytes) const {
  if (offset > bytes_ || bytes > bytes_ - offset) throw std::invalid_argument("part: beyond the buffer");
  return Buffer(memory_, static_cast<char*>(data_) + offset, bytes);
}
void* Buffer::data() const {
  const StreamPointer& stream = current_stream();
  if (memory_->block.stream != stream) {
    const std::lock_guard<std::mutex> lock(memory_->mutex);
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    CNNFAST_CUDA_CHECK(cudaStreamIsCapturing(stream->handle(), &status));
    // What is captured ran before, and waited then; what it shares with other streams never changes.
    if (status != cudaStreamCaptureStatusNone) return data_;
    stream->wait_for(*memory_->block.stream);
    memory_->block.stream = stream;
  }
  return data_;
}

void Buffer::wait_for(const Stream& other) const {
  const std::lock_guard<std::mutex> lock(memory_->mutex);
  memory_->block.stream->wait_for(other);
}

void expect_bytes(const Buffer& buffer, int64_t count, DType type, const char* what) {
  if (count < 0 || static_cast<uint64_t>(count) * static_cast<uint64_t>(size_of(type)) > buffer.bytes())
    throw std::invalid_argument(std::string(what) + ": the buffer is smaller than the array");
}

namespace {

// A C-contiguous host array's memory.
class HostMemory {
 public:
  HostMemory(const py::buffer& array, bool writable) {
    if (PyObject_GetBuffer(array.ptr(), &view_, PyBUF_C_CONTIGUOUS | (writable ? PyBUF_WRITABLE : 0)) != 0)
      throw py::error_already_set();
  }
  ~HostMemory() { PyBuffer_Release(&view_); }
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;
  void* data() const { return view_.buf; }
  size_t bytes() const { return static_cast<size_t>(view_.len); }

 private:
  Py_buffer view_{};
};

void transfer(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, bool wait) {
  const cudaStream_t s = stream();
  if (!wait) {  // under the GIL: nobody takes the memory to another stream before this is in its own
    CNNFAST_CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, kind, s));
    return;
  }
  py::gil_scoped_release release;
  CNNFAST_CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, kind, s));
  CNNFAST_CUDA_CHECK(cudaStreamSynchronize(s));
}

}  // namespace

void bind_buffer(py::module_& m) {
  py::class_<Stream, StreamPointer>(m, "Stream", py::module_local())
      .def(py::init<>())
      .def(py::init<uintptr_t>(), py::arg("foreign"))
      .def_property_readonly("handle",
                             [](const Stream& s) { return reinterpret_cast<uintptr_t>(s.handle()); })
      .def("wait_for", &Stream::wait_for)
      .def("synchronize", [](const Stream& s) {
        py::gil_scoped_release release;
        CNNFAST_CUDA_CHECK(cudaStreamSynchronize(s.handle()));
      });
  m.def("current_stream", [] { return current_stream(); });
  m.def("set_current_stream", [](StreamPointer s) { set_current_stream(std::move(s)); });

  py::class_<Pool, PoolPointer>(m, "Pool", py::module_local())
      .def(py::init<>())
      .def("trim", &Pool::trim)
      .def_property_readonly("bytes", &Pool::bytes)
      .def_property_readonly("used", &Pool::used)
      .def_property_readonly("most", &Pool::most);
  m.def("current_pool", [] { return current_pool(); });
  m.def("set_current_pool", [](PoolPointer p) { set_current_pool(std::move(p)); });

  py::class_<Buffer>(m, "Buffer", py::module_local())
      .def(py::init<size_t>())
      .def(py::init<uintptr_t, size_t, py::object>())
      .def_property_readonly("address", [](const Buffer& b) { return reinterpret_cast<uintptr_t>(b.data()); })
      .def_property_readonly("bytes", &Buffer::bytes)
      .def("part", &Buffer::part)
      .def("upload",
           [](const Buffer& b, const py::buffer& array) {
             const HostMemory host(array, false);
             if (host.bytes() != b.bytes()) throw std::invalid_argument("upload: sizes differ");
             transfer(b.data(), host.data(), host.bytes(), cudaMemcpyHostToDevice, true);
           })
      .def("download",
           [](const Buffer& b, const py::buffer& array) {
             const HostMemory host(array, true);
             if (host.bytes() != b.bytes()) throw std::invalid_argument("download: sizes differ");
             transfer(host.data(), b.data(), host.bytes(), cudaMemcpyDeviceToHost, true);
           })
      .def("copy_from",
           [](const Buffer& b, const Buffer& from) {
             if (from.bytes() != b.bytes()) throw std::invalid_argument("copy_from: sizes differ");
             transfer(b.data(), from.data(), b.bytes(), cudaMemcpyDeviceToDevice, false);
           })
      .def("fill", [](const Buffer& b, int byte) {
        CNNFAST_CUDA_CHECK(cudaMemsetAsync(b.data(), byte, b.bytes(), stream()));
      });
}

}  // namespace cnnfast::cuda::bindings
