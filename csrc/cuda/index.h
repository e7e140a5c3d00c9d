// Index arithmetic of kernels, 64 bits wide.
#pragma once
#include <type_traits>

#include "cuda/device.h"

namespace cnnfast::cuda {

struct Divided {
  int64_t quotient, rest;
};

// Division of numbers below 2^63 that are not negative by one that the host knows: a product and a shift,
// where a GPU takes a hundred instructions to divide 64 bits. Granlund and Montgomery, "Division by invariant
// integers using multiplication", 1994: with l = ceil(log2 d), n / d = (n ceil(2^(63 + l) / d)) >> (63 + l).
class Divider {
 public:
  Divider() = default;
  explicit Divider(int64_t d) : divisor_(static_cast<uint64_t>(d < 1 ? 1 : d)) {
    if (d <= 1) return;
    int log = 0;
    while (log < 63 && (uint64_t{1} << log) < divisor_) ++log;
    const unsigned __int128 power = static_cast<unsigned __int128>(1) << (63 + log);
    multiplier_ = static_cast<uint64_t>((power + divisor_ - 1) / divisor_);
    shift_ = log - 1;
  }
  CNNFAST_BOTH int64_t quotient(int64_t n) const {
    if (multiplier_ == 0) return n;
#if defined(__CUDA_ARCH__)
    return static_cast<int64_t>(__umul64hi(static_cast<uint64_t>(n), multiplier_) >> shift_);
#else
    const auto product = static_cast<unsigned __int128>(static_cast<uint64_t>(n)) * multiplier_;
    return static_cast<int64_t>(static_cast<uint64_t>(product >> 64) >> shift_);
#endif
  }
  CNNFAST_BOTH Divided divide(int64_t n) const {
    const int64_t q = quotient(n);
    return {q, n - q * static_cast<int64_t>(divisor_)};
  }

 private:
  uint64_t divisor_ = 1, multiplier_ = 0;
  int shift_ = 0;
};

// for (i over `count` items) of a grid-stride loop.
#define CNNFAST_EACH(i, count)                                                               \
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < (count); \
       i += static_cast<int64_t>(gridDim.x) * blockDim.x)

constexpr int kThreads = 256;

// Elements of T in 16 bytes.
template <class T>
constexpr int kVector = 16 / sizeof(T);

// Calls body(element, integral_constant of the elements that one thread takes at once): as many as fill 16
// bytes where `inner`, the length of contiguous runs, and all addresses allow it.
template <class F, class... P>
void dispatch_vector(DType type, int64_t inner, F&& body, P... pointers) {
  dispatch_float(type, [&](auto element) {
    using T = decltype(element);
    if (inner % kVector<T> == 0 && aligned(16, pointers...))
      body(element, std::integral_constant<int, kVector<T>>{});
    else
      body(element, std::integral_constant<int, 1>{});
  });
}

}  // namespace cnnfast::cuda
