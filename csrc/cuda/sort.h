// Rows of keys in rising order. A key holds a number of 32 bits in its upper half and where it came from in
// its lower half: no two of a row are equal, so that the order is that of a stable sort.
#pragma once
#include <cstdint>

#include "cuda/device.h"

namespace cnnfast::cuda {

using Key = unsigned long long;
constexpr Key kNoKey = ~Key{0};  // comes after all others, and may be there more than once

// Bits that rise with the value; the two zeros are equal, and all NaN, which come after infinity.
__device__ __forceinline__ uint32_t rising_bits(float value) {
  if (value != value) return ~uint32_t{0};
  const uint32_t bits = __float_as_uint(value + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ Key make_key(uint32_t bits, int64_t place) {
  return static_cast<Key>(bits) << 32 | static_cast<uint32_t>(place);
}
__device__ __forceinline__ int64_t place_of(Key key) { return static_cast<uint32_t>(key); }

// Sorts rows of n keys, with as much memory beside them; which of both holds the result is returned.
Key* sort_rows(int64_t rows, int64_t n, Key* keys, Key* spare, cudaStream_t stream);

}  // namespace cnnfast::cuda
