// What the comparisons of instruction levels share: arrays between unreadable pages, random values,
// and the comparison itself.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <unistd.h>
#include <utility>
#include <vector>

#include "kernels/table.h"

namespace compare {

using cnnfast::KernelTable;

// The page after (kEnd) or before (kBegin) the values of an array cannot be touched, so that a kernel
// which reads or writes a single float too far ends the program.
enum class Guard { kEnd, kBegin };

template <class T>
class Array {
 public:
  Array(int64_t count, Guard guard) : count_(count) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t bytes = static_cast<size_t>(count) * sizeof(T), body = (bytes + page - 1) / page * page;
    size_ = body + 2 * page;
    void* memory = mmap(nullptr, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) std::abort();
    base_ = static_cast<char*>(memory);
    if (body && mprotect(base_ + page, body, PROT_READ | PROT_WRITE) != 0) std::abort();
    data_ = reinterpret_cast<T*>(base_ + page + (guard == Guard::kEnd ? body - bytes : 0));
  }
  Array(Array&& other) noexcept
      : base_(std::exchange(other.base_, nullptr)),
        size_(other.size_),
        count_(other.count_),
        data_(other.data_) {}
  ~Array() {
    if (base_) munmap(base_, size_);
  }
  T* data() const { return data_; }
  int64_t size() const { return count_; }
  T& operator[](int64_t i) const { return data_[i]; }
  T* begin() const { return data_; }
  T* end() const { return data_ + count_; }

 private:
  char* base_;
  size_t size_;
  int64_t count_;
  T* data_;
};
using Floats = Array<float>;

// Anonymous memory is zero, so the values begin as zeros.
// Numbers that are the same on every machine (xorshift64*).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15u + 1) {}
  uint64_t bits() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 0x2545F4914F6CDD1Du;
  }
  float uniform(float low, float high) {
    return low + (high - low) * static_cast<float>(bits() >> 40) * 0x1p-24f;
  }
  int64_t below(int64_t n) { return static_cast<int64_t>(bits() >> 33) % n; }
  Floats floats(int64_t count, Guard guard, float low = -1, float high = 1) {
    Floats made(count, guard);
    for (float& v : made) v = uniform(low, high);
    return made;
  }

 private:
  uint64_t state_;
};

inline Floats filled(int64_t count, Guard guard, float value) {
  Floats made(count, guard);
  for (float& v : made) v = value;
  return made;
}

constexpr double kUnit = 0x1p-24;  // rounding error of a float

// Two results may differ by bound[i]; without bounds they must be the same bits (a NaN is any NaN).
class Report {
 public:
  explicit Report(const char* level) : level_(level) {}

  void family(const char* name) {
    family_ = name;
    compared_.emplace_back(name, 0);
  }

  void same(const char* what, const float* expected, const float* got, int64_t count,
            const std::vector<double>* bounds = nullptr) {
    compared_.back().second += count;
    for (int64_t i = 0; i < count; ++i) {
      const double e = expected[i], g = got[i];
      bool good = std::memcmp(&expected[i], &got[i], sizeof(float)) == 0 || (std::isnan(e) && std::isnan(g));
      if (!good && bounds) good = std::fabs(e - g) <= (*bounds)[static_cast<size_t>(i)];
      if (good) continue;
      ++failures_;
      std::printf("%s: %s: %s: value %lld of %lld: expected %.9g, got %.9g", level_, family_, what,
                  static_cast<long long>(i), static_cast<long long>(count), e, g);
      if (bounds) std::printf(", bound %.3g", (*bounds)[static_cast<size_t>(i)]);
      std::printf("\n");
      return;
    }
  }

  void fail(const char* what, const char* why) {
    ++failures_;
    std::printf("%s: %s: %s: %s\n", level_, family_, what, why);
  }

  template <class T>
  void same_integers(const char* what, const T* expected, const T* got, int64_t count) {
    compared_.back().second += count;
    for (int64_t i = 0; i < count; ++i) {
      if (expected[i] == got[i]) continue;
      ++failures_;
      std::printf("%s: %s: %s: value %lld of %lld: expected %lld, got %lld\n", level_, family_, what,
                  static_cast<long long>(i), static_cast<long long>(count),
                  static_cast<long long>(expected[i]), static_cast<long long>(got[i]));
      return;
    }
  }

  int finish() const {
    for (const auto& [name, count] : compared_)
      if (count == 0) {
        std::printf("%s: %s: nothing was compared\n", level_, name);
        return 1;
      }
    long long total = 0;
    for (const auto& entry : compared_) total += entry.second;
    std::printf("%s: %zu families, %lld values compared, %d failures\n", level_, compared_.size(), total,
                failures_);
    return failures_ > 0;
  }

 private:
  const char* level_;
  const char* family_ = "";
  std::vector<std::pair<const char*, int64_t>> compared_;
  int failures_ = 0;
};

// A table that gained or lost a kernel must fail to compile here until its comparison is adapted.
#define CNNFAST_EXPECT_KERNELS(Table, ...)                                                   \
  namespace {                                                                                \
  struct Expected##Table {                                                                   \
    __VA_ARGS__                                                                              \
  };                                                                                         \
  static_assert(sizeof(Expected##Table) == sizeof(cnnfast::Table),                           \
                #Table " has changed: compare its new kernels, then list its members here"); \
  }

// One function per family; `level` is compared with `base`, the portable level.
using Compare = void (*)(const KernelTable& base, const KernelTable& level, Guard guard, Report& report);
void compare_gemm(const KernelTable&, const KernelTable&, Guard, Report&);
void compare_depthwise(const KernelTable&, const KernelTable&, Guard, Report&);
void compare_pixels(const KernelTable&, const KernelTable&, Guard, Report&);
void compare_pool(const KernelTable&, const KernelTable&, Guard, Report&);
void compare_pointwise(const KernelTable&, const KernelTable&, Guard, Report&);
void compare_norm(const KernelTable&, const KernelTable&, Guard, Report&);
void compare_reduce(const KernelTable&, const KernelTable&, Guard, Report&);
void compare_resample(const KernelTable&, const KernelTable&, Guard, Report&);
void compare_boxes(const KernelTable&, const KernelTable&, Guard, Report&);
void compare_roi(const KernelTable&, const KernelTable&, Guard, Report&);
void compare_winograd(const KernelTable&, const KernelTable&, Guard, Report&);
void compare_row_winograd(const KernelTable&, const KernelTable&, Guard, Report&);
void compare_strassen(const KernelTable&, const KernelTable&, Guard, Report&);
void compare_outer(const KernelTable&, const KernelTable&, Guard, Report&);
void compare_depthwise_grad(const KernelTable&, const KernelTable&, Guard, Report&);
void compare_pool_grad(const KernelTable&, const KernelTable&, Guard, Report&);
void compare_train(const KernelTable&, const KernelTable&, Guard, Report&);
void compare_optim(const KernelTable&, const KernelTable&, Guard, Report&);

}  // namespace compare
