// Device memory that Python holds, and the stream that work goes to.
#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "cuda/check.h"
#include "cuda/element.h"

namespace cnnfast::cuda::bindings {

namespace py = pybind11;

// A stream of this module, or one that belongs to another library.
class Stream {
 public:
  Stream();
  explicit Stream(uintptr_t foreign) : handle_(reinterpret_cast<cudaStream_t>(foreign)), own_(false) {}
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t handle() const { return handle_; }
  // What is put into this stream from now on runs after what is in the other one now.
  void wait_for(const Stream& other) const;

 private:
  cudaStream_t handle_ = nullptr;
  bool own_;
};
using StreamPointer = std::shared_ptr<Stream>;

// The stream of this thread: the process's own unless it was set.
const StreamPointer& current_stream();
void set_current_stream(StreamPointer stream);
// For launchers.
inline cudaStream_t stream() { return current_stream()->handle(); }

// Device memory in blocks that are used again. A block that was given back may be handed out at once on the
// stream that used it last: what is put into that stream later runs later.
class Pool {
 public:
  // Without `keep`, what is given back goes to the device at once.
  explicit Pool(bool keep = true) : keep_(keep) {}
  ~Pool();
  struct Block {
    void* data;
    size_t bytes;  // of the block, at least those asked for
    StreamPointer stream;
  };
  // On the stream of this thread.
  Block acquire(size_t bytes);
  void release(Block block);
  // Gives what nobody holds back to the device.
  void trim();
  size_t bytes() const { return bytes_; }
  size_t used() const { return used_; }
  size_t most() const { return most_; }

 private:
  const bool keep_;
  std::mutex mutex_;
  std::vector<Block> free_;  // ascending in size
  size_t bytes_ = 0, used_ = 0, most_ = 0;
};
using PoolPointer = std::shared_ptr<Pool>;

// Where this thread's buffers come from: the process's pool, or that of a plan that is being made.
const PoolPointer& current_pool();
void set_current_pool(PoolPointer pool);

// A block of device memory, or a part of one; what it lies in lives as long as it.
class Buffer {
 public:
  explicit Buffer(size_t bytes);
  // Memory of another library, kept alive by `owner`.
  Buffer(uintptr_t pointer, size_t bytes, py::object owner);
  Buffer part(size_t offset, size_t bytes) const;

  // The memory for work on this thread's stream, which waits for the stream that used it before.
  void* data() const;
  // What the memory is used for next comes after what is in this stream now.
  void wait_for(const Stream& other) const;
  size_t bytes() const { return bytes_; }

 private:
  struct Memory;
  Buffer(std::shared_ptr<Memory> memory, void* data, size_t bytes)
      : memory_(std::move(memory)), data_(data), bytes_(bytes) {}
  std::shared_ptr<Memory> memory_;
  void* data_;
  size_t bytes_;
};

// Operands of a launcher.
template <class T = void>
const T* in(const Buffer& buffer) {
  return static_cast<const T*>(buffer.data());
}
template <class T = void>
const T* in(const std::optional<Buffer>& buffer) {
  return buffer ? static_cast<const T*>(buffer->data()) : nullptr;
}
template <class T = void>
T* out(const Buffer& buffer) {
  return static_cast<T*>(buffer.data());
}
template <class T = void>
T* out(const std::optional<Buffer>& buffer) {
  return buffer ? static_cast<T*>(buffer->data()) : nullptr;
}

// Elements of an array of that shape.
inline int64_t product(const std::vector<int64_t>& shape) {
  int64_t n = 1;
  for (const int64_t size : shape) n *= size;
  return n;
}
// Raises ValueError where a buffer is smaller than what a launcher would touch.
void expect_bytes(const Buffer& buffer, int64_t count, DType type, const char* what);

void bind_buffer(py::module_& m);
void bind_dlpack(py::module_& m);
void bind_graph(py::module_& m);

// One function per operator family; module.cpp calls them all.
void bind_conv_mma(py::module_& m);
void bind_boxes(py::module_& m);
void bind_copy(py::module_& m);
void bind_elementwise(py::module_& m);
void bind_norm(py::module_& m);
void bind_optim(py::module_& m);
void bind_pool(py::module_& m);
void bind_reduce(py::module_& m);
void bind_resize(py::module_& m);
void bind_roi(py::module_& m);
void bind_select(py::module_& m);
void bind_softmax(py::module_& m);
void bind_conv(py::module_& m);
void bind_wrappers(py::module_& m);
void bind_yolo(py::module_& m);

}  // namespace cnnfast::cuda::bindings
