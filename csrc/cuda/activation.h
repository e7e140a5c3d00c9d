// Activations of one value in float32, for epilogues and for elementwise.cu. NaN comes through; +-Inf give
// the limits; the relative error is at most 4e-7 wherever the result is a normal number.
#pragma once
#include "core/epilogue.h"
#include "cuda/device.h"

namespace cnnfast::cuda {

// 1 / (1 + exp(-x)), of an argument of either sign without overflow.
__device__ __forceinline__ float sigmoid(float x) {
  const float e = expf(-fabsf(x));
  return (x < 0 ? e : 1.0f) / (1.0f + e);
}

__device__ __forceinline__ float silu(float x) {
  if (x < -80.0f) {  // the exponential becomes subnormal before the product does
    if (x < -1000.0f) return -0.0f;
    const float root = expf(0.5f * x);
    return x * root * root;
  }
  const float e = expf(-fabsf(x));
  return (x < 0 ? x * e : x) / (1.0f + e);
}

__device__ __forceinline__ float hard_swish(float x) {
  const float bounded = x < -3.0f ? -3.0f : x, shifted = bounded + 3.0f;
  return bounded * ((shifted > 6.0f ? 6.0f : shifted) * (1.0f / 6.0f));
}

// By code, where it is known at compile time.
template <int Kind>
__device__ __forceinline__ float activate(float x, [[maybe_unused]] float slope) {
  if constexpr (Kind == kRelu) return x <= 0 ? 0.0f : x;
  if constexpr (Kind == kRelu6) return x <= 0 ? 0.0f : x > 6.0f ? 6.0f : x;
  if constexpr (Kind == kLeakyRelu) return x < 0 ? x * slope : x;
  if constexpr (Kind == kSigmoid) return sigmoid(x);
  if constexpr (Kind == kTanh) return tanhf(x);
  if constexpr (Kind == kSilu) return silu(x);
  if constexpr (Kind == kHardSwish) return hard_swish(x);
  return x;
}

template <int Kind, int N>
__device__ __forceinline__ void activate_each(float (&values)[N], float slope) {
#pragma unroll
  for (int k = 0; k < N; ++k) values[k] = activate<Kind>(values[k], slope);
}

// By code, chosen once for all values: the same for all threads of a launch, so that the branch costs little.
template <int N>
__device__ __forceinline__ void activate_all(float (&values)[N], int kind, float slope) {
  switch (kind) {
    case kNone:
      return;
    case kRelu:
      return activate_each<kRelu>(values, slope);
    case kRelu6:
      return activate_each<kRelu6>(values, slope);
    case kLeakyRelu:
      return activate_each<kLeakyRelu>(values, slope);
    case kSigmoid:
      return activate_each<kSigmoid>(values, slope);
    case kTanh:
      return activate_each<kTanh>(values, slope);
    case kSilu:
      return activate_each<kSilu>(values, slope);
    case kHardSwish:
      return activate_each<kHardSwish>(values, slope);
  }
}

__device__ __forceinline__ float activate(int kind, float x, float slope) {
  float values[1] = {x};
  activate_all(values, kind, slope);
  return values[0];
}

// g times the derivative at v: the result of relu, relu6, sigmoid and tanh, what went into silu and
// hard_swish, either of both for leaky ReLU. NaN of either comes through; where the slope of relu is zero
// nothing does.
template <int Kind>
__device__ __forceinline__ float activation_grad(float g, float v, [[maybe_unused]] float slope) {
  if constexpr (Kind == kRelu) return v <= 0 ? 0.0f : g;
  if constexpr (Kind == kRelu6) return g * (v <= 0 || v >= 6.0f ? 0.0f : 1.0f);
  if constexpr (Kind == kLeakyRelu) return g * (v < 0 ? slope : 1.0f);
  if constexpr (Kind == kSigmoid) return g * (v * (1.0f - v));
  if constexpr (Kind == kTanh) return g * ((1.0f - v) * (1.0f + v));
  if constexpr (Kind == kSilu) {
    const float e = expf(-fabsf(v)), rising = (v < 0 ? e : 1.0f) / (1.0f + e);  // sigmoid(v)
    const float falling = (v < 0 ? 1.0f : e) / (1.0f + e);                      // 1 - sigmoid(v)
    const float bounded = v < -200.0f ? -200.0f : v > 200.0f ? 200.0f : v;
    return g * (rising * (1.0f + bounded * falling));
  }
  if constexpr (Kind == kHardSwish) return g * (v <= -3.0f ? 0.0f : v >= 3.0f ? 1.0f : v / 3.0f + 0.5f);
  return g;
}

}  // namespace cnnfast::cuda
