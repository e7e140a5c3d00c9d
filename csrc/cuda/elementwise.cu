// Memory bound: every thread moves 16 bytes at a time where addresses allow it, in a grid-stride loop. What
// is done to an element is known at compile time, but for the rare functions.
#include "cuda/elementwise.h"

#include "cuda/activation.h"
#include "cuda/index.h"

namespace cnnfast::cuda {
namespace {

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
  ptx::begin_kernel();
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

template <class T>
__global__ void __launch_bounds__(kThreads) fill_kernel(T value, T* y, int64_t count) {
  ptx::begin_kernel();
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count; i += step)
    y[i] = value;
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

__device__ __forceinline__ float combine(Binary op, float a, float b) {
  switch (op) {
    case Binary::kAdd:
      return combine<Binary::kAdd>(a, b);
    case Binary::kMul:
      return combine<Binary::kMul>(a, b);
    case Binary::kSub:
      return combine<Binary::kSub>(a, b);
    case Binary::kDiv:
      return combine<Binary::kDiv>(a, b);
    case Binary::kPow:
      return combine<Binary::kPow>(a, b);
    case Binary::kMaximum:
      return combine<Binary::kMaximum>(a, b);
    case Binary::kMinimum:
      return combine<Binary::kMinimum>(a, b);
    default:
      return combine<Binary::kPrelu>(a, b);
  }
}

template <Binary Op>
struct Combined {
  __device__ float operator()(float a, float b) const { return combine<Op>(a, b); }
};

// With an activation, by codes.
struct AnyCombined {
  Binary op;
  int activation;
  float slope;
  __device__ float operator()(float a, float b) const {
    return activate(activation, combine(op, a, b), slope);
  }
};

template <int Kind>
struct ActivationGrad {
  float slope;
  __device__ float operator()(float g, float v) const { return activation_grad<Kind>(g, v, slope); }
};

// g times the derivative at v.
struct FunctionGrad {
  Unary function;
  float p, q;
  __device__ float operator()(float g, float v) const { return g * derivative(v); }

  __device__ float derivative(float v) const {
    switch (function) {
      case Unary::kNeg:
        return -1.0f;
      case Unary::kAbs:
        return v > 0 ? 1.0f : v < 0 ? -1.0f : v;
      case Unary::kSqrt:
        return 0.5f / v;
      case Unary::kExp:
        return v;
      case Unary::kLog:
        return 1.0f / v;
      case Unary::kReciprocal:
        return -v * v;
      case Unary::kClip:
        return v >= p && v <= q ? 1.0f : 0.0f;
      case Unary::kElu:
        return v < 0 ? p * expf(v) : 1.0f;
      case Unary::kHardSigmoid: {
        const float y = p * v + q;
        return y > 0 && y < 1 ? p : 0.0f;
      }
      case Unary::kErf:
        return 1.12837917f * expf(-v * v);  // 2 / sqrt(pi)
      default:                              // stairs
        return 0.0f;
    }
  }
};

// y[i] = f(a[i], b[i]), N elements at a time. Without the number of blocks registers are spilled.
template <int N, class T, class F>
__global__ void __launch_bounds__(kThreads, 4) pair_kernel(const T* a, const T* b, T* y, int64_t count, F f) {
  ptx::begin_kernel();
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i * N < count; i += step) {
    if ((i + 1) * N <= count) {
      float v[N], w[N];
      load_vector(a + i * N, v);
      load_vector(b + i * N, w);
#pragma unroll
      for (int j = 0; j < N; ++j) v[j] = f(v[j], w[j]);
      store_vector(y + i * N, v);
    } else {
      for (int64_t j = i * N; j < count; ++j) store(y + j, f(load(a + j), load(b + j)));
    }
  }
}

template <int N, class T, class F>
void launch_pairs(const void* a, const void* b, void* y, int64_t count, F f, cudaStream_t stream) {
  CNNFAST_LAUNCH((pair_kernel<N, T, F>), blocks_for(count, kThreads * N), kThreads, 0, stream,
                 static_cast<const T*>(a), static_cast<const T*>(b), static_cast<T*>(y), count, f);
}

template <class T>
constexpr int kElements = 16 / static_cast<int>(sizeof(T));

template <class T, class F>
void map_pairs(const void* a, const void* b, void* y, int64_t count, F f, cudaStream_t stream) {
  if (aligned(16, a, b, y)) return launch_pairs<kElements<T>, T>(a, b, y, count, f, stream);
  launch_pairs<1, T>(a, b, y, count, f, stream);
}

// A broadcast as a kernel walks through it: N neighbours of the innermost axis at a time.
struct Walk {
  int rank;
  int64_t count;
  Divider size[kMostAxes];
  int64_t a[kMostAxes], b[kMostAxes];
  bool a_repeats, b_repeats;  // along the innermost axis

  Walk(const Broadcast& s, int n) : rank(s.rank), count(s.count / n) {
    for (int axis = 0; axis < s.rank; ++axis) {
      const int along = axis + 1 == s.rank ? n : 1;
      size[axis] = Divider(s.size[axis] / along);
      a[axis] = s.a[axis] * along;
      b[axis] = s.b[axis] * along;
    }
    a_repeats = s.rank > 0 && s.a[s.rank - 1] == 0;
    b_repeats = s.rank > 0 && s.b[s.rank - 1] == 0;
  }
};

// Where element i of the result, or the first of N neighbours, lies in both operands.
struct Places {
  int64_t a = 0, b = 0;

  __device__ __forceinline__ Places(const Walk& s, int64_t i) {
#pragma unroll
    for (int axis = kMostAxes - 1; axis >= 0; --axis) {
      if (axis >= s.rank) continue;
      const Divided d = s.size[axis].divide(i);
      a += d.rest * s.a[axis];
      b += d.rest * s.b[axis];
      i = d.quotient;
    }
  }
};

template <int N, class T>
__device__ __forceinline__ void load_or_repeat(const T* p, bool repeats, float (&values)[N]) {
  if (!repeats) return load_vector(p, values);
  const float value = load(p);
#pragma unroll
  for (int j = 0; j < N; ++j) values[j] = value;
}

template <int N, class T, class F>
__global__ void __launch_bounds__(kThreads, 4)
    broadcast_kernel(const __grid_constant__ Walk s, const T* a, const T* b, T* y, F f) {
  ptx::begin_kernel();
  CNNFAST_EACH(i, s.count) {
    const Places at(s, i);
    float v[N], w[N];
    load_or_repeat(a + at.a, s.a_repeats, v);
    load_or_repeat(b + at.b, s.b_repeats, w);
#pragma unroll
    for (int j = 0; j < N; ++j) v[j] = f(v[j], w[j]);
    store_vector(y + i * N, v);
  }
}

template <int N, class T, class F>
void launch_broadcast(const Broadcast& s, const void* a, const void* b, void* y, F f, cudaStream_t stream) {
  const Walk walk(s, N);
  CNNFAST_LAUNCH((broadcast_kernel<N, T, F>), blocks_for(walk.count, kThreads), kThreads, 0, stream, walk,
                 static_cast<const T*>(a), static_cast<const T*>(b), static_cast<T*>(y), f);
}

// Whether N neighbours of the innermost axis lie side by side, or are one, in both operands. Steps of what is
// not repeated along it are multiples of its size, for operands are dense.
template <class T>
bool in_vectors(const Broadcast& s, const void* a, const void* b, const void* y) {
  return s.rank > 0 && s.size[s.rank - 1] % kElements<T> == 0 && aligned(16, a, b, y);
}

// All of the gradient to the winner, half of it each where both are equal; NaN has it too.
__device__ __forceinline__ float to_winner(float g, float winner, float loser) {
  return winner < loser ? 0.0f : winner == loser ? g * 0.5f : g;
}

__device__ __forceinline__ float gradient(BinaryGrad op, float g, float a, float b) {
  switch (op) {
    case BinaryGrad::kDivisor:
      return -(g * a) / b;
    case BinaryGrad::kBase:  // x^0 is 1 everywhere: no power of -1
      return g * (b * powf(a, b != 0 ? b - 1.0f : b));
    case BinaryGrad::kExponent:
      return g * (b == 0 ? 0.0f : b * logf(a));
    case BinaryGrad::kLarger:
      return to_winner(g, a, b);
    case BinaryGrad::kSmaller:
      return to_winner(g, b, a);
    case BinaryGrad::kPrelu:
      return a > 0 ? g : g * b;
    default:  // kSlope
      return a < 0 ? g * a : 0.0f;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) binary_grad_kernel(BinaryGrad op, const __grid_constant__ Walk s,
                                                               const T* g, const T* a, const T* b, T* y) {
  ptx::begin_kernel();
  CNNFAST_EACH(i, s.count) {
    const Places at(s, i);
    store(y + i, gradient(op, load(g + i), load(a + at.a), load(b + at.b)));
  }
}

// y = a op b of equal shapes at aligned addresses.
template <class T>
void combine_vectors(Binary op, const void* a, const void* b, void* y, int64_t count, cudaStream_t stream) {
  const auto run = [&](auto f) { launch_pairs<kElements<T>, T>(a, b, y, count, f, stream); };
  switch (op) {
    case Binary::kAdd:
      return run(Combined<Binary::kAdd>{});
    case Binary::kMul:
      return run(Combined<Binary::kMul>{});
    case Binary::kSub:
      return run(Combined<Binary::kSub>{});
    case Binary::kDiv:
      return run(Combined<Binary::kDiv>{});
    case Binary::kPow:
      return run(Combined<Binary::kPow>{});
    case Binary::kMaximum:
      return run(Combined<Binary::kMaximum>{});
    case Binary::kMinimum:
      return run(Combined<Binary::kMinimum>{});
    case Binary::kPrelu:
      return run(Combined<Binary::kPrelu>{});
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
        return map_pairs<T>(g, v, dx, count, ActivationGrad<kRelu>{slope}, stream);
      case kRelu6:
        return map_pairs<T>(g, v, dx, count, ActivationGrad<kRelu6>{slope}, stream);
      case kLeakyRelu:
        return map_pairs<T>(g, v, dx, count, ActivationGrad<kLeakyRelu>{slope}, stream);
      case kSigmoid:
        return map_pairs<T>(g, v, dx, count, ActivationGrad<kSigmoid>{slope}, stream);
      case kTanh:
        return map_pairs<T>(g, v, dx, count, ActivationGrad<kTanh>{slope}, stream);
      case kSilu:
        return map_pairs<T>(g, v, dx, count, ActivationGrad<kSilu>{slope}, stream);
      default:
        return map_pairs<T>(g, v, dx, count, ActivationGrad<kHardSwish>{slope}, stream);
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

void unary_grad(DType type, Unary function, float p, float q, const void* g, const void* v, void* dx,
                int64_t count, cudaStream_t stream) {
  if (count == 0) return;
  dispatch_float(type, [&](auto element) {
    map_pairs<decltype(element)>(g, v, dx, count, FunctionGrad{function, p, q}, stream);
  });
}

void binary(DType type, Binary op, const Broadcast& s, const void* a, const void* b, int activation,
            float slope, void* y, cudaStream_t stream) {
  if (s.count == 0) return;
  const bool alike = s.rank == 0 || (s.rank == 1 && s.a[0] == 1 && s.b[0] == 1);
  const AnyCombined f{op, activation, slope};
  dispatch_float(type, [&](auto element) {
    using T = decltype(element);
    if (alike && activation == kNone && aligned(16, a, b, y))
      return combine_vectors<T>(op, a, b, y, s.count, stream);
    if (alike) return map_pairs<T>(a, b, y, s.count, f, stream);
    // What networks are full of, gates and shifts of channels, has kernels of its own.
    if (activation == kNone && (op == Binary::kAdd || op == Binary::kMul) && in_vectors<T>(s, a, b, y)) {
      constexpr int kN = kElements<T>;
      if (op == Binary::kAdd) return launch_broadcast<kN, T>(s, a, b, y, Combined<Binary::kAdd>{}, stream);
      return launch_broadcast<kN, T>(s, a, b, y, Combined<Binary::kMul>{}, stream);
    }
    launch_broadcast<1, T>(s, a, b, y, f, stream);
  });
}

void binary_grad(DType type, BinaryGrad op, const Broadcast& s, const void* g, const void* a, const void* b,
                 void* dx, cudaStream_t stream) {
  if (s.count == 0) return;
  dispatch_float(type, [&](auto element) {
    using T = decltype(element);
    CNNFAST_LAUNCH((binary_grad_kernel<T>), blocks_for(s.count, kThreads), kThreads, 0, stream, op,
                   Walk(s, 1), static_cast<const T*>(g), static_cast<const T*>(a), static_cast<const T*>(b),
                   static_cast<T*>(dx));
  });
}

void fill(DType type, float value, void* y, int64_t count, cudaStream_t stream) {
  if (count == 0) return;
  dispatch_float(type, [&](auto element) {
    using T = decltype(element);
    CNNFAST_LAUNCH((fill_kernel<T>), blocks_for(count, kThreads), kThreads, 0, stream, from_float<T>(value),
                   static_cast<T*>(y), count);
  });
}

void cast(DType from, const void* x, DType to, void* y, int64_t count, cudaStream_t stream) {
  dispatch_float(from, [&](auto source) {
    dispatch_float(
        to, [&](auto target) { map<decltype(source), decltype(target)>(x, y, count, Same{}, stream); });
  });
}

}  // namespace cnnfast::cuda
