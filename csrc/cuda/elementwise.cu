// Memory bound: every thread moves 16 bytes at a time where addresses allow it, in a grid-stride loop. What
// is done to an element is known at compile time, but for the rare functions.
#include "cuda/elementwise.h"

#include "cuda/activation.h"
#include "cuda/device.h"

namespace cnnfast::cuda {
namespace {

constexpr int kThreads = 256;

// --- one array -------------------------------------------------------------------------------------

template <int Kind>
struct Activation {
  float slope;
  __device__ float operator()(float x) const { return activate<Kind>(x, slope); }
};

struct Function {
  Unary function;
  float p, q;
  __device__ float operator()(float x) const {
    switch (function) {
      case Unary::kNeg:
        return -x;
      case Unary::kAbs:
        return fabsf(x);
      case Unary::kSqrt:
        return sqrtf(x);
      case Unary::kExp:
        return expf(x);
      case Unary::kLog:
        return logf(x);
      case Unary::kReciprocal:
        return 1.0f / x;
      case Unary::kFloor:
        return floorf(x);
      case Unary::kCeil:
        return ceilf(x);
      case Unary::kClip: {
        const float low = x < p ? p : x;
        return low > q ? q : low;
      }
      case Unary::kElu:
        return x < 0 ? p * expm1f(x) : x;
      case Unary::kHardSigmoid: {
        const float y = p * x + q, low = y < 0 ? 0.0f : y;
        return low > 1 ? 1.0f : low;
      }
      default:
        return erff(x);
    }
  }
};

// y[i] = f(x[i]), N elements at a time.
template <int N, class From, class To, class F>
__global__ void __launch_bounds__(kThreads) map_kernel(const From* x, To* y, int64_t count, F f) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i * N < count; i += step) {
    if ((i + 1) * N <= count) {
      float v[N];
      load_vector(x + i * N, v);
#pragma unroll
      for (int j = 0; j < N; ++j) v[j] = f(v[j]);
      store_vector(y + i * N, v);
    } else {
      for (int64_t j = i * N; j < count; ++j) store(y + j, f(load(x + j)));
    }
  }
}

template <class From, class To, class F>
void map(const void* x, void* y, int64_t count, F f, cudaStream_t stream) {
  if (count == 0) return;
  constexpr int kVector = 16 / static_cast<int>(sizeof(From) > sizeof(To) ? sizeof(From) : sizeof(To));
  const auto* from = static_cast<const From*>(x);
  auto* to = static_cast<To*>(y);
  if (aligned(16, x, y))
    CNNFAST_LAUNCH((map_kernel<kVector, From, To, F>), blocks_for(count, kThreads * kVector), kThreads, 0,
                   stream, from, to, count, f);
  else
    CNNFAST_LAUNCH((map_kernel<1, From, To, F>), blocks_for(count, kThreads), kThreads, 0, stream, from, to,
                   count, f);
}

struct Same {
  __device__ float operator()(float x) const { return x; }
};

// --- two arrays ------------------------------------------------------------------------------------

template <Binary Op>
__device__ __forceinline__ float combine(float a, float b) {
  if constexpr (Op == Binary::kAdd) return a + b;
  if constexpr (Op == Binary::kMul) return a * b;
  if constexpr (Op == Binary::kSub) return a - b;
  if constexpr (Op == Binary::kDiv) return a / b;
  if constexpr (Op == Binary::kPow) return powf(a, b);
  // NaN of either side comes through, as NumPy's.
  if constexpr (Op == Binary::kMaximum) return a > b || a != a ? a : b;
  if constexpr (Op == Binary::kMinimum) return a < b || a != a ? a : b;
  return a < 0 ? a * b : a;  // kPrelu
}

template <int N, class T, Binary Op>
__global__ void __launch_bounds__(kThreads)
    alike_kernel(const T* a, const T* b, T* y, int64_t count, int activation, float slope) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i * N < count; i += step) {
    if ((i + 1) * N <= count) {
      float v[N], w[N];
      load_vector(a + i * N, v);
      load_vector(b + i * N, w);
#pragma unroll
      for (int j = 0; j < N; ++j) v[j] = activate(activation, combine<Op>(v[j], w[j]), slope);
      store_vector(y + i * N, v);
    } else {
      for (int64_t j = i * N; j < count; ++j)
        store(y + j, activate(activation, combine<Op>(load(a + j), load(b + j)), slope));
    }
  }
}

template <int N, class T, int Kind>
__global__ void __launch_bounds__(kThreads)
    activation_grad_kernel(const T* g, const T* v, T* dx, int64_t count, float slope) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i * N < count; i += step) {
    if ((i + 1) * N <= count) {
      float a[N], b[N];
      load_vector(g + i * N, a);
      load_vector(v + i * N, b);
#pragma unroll
      for (int j = 0; j < N; ++j) a[j] = activation_grad<Kind>(a[j], b[j], slope);
      store_vector(dx + i * N, a);
    } else {
      for (int64_t j = i * N; j < count; ++j)
        store(dx + j, activation_grad<Kind>(load(g + j), load(v + j), slope));
    }
  }
}

template <class T, int Kind>
void activation_grad_of(float slope, const void* g, const void* v, void* dx, int64_t count,
                        cudaStream_t stream) {
  const auto *from = static_cast<const T*>(g), *at = static_cast<const T*>(v);
  auto* to = static_cast<T*>(dx);
  constexpr int kVector = 16 / static_cast<int>(sizeof(T));
  if (aligned(16, g, v, dx))
    CNNFAST_LAUNCH((activation_grad_kernel<kVector, T, Kind>), blocks_for(count, kThreads * kVector),
                   kThreads, 0, stream, from, at, to, count, slope);
  else
    CNNFAST_LAUNCH((activation_grad_kernel<1, T, Kind>), blocks_for(count, kThreads), kThreads, 0, stream,
                   from, at, to, count, slope);
}

template <class T, Binary Op>
__global__ void __launch_bounds__(kThreads)
    broadcast_kernel(Broadcast s, const T* a, const T* b, T* y, int activation, float slope) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < s.count; i += step) {
    int64_t rest = i, at_a = 0, at_b = 0;
#pragma unroll
    for (int axis = kMostAxes - 1; axis >= 0; --axis) {
      if (axis >= s.rank) continue;
      const int64_t next = rest / s.size[axis], index = rest - next * s.size[axis];
      at_a += index * s.a[axis];
      at_b += index * s.b[axis];
      rest = next;
    }
    store(y + i, activate(activation, combine<Op>(load(a + at_a), load(b + at_b)), slope));
  }
}

template <class T, Binary Op>
void binary_of(const Broadcast& s, const void* a, const void* b, int activation, float slope, void* y,
               cudaStream_t stream) {
  const auto *x = static_cast<const T*>(a), *w = static_cast<const T*>(b);
  auto* to = static_cast<T*>(y);
  constexpr int kVector = 16 / static_cast<int>(sizeof(T));
  const bool alike = s.rank == 0 || (s.rank == 1 && s.a[0] == 1 && s.b[0] == 1);
  if (alike && aligned(16, a, b, y))
    CNNFAST_LAUNCH((alike_kernel<kVector, T, Op>), blocks_for(s.count, kThreads * kVector), kThreads, 0,
                   stream, x, w, to, s.count, activation, slope);
  else
    CNNFAST_LAUNCH((broadcast_kernel<T, Op>), blocks_for(s.count, kThreads), kThreads, 0, stream, s, x, w, to,
                   activation, slope);
}

template <class T>
void binary_of(Binary op, const Broadcast& s, const void* a, const void* b, int activation, float slope,
               void* y, cudaStream_t stream) {
  switch (op) {
    case Binary::kAdd:
      return binary_of<T, Binary::kAdd>(s, a, b, activation, slope, y, stream);
    case Binary::kMul:
      return binary_of<T, Binary::kMul>(s, a, b, activation, slope, y, stream);
    case Binary::kSub:
      return binary_of<T, Binary::kSub>(s, a, b, activation, slope, y, stream);
    case Binary::kDiv:
      return binary_of<T, Binary::kDiv>(s, a, b, activation, slope, y, stream);
    case Binary::kPow:
      return binary_of<T, Binary::kPow>(s, a, b, activation, slope, y, stream);
    case Binary::kMaximum:
      return binary_of<T, Binary::kMaximum>(s, a, b, activation, slope, y, stream);
    case Binary::kMinimum:
      return binary_of<T, Binary::kMinimum>(s, a, b, activation, slope, y, stream);
    case Binary::kPrelu:
      return binary_of<T, Binary::kPrelu>(s, a, b, activation, slope, y, stream);
  }
}

}  // namespace

void activate(DType type, int kind, float slope, const void* x, void* y, int64_t count, cudaStream_t stream) {
  dispatch_float(type, [&](auto element) {
    using T = decltype(element);
    switch (kind) {
      case kRelu:
        return map<T, T>(x, y, count, Activation<kRelu>{slope}, stream);
      case kRelu6:
        return map<T, T>(x, y, count, Activation<kRelu6>{slope}, stream);
      case kLeakyRelu:
        return map<T, T>(x, y, count, Activation<kLeakyRelu>{slope}, stream);
      case kSigmoid:
        return map<T, T>(x, y, count, Activation<kSigmoid>{slope}, stream);
      case kTanh:
        return map<T, T>(x, y, count, Activation<kTanh>{slope}, stream);
      case kSilu:
        return map<T, T>(x, y, count, Activation<kSilu>{slope}, stream);
      case kHardSwish:
        return map<T, T>(x, y, count, Activation<kHardSwish>{slope}, stream);
      default:
        return map<T, T>(x, y, count, Same{}, stream);
    }
  });
}

void activation_grad(DType type, int kind, float slope, const void* g, const void* v, void* dx, int64_t count,
                     cudaStream_t stream) {
  if (count == 0) return;
  dispatch_float(type, [&](auto element) {
    using T = decltype(element);
    switch (kind) {
      case kRelu:
        return activation_grad_of<T, kRelu>(slope, g, v, dx, count, stream);
      case kRelu6:
        return activation_grad_of<T, kRelu6>(slope, g, v, dx, count, stream);
      case kLeakyRelu:
        return activation_grad_of<T, kLeakyRelu>(slope, g, v, dx, count, stream);
      case kSigmoid:
        return activation_grad_of<T, kSigmoid>(slope, g, v, dx, count, stream);
      case kTanh:
        return activation_grad_of<T, kTanh>(slope, g, v, dx, count, stream);
      case kSilu:
        return activation_grad_of<T, kSilu>(slope, g, v, dx, count, stream);
      default:
        return activation_grad_of<T, kHardSwish>(slope, g, v, dx, count, stream);
    }
  });
}

void unary(DType type, Unary function, float p, float q, const void* x, void* y, int64_t count,
           cudaStream_t stream) {
  dispatch_float(type, [&](auto element) {
    using T = decltype(element);
    map<T, T>(x, y, count, Function{function, p, q}, stream);
  });
}

void binary(DType type, Binary op, const Broadcast& s, const void* a, const void* b, int activation,
            float slope, void* y, cudaStream_t stream) {
  if (s.count == 0) return;
  dispatch_float(
      type, [&](auto element) { binary_of<decltype(element)>(op, s, a, b, activation, slope, y, stream); });
}

void cast(DType from, const void* x, DType to, void* y, int64_t count, cudaStream_t stream) {
  dispatch_float(from, [&](auto source) {
    dispatch_float(
        to, [&](auto target) { map<decltype(source), decltype(target)>(x, y, count, Same{}, stream); });
  });
}

}  // namespace cnnfast::cuda
