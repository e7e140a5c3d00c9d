// Reductions. One read of x: bytes / bandwidth is the limit. Sums are in double precision (one conversion and
// one addition per element, which even GPUs with few units of it do as fast as their memory delivers). Where
// there are few columns each is cut into parts, whose results are combined by a second launch.
#include "cuda/reduce.h"

#include <cmath>

#include "cuda/columns.h"
#include "cuda/sort.h"

namespace cnnfast::cuda {
namespace {

__device__ __forceinline__ double wide(double x) { return x; }
template <class T>
__device__ __forceinline__ double wide(const T& x) {
  return to_float(x);
}

template <Reduction R>
__device__ __forceinline__ double fold(double a, double b) {
  if (R == Reduction::kMax) return Larger()(a, b);
  if (R == Reduction::kMin) return Smaller()(a, b);
  return a + b;
}

// In is T, or double for what an earlier launch found; Out is double for parts of columns. Squares are taken
// of elements alone, means and roots of results alone.
template <Reduction R, class In, class Out>
__global__ void __launch_bounds__(kColumnThreads)
    reduce_kernel(Columns c, double factor, const In* x, Out* y) {
  ptx::begin_kernel();
  CNNFAST_SHARED(double, room, [kColumnThreads]);
  constexpr bool kSquares = R == Reduction::kLength && !std::is_same<In, double>::value;
  constexpr bool kLast = !std::is_same<Out, double>::value;
  const ColumnPart part(c);
  double total = R == Reduction::kMax ? -INFINITY : R == Reduction::kMin ? INFINITY : 0;
#pragma unroll 4
  for (int64_t k = part.first; k < part.end; k += part.step) {
    const double v = wide(x[part.index(c, k)]);
    total = fold<R>(total, kSquares ? v * v : v);
  }
  total = combine(c, total, room, [](double a, double b) { return fold<R>(a, b); });
  if (!part.lead) return;
  if constexpr (kLast) {
    if (R == Reduction::kMean) total *= factor;
    if (R == Reduction::kLength) total = sqrt(total);
    store(y + part.outer * c.inner + part.inner, static_cast<float>(total));
  } else {
    y[(part.outer * c.splits + blockIdx.y) * c.inner + part.inner] = total;
  }
}

template <Reduction R>
void run(DType type, int64_t outer, int64_t k, int64_t inner, const void* x, void* y, void* workspace,
         cudaStream_t stream) {
  const Columns c = split_columns(outer, k, inner);
  const double factor = 1.0 / static_cast<double>(k);
  dispatch_float(type, [&](auto element) {
    using T = decltype(element);
    const auto* in = static_cast<const T*>(x);
    auto* out = static_cast<T*>(y);
    if (c.splits == 1) {
      CNNFAST_LAUNCH((reduce_kernel<R, T, T>), c.grid(), kColumnThreads, 0, stream, c, factor, in, out);
      return;
    }
    auto* parts = static_cast<double*>(workspace);
    CNNFAST_LAUNCH((reduce_kernel<R, T, double>), c.grid(), kColumnThreads, 0, stream, c, factor, in, parts);
    const Columns rest = columns(outer, c.splits, inner);
    CNNFAST_LAUNCH((reduce_kernel<R, double, T>), rest.grid(), kColumnThreads, 0, stream, rest, factor, parts,
                   out);
  });
}

struct Best {
  float value;
  int64_t place;  // -1: none yet
};
__device__ __forceinline__ bool beats(const Best& a, const Best& b) {
  if (b.place < 0 || a.place < 0) return b.place < 0;
  const bool a_nan = a.value != a.value, b_nan = b.value != b.value;
  if (a_nan || b_nan) return a_nan && (!b_nan || a.place < b.place);
  return a.value > b.value || (a.value == b.value && a.place < b.place);
}

template <class T>
__global__ void __launch_bounds__(kColumnThreads) argmax_kernel(Columns c, const T* x, int64_t* y) {
  ptx::begin_kernel();
  CNNFAST_SHARED(float, values, [kColumnThreads]);
  CNNFAST_SHARED(int64_t, places, [kColumnThreads]);
  const ColumnPart part(c);
  Best best{0, -1};
  for (int64_t k = part.first; k < part.end; k += part.step) {
    const Best here{load(x + part.index(c, k)), k};
    if (beats(here, best)) best = here;
  }
  const int t = threadIdx.x, bx = 1 << c.log_x;
  values[t] = best.value;
  places[t] = best.place;
  __syncthreads();
  for (int y_step = (1 << c.log_y) / 2; y_step > 0; y_step /= 2) {
    const int other = t + y_step * bx;
    const bool mine = ((t >> c.log_x) & ((1 << c.log_y) - 1)) < y_step;
    if (mine) {
      const Best theirs{values[other], places[other]};
      if (beats(theirs, best)) best = theirs;
      values[t] = best.value;
      places[t] = best.place;
    }
    __syncthreads();
  }
  if (part.lead) y[part.outer * c.inner + part.inner] = best.place;
}

// Columns of outer x k x inner as rows of k keys that rise, or fall, with the values.
template <class T>
__global__ void __launch_bounds__(kThreads)
    column_keys_kernel(int64_t count, Divider length, Divider inner, int64_t k, int64_t width, bool falling,
                       const T* x, Key* keys) {
  ptx::begin_kernel();
  CNNFAST_EACH(i, count) {
    const Divided row = length.divide(i), column = inner.divide(row.quotient);
    const uint32_t bits = rising_bits(load(x + (column.quotient * k + row.rest) * width + column.rest));
    keys[i] = make_key(falling ? ~bits : bits, row.rest);
  }
}

// Result j of a column (o, c) is key j of its row.
template <class T>
__global__ void __launch_bounds__(kThreads)
    first_kernel(int64_t total, Divider inner, Divider taken, int64_t k, int64_t width, const T* x,
                 const Key* keys, T* values, int64_t* places) {
  ptx::begin_kernel();
  CNNFAST_EACH(i, total) {
    const Divided c = inner.divide(i), j = taken.divide(c.quotient);
    const int64_t place = place_of(keys[(j.quotient * width + c.rest) * k + j.rest]);
    values[i] = x[(j.quotient * k + place) * width + c.rest];
    places[i] = place;
  }
}

// Every place of x is asked for once, at most.
template <class T>
__global__ void __launch_bounds__(kThreads)
    scatter_kernel(int64_t total, Divider inner, Divider taken, int64_t k, int64_t width, const T* g,
                   const int64_t* places, T* dx) {
  ptx::begin_kernel();
  CNNFAST_EACH(i, total) {
    const Divided c = inner.divide(i);
    dx[(taken.quotient(c.quotient) * k + places[i]) * width + c.rest] = g[i];
  }
}

}  // namespace

int64_t reduce_workspace(int64_t outer, int64_t k, int64_t inner) {
  const Columns c = split_columns(outer, k, inner);
  return c.splits == 1 ? 0 : c.count() * c.splits * static_cast<int64_t>(sizeof(double));
}

void reduce(Reduction reduction, DType type, int64_t outer, int64_t k, int64_t inner, const void* x, void* y,
            void* workspace, cudaStream_t stream) {
  if (outer * inner == 0) return;
  switch (reduction) {
    case Reduction::kSum:
      return run<Reduction::kSum>(type, outer, k, inner, x, y, workspace, stream);
    case Reduction::kMean:
      return run<Reduction::kMean>(type, outer, k, inner, x, y, workspace, stream);
    case Reduction::kMax:
      return run<Reduction::kMax>(type, outer, k, inner, x, y, workspace, stream);
    case Reduction::kMin:
      return run<Reduction::kMin>(type, outer, k, inner, x, y, workspace, stream);
    case Reduction::kLength:
      return run<Reduction::kLength>(type, outer, k, inner, x, y, workspace, stream);
  }
}

void argmax(DType type, int64_t outer, int64_t k, int64_t inner, const void* x, int64_t* y,
            cudaStream_t stream) {
  if (outer * inner == 0) return;
  const Columns c = columns(outer, k, inner);
  dispatch_float(type, [&](auto element) {
    using T = decltype(element);
    CNNFAST_LAUNCH((argmax_kernel<T>), c.grid(), kColumnThreads, 0, stream, c, static_cast<const T*>(x), y);
  });
}

int64_t topk_workspace(int64_t outer, int64_t k, int64_t inner) {
  return 2 * outer * k * inner * static_cast<int64_t>(sizeof(Key));
}

void topk(DType type, int64_t outer, int64_t k, int64_t inner, int64_t count, bool largest, const void* x,
          void* values, int64_t* places, void* workspace, cudaStream_t stream) {
  const int64_t all = outer * k * inner, total = outer * count * inner;
  if (total == 0) return;
  auto* keys = static_cast<Key*>(workspace);
  dispatch_float(type, [&](auto element) {
    using T = decltype(element);
    const auto* from = static_cast<const T*>(x);
    CNNFAST_LAUNCH((column_keys_kernel<T>), blocks_for(all, kThreads), kThreads, 0, stream, all, Divider(k),
                   Divider(inner), k, inner, largest, from, keys);
    const Key* sorted = sort_rows(outer * inner, k, keys, keys + all, stream);
    CNNFAST_LAUNCH((first_kernel<T>), blocks_for(total, kThreads), kThreads, 0, stream, total, Divider(inner),
                   Divider(count), k, inner, from, sorted, static_cast<T*>(values), places);
  });
}

void topk_grad(DType type, int64_t outer, int64_t k, int64_t inner, int64_t count, const void* g,
               const int64_t* places, void* dx, cudaStream_t stream) {
  const int64_t total = outer * count * inner;
  if (outer * k * inner == 0) return;
  CNNFAST_CUDA_CHECK(cudaMemsetAsync(dx, 0, static_cast<size_t>(outer * k * inner * size_of(type)), stream));
  if (total == 0) return;
  dispatch_float(type, [&](auto element) {
    using T = decltype(element);
    CNNFAST_LAUNCH((scatter_kernel<T>), blocks_for(total, kThreads), kThreads, 0, stream, total,
                   Divider(inner), Divider(count), k, inner, static_cast<const T*>(g), places,
                   static_cast<T*>(dx));
  });
}

}  // namespace cnnfast::cuda
