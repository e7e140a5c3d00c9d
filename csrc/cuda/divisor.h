// Division of non-negative 32-bit integers by a number known to the host: a product and a shift.
#pragma once
#include "cuda/element.h"

namespace cnnfast::cuda {

// Granlund and Montgomery, "Division by invariant integers using multiplication", 1994: for n < 2^31 and
// l = ceil(log2 d), n / d = (n ceil(2^(31 + l) / d)) >> (31 + l).
struct Divisor {
  uint32_t divisor = 1, multiplier = 0, shift = 0;

  Divisor() = default;
  explicit Divisor(int64_t d) : divisor(static_cast<uint32_t>(d)) {
    if (d <= 1) return;
    uint32_t log = 0;
    while ((int64_t{1} << log) < d) ++log;
    multiplier = static_cast<uint32_t>(((uint64_t{1} << (31 + log)) + d - 1) / d);
    shift = log - 1;
  }

  CNNFAST_BOTH int quotient(int n) const {
    if (multiplier == 0) return n;
    const uint64_t product = static_cast<uint64_t>(static_cast<uint32_t>(n)) * multiplier;
    return static_cast<int>(static_cast<uint32_t>(product >> 32) >> shift);
  }
  CNNFAST_BOTH int remainder(int n, int quotient) const { return n - quotient * static_cast<int>(divisor); }
};

}  // namespace cnnfast::cuda
