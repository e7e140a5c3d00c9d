#include "core/arena.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace cnnfast {

constexpr size_t kHuge = size_t{2} << 20, kSlab = 4 * kHuge;

// Memory that small buffers of long life are cut from. It goes when the last of them does.
struct Slab {
  Buffer memory{kSlab};
  size_t used = 0;

  // Null where too little is left.
  void* cut(size_t bytes) {
    if (bytes > kSlab - used) return nullptr;
    void* part = memory.as<char>() + used;
    used += (bytes + 63) / 64 * 64;
    return part;
  }
  // What was cut last may be cut again.
  void give_back(void* part, size_t bytes) {
    char* end = memory.as<char>() + used;
    if (static_cast<char*>(part) + (bytes + 63) / 64 * 64 == end) used -= (bytes + 63) / 64 * 64;
  }
};

namespace {

// Bytes that are always kept. More are kept as long as they and those in use are not more than were in use at
// once lately: a step of training takes and gives back gigabytes, which would be fresh pages every time.
constexpr size_t kCacheLimit = size_t{256} << 20;
constexpr uint64_t kLately = 4096;  // releases, at least; twice as many at most
constexpr int kClasses = 4 * 64;
// Under AddressSanitizer every buffer is fresh and of its exact size, so that no overrun is hidden.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kExact = true;
#else
constexpr bool kExact = false;
#endif

// Four size classes per power of two: at most a quarter is wasted.
int class_of(size_t bytes, size_t* rounded) {
  if (bytes < 256) bytes = 256;
  int bits = 63 - __builtin_clzll(bytes);
  size_t step = size_t{1} << (bits - 2);
  size_t up = (bytes + step - 1) / step;
  *rounded = up * step;
  if (up == 8) return 4 * (bits + 1);
  return 4 * bits + static_cast<int>(up - 4);
}

size_t bytes_of_class(int index) { return (size_t{4} + index % 4) << (index / 4 - 2); }

size_t physical_memory() {
#if defined(_SC_PHYS_PAGES)
  static const size_t bytes =
      static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGE_SIZE));
  return bytes;
#else
  return SIZE_MAX;
#endif
}

struct Kept {
  void* memory;
  uint64_t since;  // when it came back, in releases
};

struct Cache {
  std::mutex mutex;
  std::vector<Kept> free[kClasses];  // of each class the oldest first
  size_t bytes = 0, used = 0;        // kept, in use
  size_t most = 0, most_before = 0;  // in use at once, in this and in the last stretch of releases
  uint64_t releases = 0;
  std::weak_ptr<Slab> slab;  // the one that is cut from

  void take(size_t size) {
    used += size;
    if (used > most) most = used;
    trim();
  }
  void give_back(size_t size) {
    used -= size;
    if (++releases % kLately == 0) most_before = most, most = used;
  }
  // Frees what has waited longest, so that sizes that are no longer asked for make room for others.
  void trim() {
    while (bytes > kCacheLimit && bytes + used > (most > most_before ? most : most_before)) drop_oldest();
  }

 private:
  void drop_oldest();
};

Cache* make_cache();
Cache& cache() {
  static Cache* instance = make_cache();  // never destroyed: arrays may outlive the module
  return *instance;
}

void Cache::drop_oldest() {
  std::vector<Kept>* oldest = nullptr;
  for (auto& list : free)
    if (!list.empty() && (!oldest || list.front().since < oldest->front().since)) oldest = &list;
  if (!oldest) return;
  std::free(oldest->front().memory);
  oldest->erase(oldest->begin());
  bytes -= bytes_of_class(static_cast<int>(oldest - free));
}

Cache* make_cache() {
  auto* instance = new Cache;
#if defined(__unix__) || defined(__APPLE__)
  pthread_atfork([] { cache().mutex.lock(); }, [] { cache().mutex.unlock(); },
                 [] { cache().mutex.unlock(); });
#endif
  return instance;
}

void* fresh(size_t bytes) {
  if (kExact) {
    void* memory = nullptr;
    return posix_memalign(&memory, 64, bytes) == 0 ? memory : nullptr;
  }
  size_t align = bytes >= kHuge ? kHuge : 64;
  void* memory = std::aligned_alloc(align, (bytes + align - 1) / align * align);
#if defined(MADV_HUGEPAGE)
  if (memory && bytes >= kHuge) madvise(memory, bytes, MADV_HUGEPAGE);
#endif
  return memory;
}

}  // namespace

void* acquire_buffer(size_t bytes) {
  // More than the machine has can only end in being killed: refuse at once.
  if (bytes > physical_memory()) throw std::bad_alloc();
  if (kExact) {
    void* memory = fresh(bytes);
    if (!memory) throw std::bad_alloc();
    return memory;
  }
  size_t rounded;
  int index = class_of(bytes, &rounded);
  Cache& c = cache();
  {
    std::lock_guard<std::mutex> lock(c.mutex);
    if (!c.free[index].empty()) {
      void* memory = c.free[index].back().memory;
      c.free[index].pop_back();
      c.bytes -= rounded;
      c.take(rounded);
      return memory;
    }
  }
  void* memory = fresh(rounded);
  if (!memory) {
    drop_cached_buffers();
    memory = fresh(rounded);
  }
  if (!memory) throw std::bad_alloc();
  std::lock_guard<std::mutex> lock(c.mutex);
  c.take(rounded);
  return memory;
}

void release_buffer(void* buffer, size_t bytes) noexcept {
  if (kExact) return std::free(buffer);
  size_t rounded;
  int index = class_of(bytes, &rounded);
  Cache& c = cache();
  try {
    std::lock_guard<std::mutex> lock(c.mutex);
    c.give_back(rounded);
    c.free[index].push_back({buffer, c.releases});
    c.bytes += rounded;
    c.trim();
    return;
  } catch (...) {
  }
  std::free(buffer);
}

Buffer::Buffer(size_t bytes, Life life) : bytes_(bytes) {
  if (life == Life::kCall || bytes >= kHuge || kExact) {
    data_ = acquire_buffer(bytes);
    return;
  }
  Cache& c = cache();
  std::shared_ptr<Slab> slab;
  {
    std::lock_guard<std::mutex> lock(c.mutex);
    slab = c.slab.lock();
    if (slab) data_ = slab->cut(bytes);
  }
  if (!data_) {
    slab = std::make_shared<Slab>();
    data_ = slab->cut(bytes);
    std::lock_guard<std::mutex> lock(c.mutex);
    c.slab = slab;
  }
  slab_ = std::move(slab);
}

void Buffer::release() noexcept {
  if (!slab_) return release_buffer(data_, bytes_);
  std::lock_guard<std::mutex> lock(cache().mutex);
  slab_->give_back(data_, bytes_);
}

size_t cached_bytes() {
  Cache& c = cache();
  std::lock_guard<std::mutex> lock(c.mutex);
  return c.bytes;
}

void drop_cached_buffers() {
  Cache& c = cache();
  std::lock_guard<std::mutex> lock(c.mutex);
  for (auto& list : c.free) {
    for (const Kept& kept : list) std::free(kept.memory);
    list.clear();
  }
  c.bytes = c.most_before = 0;
  c.most = c.used;
}

void* thread_scratch(Slot slot, size_t bytes) {
  struct Scratch {
    void* data[static_cast<int>(Slot::kCount)] = {};
    size_t size[static_cast<int>(Slot::kCount)] = {};
    ~Scratch() {
      for (void* memory : data) std::free(memory);
    }
  };
  thread_local Scratch scratch;
  int i = static_cast<int>(slot);
  if (scratch.size[i] < bytes || (kExact && scratch.size[i] != bytes)) {
    std::free(scratch.data[i]);
    scratch.data[i] = nullptr;
    scratch.size[i] = 0;
    // More than a few pages: one that is huge.
    const size_t unit = bytes > kHuge / 8 ? kHuge : 4096;
    size_t rounded = kExact ? bytes : (bytes + bytes / 4 + unit - 1) / unit * unit;
    scratch.data[i] = fresh(rounded);
    if (!scratch.data[i]) throw std::bad_alloc();
    scratch.size[i] = rounded;
  }
  return scratch.data[i];
}

const float* zeros(size_t count) {
  struct Zeros {
    float* data;
    size_t count;
  };
  // Older, smaller blocks may still be read by another thread, so they are never freed.
  static std::atomic<Zeros*> current{nullptr};
  Zeros* have = current.load(std::memory_order_acquire);
  while (!have || have->count < count) {
    size_t n = kExact ? count : 4096;
    while (n < count) n *= 2;
    auto* data = static_cast<float*>(fresh(n * sizeof(float)));
    if (!data) throw std::bad_alloc();
    std::memset(data, 0, n * sizeof(float));
    auto* made = new Zeros{data, n};
    if (current.compare_exchange_strong(have, made, std::memory_order_acq_rel)) return data;
    std::free(data);
    delete made;
  }
  return have->data;
}

}  // namespace cnnfast
