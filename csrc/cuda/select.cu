// Element by element where types differ, or where more than one array goes in; memory bound.
#include "cuda/select.h"

#include "cuda/index.h"

namespace cnnfast::cuda {
namespace {

constexpr int kMostDims = 6;

// Operands of one common shape; steps of 0 repeat.
template <int N>
struct Operands {
  int rank = 0;
  int64_t count = 1;
  Divider size[kMostDims];
  int64_t step[kMostDims][N] = {};

  // Where element i lies in every operand.
  __device__ __forceinline__ void place(int64_t i, int64_t (&at)[N]) const {
#pragma unroll
    for (int n = 0; n < N; ++n) at[n] = 0;
#pragma unroll
    for (int axis = kMostDims - 1; axis >= 0; --axis) {
      if (axis >= rank) continue;
      const Divided d = size[axis].divide(i);
#pragma unroll
      for (int n = 0; n < N; ++n) at[n] += d.rest * step[axis][n];
      i = d.quotient;
    }
  }
};

template <int N>
Operands<N> operands(const Shape& out, const Shape* const (&shapes)[N]) {
  struct Axis {
    int64_t size, step[N];
  };
  std::vector<Axis> axes;  // innermost first
  int64_t steps[N];
  for (int64_t& step : steps) step = 1;
  Operands<N> s;
  for (size_t i = 0; i < out.size(); ++i) {
    Axis a{out[out.size() - 1 - i], {}};
    s.count *= a.size;
    bool merge = !axes.empty();
    for (int n = 0; n < N; ++n) {
      const Shape& shape = *shapes[n];
      const int64_t size = i < shape.size() ? shape[shape.size() - 1 - i] : 1;
      a.step[n] = size == 1 ? 0 : steps[n];
      steps[n] *= size;
      merge = merge && a.step[n] == axes.back().step[n] * axes.back().size;
    }
    if (a.size == 1) continue;
    if (merge)
      axes.back().size *= a.size;
    else
      axes.push_back(a);
  }
  if (axes.size() > kMostDims)
    throw std::invalid_argument("broadcast: more axes than six differ in how they repeat");
  s.rank = static_cast<int>(axes.size());
  for (int i = 0; i < s.rank; ++i) {
    const Axis& a = axes[axes.size() - 1 - static_cast<size_t>(i)];
    s.size[i] = Divider(a.size);
    for (int n = 0; n < N; ++n) s.step[i][n] = a.step[n];
  }
  return s;
}

__device__ __forceinline__ float value(BFloat16 x) { return to_float(x); }
__device__ __forceinline__ float value(Half x) { return to_float(x); }
template <class T>
__device__ __forceinline__ T value(T x) {
  return x;
}

template <class T, Comparison Op>
__global__ void __launch_bounds__(kThreads)
    compare_kernel(Operands<2> s, const T* a, const T* b, uint8_t* y) {
  ptx::begin_kernel();
  CNNFAST_EACH(i, s.count) {
    int64_t at[2];
    s.place(i, at);
    const auto p = value(a[at[0]]), q = value(b[at[1]]);
    y[i] = Op == Comparison::kEqual ? p == q : Op == Comparison::kGreater ? p > q : p < q;
  }
}

template <class U>
__global__ void __launch_bounds__(kThreads)
    where_kernel(Operands<3> s, const uint8_t* condition, const U* a, const U* b, U* y) {
  ptx::begin_kernel();
  CNNFAST_EACH(i, s.count) {
    int64_t at[3];
    s.place(i, at);
    y[i] = condition[at[0]] ? a[at[1]] : b[at[2]];
  }
}

__global__ void __launch_bounds__(kThreads) not_kernel(const uint8_t* x, uint8_t* y, int64_t count) {
  ptx::begin_kernel();
  CNNFAST_EACH(i, count) y[i] = x[i] == 0;
}

// bool apart from uint8, with which it shares its storage.
struct Truth {
  uint8_t value;
};
__device__ __forceinline__ uint8_t value(Truth x) { return x.value; }

template <class To>
struct Converted {
  template <class V>
  __device__ static To from(V x) {
    return static_cast<To>(x);
  }
};
template <>
struct Converted<Truth> {
  template <class V>
  __device__ static Truth from(V x) {
    return {static_cast<uint8_t>(x != 0)};
  }
};
template <>
struct Converted<BFloat16> {
  template <class V>
  __device__ static BFloat16 from(V x) {
    return from_float<BFloat16>(static_cast<float>(x));
  }
};
template <>
struct Converted<Half> {
  template <class V>
  __device__ static Half from(V x) {
    return from_float<Half>(static_cast<float>(x));
  }
};
template <>
struct Converted<uint8_t> {
  template <class V>
  __device__ static uint8_t from(V x) {
    return static_cast<uint8_t>(static_cast<int64_t>(x));  // modulo 256, as NumPy has it on this machine
  }
};

template <class From, class To>
__global__ void __launch_bounds__(kThreads) convert_kernel(const From* x, To* y, int64_t count) {
  ptx::begin_kernel();
  CNNFAST_EACH(i, count) y[i] = Converted<To>::from(value(x[i]));
}

template <class F>
void dispatch_all(DType type, F&& body) {
  switch (type) {
    case DType::kInt64:
      return body(int64_t{});
    case DType::kInt32:
      return body(int32_t{});
    case DType::kUInt8:
      return body(uint8_t{});
    case DType::kBool:
      return body(Truth{});
    default:
      return dispatch_float(type, body);
  }
}

}  // namespace

void compare(DType type, Comparison op, const Shape& out, const Shape& a_shape, const Shape& b_shape,
             const void* a, const void* b, uint8_t* y, cudaStream_t stream) {
  const Operands<2> s = operands<2>(out, {&a_shape, &b_shape});
  if (s.count == 0) return;
  const unsigned blocks = blocks_for(s.count, kThreads);
  dispatch_all(type, [&](auto element) {
    using T = decltype(element);
    const auto *p = static_cast<const T*>(a), *q = static_cast<const T*>(b);
    switch (op) {
      case Comparison::kEqual:
        CNNFAST_LAUNCH((compare_kernel<T, Comparison::kEqual>), blocks, kThreads, 0, stream, s, p, q, y);
        break;
      case Comparison::kGreater:
        CNNFAST_LAUNCH((compare_kernel<T, Comparison::kGreater>), blocks, kThreads, 0, stream, s, p, q, y);
        break;
      default:
        CNNFAST_LAUNCH((compare_kernel<T, Comparison::kLess>), blocks, kThreads, 0, stream, s, p, q, y);
    }
  });
}

void where(DType type, const Shape& out, const Shape& condition_shape, const Shape& a_shape,
           const Shape& b_shape, const uint8_t* condition, const void* a, const void* b, void* y,
           cudaStream_t stream) {
  const Operands<3> s = operands<3>(out, {&condition_shape, &a_shape, &b_shape});
  if (s.count == 0) return;
  dispatch_size(type, [&](auto unit) {
    using U = decltype(unit);
    CNNFAST_LAUNCH((where_kernel<U>), blocks_for(s.count, kThreads), kThreads, 0, stream, s, condition,
                   static_cast<const U*>(a), static_cast<const U*>(b), static_cast<U*>(y));
  });
}

void logical_not(const uint8_t* x, uint8_t* y, int64_t count, cudaStream_t stream) {
  if (count == 0) return;
  CNNFAST_LAUNCH((not_kernel), blocks_for(count, kThreads), kThreads, 0, stream, x, y, count);
}

void convert(DType from, const void* x, DType to, void* y, int64_t count, cudaStream_t stream) {
  if (count == 0) return;
  dispatch_all(from, [&](auto source) {
    dispatch_all(to, [&](auto target) {
      using From = decltype(source);
      using To = decltype(target);
      CNNFAST_LAUNCH((convert_kernel<From, To>), blocks_for(count, kThreads), kThreads, 0, stream,
                     static_cast<const From*>(x), static_cast<To*>(y), count);
    });
  });
}

}  // namespace cnnfast::cuda
