// Element types of device arrays, for kernels and for hosts. Two-byte floats are storage alone: arithmetic is
// in float32.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define CNNFAST_BOTH __host__ __device__ __forceinline__
#else
#define CNNFAST_BOTH inline
#endif

namespace cnnfast::cuda {

// Codes shared with python/cnnfast/cuda/array.py.
enum class DType : int {
  kFloat32 = 0,
  kBFloat16 = 1,
  kFloat16 = 2,
  kInt64 = 3,
  kInt32 = 4,
  kUInt8 = 5,
  kBool = 6,
};

inline int64_t size_of(DType type) {
  switch (type) {
    case DType::kFloat32:
    case DType::kInt32:
      return 4;
    case DType::kBFloat16:
    case DType::kFloat16:
      return 2;
    case DType::kInt64:
      return 8;
    default:
      return 1;
  }
}

struct alignas(2) BFloat16 {
  uint16_t bits;
};
struct alignas(2) Half {
  uint16_t bits;
};

namespace detail {
template <class To, class From>
CNNFAST_BOTH To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "sizes differ");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

// IEEE 754 binary16, rounded to nearest even.
inline uint16_t half_bits(float value) {
  const uint32_t x = bit_cast<uint32_t>(value), sign = (x >> 16) & 0x8000u, magnitude = x & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to infinity
  if (magnitude < 0x38800000u) {  // subnormal: adding .5 leaves the wanted bits, rounded, at the end
    const float shifted = bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}
inline float half_value(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16, exponent = (h >> 10) & 31u;
  const uint32_t fraction = h & 0x3ffu;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  const uint32_t wide = exponent == 31 ? 0x7f800000u : (exponent + 112) << 23;
  return bit_cast<float>(sign | wide | (fraction << 13));
}
}  // namespace detail

CNNFAST_BOTH float to_float(float x) { return x; }
CNNFAST_BOTH float to_float(BFloat16 x) {
  return detail::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16);
}
CNNFAST_BOTH float to_float(Half x) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(x.bits));
#else
  return detail::half_value(x.bits);
#endif
}

// To the nearest value of T, ties to even.
template <class T>
CNNFAST_BOTH T from_float(float x);
template <>
CNNFAST_BOTH float from_float<float>(float x) {
  return x;
}
template <>
CNNFAST_BOTH BFloat16 from_float<BFloat16>(float x) {
#if defined(__CUDA_ARCH__)
  return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
#else
  const uint32_t u = detail::bit_cast<uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
  return {static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
#endif
}
template <>
CNNFAST_BOTH Half from_float<Half>(float x) {
#if defined(__CUDA_ARCH__)
  return {__half_as_ushort(__float2half_rn(x))};
#else
  return {detail::half_bits(x)};
#endif
}

// Calls body with a value of the element type of that code.
template <class F>
void dispatch_float(DType type, F&& body) {
  switch (type) {
    case DType::kFloat32:
      return body(float{});
    case DType::kBFloat16:
      return body(BFloat16{});
    case DType::kFloat16:
      return body(Half{});
    default:
      break;
  }
  throw std::invalid_argument("expected a floating-point element type");
}

// Calls body with an unsigned integer of the size of the elements: for kernels that only move them.
template <class F>
void dispatch_size(DType type, F&& body) {
  switch (size_of(type)) {
    case 1:
      return body(uint8_t{});
    case 2:
      return body(uint16_t{});
    case 4:
      return body(uint32_t{});
    default:
      return body(uint64_t{});
  }
}

}  // namespace cnnfast::cuda
