// Recycled memory. A fresh page costs about a microsecond to fault in, so buffers of outputs and
// scratch space are kept and handed out again.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

namespace cnnfast {

// At least `bytes` of 64-byte aligned memory, contents undefined. Throws std::bad_alloc.
void* acquire_buffer(size_t bytes);
void release_buffer(void* buffer, size_t bytes) noexcept;
// Bytes now kept for reuse; drop them all.
size_t cached_bytes();
void drop_cached_buffers();

// How long memory is in use. The weights of a network are read one after the other, run by run: small pieces
// lie together on huge pages, which the processor finds without looking each page up.
enum class Life { kCall, kWeights };

struct Slab;
// A buffer that is given back by its destructor.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes, Life life = Life::kCall);
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_), slab_(std::move(other.slab_)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(slab_, other.slab_);
    return *this;
  }
  ~Buffer() {
    if (data_) release();
  }
  float* floats() const { return static_cast<float*>(data_); }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void release() noexcept;

  void* data_ = nullptr;
  size_t bytes_ = 0;
  std::shared_ptr<Slab> slab_;  // what the memory is part of, or null
};

// Per-thread scratch that lives as long as the thread; each slot grows and is never shared, so a
// kernel may hold several slots at once. The contents do not outlive the task.
enum class Slot { kRows, kTile, kPanel, kImage, kCount };
void* thread_scratch(Slot slot, size_t bytes);

// `count` zeros that anyone may read, for padding.
const float* zeros(size_t count);

}  // namespace cnnfast
