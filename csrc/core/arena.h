// Recycled memory. A fresh page costs about a microsecond to fault in, so buffers of outputs and
// scratch space are kept and handed out again.
#pragma once
#include <cstddef>
#include <cstdint>

namespace cnnfast {

// At least `bytes` of 64-byte aligned memory, contents undefined. Throws std::bad_alloc.
void* acquire_buffer(size_t bytes);
void release_buffer(void* buffer, size_t bytes) noexcept;
// Bytes now kept for reuse; drop them all.
size_t cached_bytes();
void drop_cached_buffers();

// A buffer for the length of a scope.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes) : data_(acquire_buffer(bytes)), bytes_(bytes) {}
  Buffer(Buffer&& other) noexcept : data_(other.data_), bytes_(other.bytes_) { other.data_ = nullptr; }
  Buffer& operator=(Buffer&& other) noexcept {
    void* data = data_;
    size_t bytes = bytes_;
    data_ = other.data_, bytes_ = other.bytes_;
    other.data_ = data, other.bytes_ = bytes;
    return *this;
  }
  ~Buffer() {
    if (data_) release_buffer(data_, bytes_);
  }
  float* floats() const { return static_cast<float*>(data_); }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Per-thread scratch that lives as long as the thread; each slot grows and is never shared, so a
// kernel may hold several slots at once. The contents do not outlive the task.
enum class Slot { kRows, kTile, kPanel, kImage, kCount };
void* thread_scratch(Slot slot, size_t bytes);

// `count` zeros that anyone may read, for padding.
const float* zeros(size_t count);

}  // namespace cnnfast
