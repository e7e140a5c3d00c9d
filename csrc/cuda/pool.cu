// Pooling. A thread makes 16 bytes of channels of one output pixel; windows that overlap read x again from
// the caches, so that the limit is one read of x and one write of y. Gradients gather: a thread adds up, in
// their order, the windows that its input pixel lies in, so that nothing is added atomically and every run
// gives the same bits.
#include "cuda/pool.h"

#include <cmath>

#include "cuda/index.h"

namespace cnnfast::cuda {
namespace {

enum class Pool { kMax, kAverage, kLength };

// Pixels of window i along an axis that count in an average.
__device__ __forceinline__ int64_t counted(int64_t i, int64_t stride, int64_t size, int64_t before,
                                           int64_t after, int64_t length, bool include_pad) {
  int64_t start = i * stride - before;
  int64_t end = start + size < length + after ? start + size : length + after;
  if (!include_pad) {
    if (start < 0) start = 0;
    if (end > length) end = length;
  }
  return end - start;
}
__device__ __forceinline__ float divisor(const PoolShape& s, int p, int q) {
  return static_cast<float>(counted(p, s.stride_h, s.size_h, s.pad_top, s.pad_bottom, s.h, s.include_pad) *
                            counted(q, s.stride_w, s.size_w, s.pad_left, s.pad_right, s.w, s.include_pad));
}

// sum / count without the branches of a general division: one step of correction rounds it as that would be.
__device__ __forceinline__ float average(float sum, float count) {
  const float inverse = __fdividef(1.0f, count), near = sum * inverse;
  const float exact = fmaf(fmaf(-near, count, sum), inverse, near);
  return fabsf(near) < INFINITY ? exact : near;
}

// The square root of what is not negative, likewise.
__device__ __forceinline__ float root(float x) {
  const float inverse = rsqrtf(x), near = x * inverse;
  const float exact = fmaf(fmaf(-near, near, x), 0.5f * inverse, near);
  return x > 0 && x < INFINITY ? exact : x;
}

// From an index over groups of channels, in C order, to what they are.
struct Pixels {
  Divider groups, columns, rows;
  int64_t count;

  Pixels(int64_t n, int rows, int columns, int groups)
      : groups(groups), columns(columns), rows(rows), count(n * rows * columns * groups) {}
};
struct Pixel {
  int64_t n;
  int row, column, channel;

  __device__ __forceinline__ Pixel(int64_t i, const Pixels& of, int v) {
    const Divided c = of.groups.divide(i), x = of.columns.divide(c.quotient), y = of.rows.divide(x.quotient);
    n = y.quotient;
    row = static_cast<int>(y.rest), column = static_cast<int>(x.rest), channel = static_cast<int>(c.rest) * v;
  }
};

// Blocks that a multiprocessor shall hold. Where nothing is said, some targets are given fewer registers than
// are needed.
constexpr int kBlocks = 4;

// y may be null where positions are asked for.
template <class T, int V, Pool Kind, bool Positions>
__global__ void __launch_bounds__(kThreads, kBlocks)
    pool_kernel(PoolShape s, Pixels out, const T* x, T* y, int64_t* positions) {
  ptx::begin_kernel();
  CNNFAST_EACH(i, out.count) {
    const Pixel at(i, out, V);
    float best[V];
    [[maybe_unused]] int64_t where[V];
#pragma unroll
    for (int v = 0; v < V; ++v) {
      best[v] = Kind == Pool::kMax ? -INFINITY : 0.0f;
      if (Positions) where[v] = -1;
    }
    const T* picture = x + at.n * s.h * s.w * s.c + at.channel;
    const int top = at.row * s.stride_h - s.top, left = at.column * s.stride_w - s.left;
    for (int a = 0; a < s.kernel_h; ++a) {
      const int row = top + a * s.dilation_h;
      if (row < 0 || row >= s.h) continue;
      for (int b = 0; b < s.kernel_w; ++b) {
        const int column = left + b * s.dilation_w;
        if (column < 0 || column >= s.w) continue;
        float values[V];
        load_vector<V>(picture + (static_cast<int64_t>(row) * s.w + column) * s.c, values);
#pragma unroll
        for (int v = 0; v < V; ++v) {
          const float value = values[v];
          if (Kind == Pool::kAverage) {
            best[v] += value;
          } else if (Kind == Pool::kLength) {
            best[v] = fmaf(value, value, best[v]);
          } else if (Positions) {
            const bool first_nan = value != value && best[v] == best[v];
            if (value > best[v] || first_nan || where[v] < 0) {
              best[v] = value;
              where[v] = static_cast<int64_t>(row) * s.w + column;
            }
          } else if (!(value <= best[v]) && best[v] == best[v]) {  // NaN is taken, and kept
            best[v] = value;
          }
        }
      }
    }
    if (Kind == Pool::kAverage) {
      const float count = divisor(s, at.row, at.column);
#pragma unroll
      for (int v = 0; v < V; ++v) best[v] = average(best[v], count);
    }
    if (Kind == Pool::kLength) {
      // The mean of the window times its whole size: what lies beyond the padding in ceil mode counts as the
      // rest.
      const float count = divisor(s, at.row, at.column), size = static_cast<float>(s.size_h * s.size_w);
#pragma unroll
      for (int v = 0; v < V; ++v) best[v] = root(average(best[v], count) * size);
    }
    if (y) store_vector<V>(y + i * V, best);
    if (Positions) {
#pragma unroll
      for (int v = 0; v < V; ++v) positions[i * V + v] = where[v];
    }
  }
}

// The windows along one axis that can have pixel i: first .. last.
struct Windows {
  int first, last;

  __device__ __forceinline__ Windows(int i, int before, int span, int stride, int count) {
    const int start = i + before - span + 1;
    first = start <= 0 ? 0 : (start + stride - 1) / stride;
    last = i + before < 0 ? -1 : (i + before) / stride;
    if (last >= count) last = count - 1;
  }
};

template <class T, int V, bool Max>
__global__ void __launch_bounds__(kThreads, kBlocks)
    pool_grad_kernel(PoolShape s, Pixels in, const T* g, const int64_t* positions, T* dx) {
  ptx::begin_kernel();
  CNNFAST_EACH(i, in.count) {
    const Pixel at(i, in, V);
    float sums[V] = {};
    const int64_t mine = static_cast<int64_t>(at.row) * s.w + at.column;
    const Windows rows(at.row, s.top, (s.kernel_h - 1) * s.dilation_h + 1, s.stride_h, s.p);
    const Windows columns(at.column, s.left, (s.kernel_w - 1) * s.dilation_w + 1, s.stride_w, s.q);
    for (int p = rows.first; p <= rows.last; ++p)
      for (int q = columns.first; q <= columns.last; ++q) {
        const int64_t from = ((at.n * s.p + p) * s.q + q) * s.c + at.channel;
        float values[V];
        load_vector<V>(g + from, values);
        const float count = Max ? 1.0f : divisor(s, p, q);
#pragma unroll
        for (int v = 0; v < V; ++v) {
          if (!Max)
            sums[v] += average(values[v], count);
          else if (positions[from + v] == mine)
            sums[v] += values[v];
        }
      }
    store_vector<V>(dx + i * V, sums);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks)
    scatter_rows_kernel(int64_t count, Divider rows, Divider channels, int64_t width, const T* g,
                        const int64_t* positions, T* dx) {
  ptx::begin_kernel();
  CNNFAST_EACH(i, count) {
    const Divided c = channels.divide(i), row = rows.divide(c.quotient);
    const int64_t from = row.quotient * width + c.rest;
    store(dx + i, positions[from] == row.rest ? load(g + from) : 0.0f);
  }
}

template <Pool Kind, bool Positions>
void pool(DType type, const PoolShape& s, const void* x, void* y, int64_t* positions, cudaStream_t stream) {
  if (s.n * s.p * s.q * s.c == 0) return;
  dispatch_vector(
      type, s.c,
      [&](auto element, auto vector) {
        using T = decltype(element);
        constexpr int V = vector.value;
        const Pixels out(s.n, s.p, s.q, s.c / V);
        CNNFAST_LAUNCH((pool_kernel<T, V, Kind, Positions>), blocks_for(out.count, kThreads), kThreads, 0,
                       stream, s, out, static_cast<const T*>(x), static_cast<T*>(y), positions);
      },
      x, y);
}

template <bool Max>
void pool_grad(DType type, const PoolShape& s, const void* g, const int64_t* positions, void* dx,
               cudaStream_t stream) {
  if (s.n * s.h * s.w * s.c == 0) return;
  dispatch_vector(
      type, s.c,
      [&](auto element, auto vector) {
        using T = decltype(element);
        constexpr int V = vector.value;
        const Pixels in(s.n, s.h, s.w, s.c / V);
        CNNFAST_LAUNCH((pool_grad_kernel<T, V, Max>), blocks_for(in.count, kThreads), kThreads, 0, stream, s,
                       in, static_cast<const T*>(g), positions, static_cast<T*>(dx));
      },
      g, dx);
}

}  // namespace

void max_pool2d(DType type, const PoolShape& s, const void* x, void* y, int64_t* positions,
                cudaStream_t stream) {
  if (positions)
    pool<Pool::kMax, true>(type, s, x, y, positions, stream);
  else
    pool<Pool::kMax, false>(type, s, x, y, nullptr, stream);
}
void avg_pool2d(DType type, const PoolShape& s, const void* x, void* y, cudaStream_t stream) {
  pool<Pool::kAverage, false>(type, s, x, y, nullptr, stream);
}
void l2_pool2d(DType type, const PoolShape& s, const void* x, void* y, cudaStream_t stream) {
  pool<Pool::kLength, false>(type, s, x, y, nullptr, stream);
}

void max_pool2d_grad(DType type, const PoolShape& s, const void* g, const void* x, void* dx,
                     int64_t* positions, cudaStream_t stream) {
  pool<Pool::kMax, true>(type, s, x, nullptr, positions, stream);
  pool_grad<true>(type, s, g, positions, dx, stream);
}
void avg_pool2d_grad(DType type, const PoolShape& s, const void* g, void* dx, cudaStream_t stream) {
  pool_grad<false>(type, s, g, nullptr, dx, stream);
}

void scatter_rows(DType type, int64_t n, int64_t rows, int64_t channels, const void* g,
                  const int64_t* positions, void* dx, cudaStream_t stream) {
  const int64_t count = n * rows * channels;
  if (count == 0) return;
  dispatch_float(type, [&](auto element) {
    using T = decltype(element);
    CNNFAST_LAUNCH((scatter_rows_kernel<T>), blocks_for(count, kThreads), kThreads, 0, stream, count,
                   Divider(rows), Divider(channels), channels, static_cast<const T*>(g), positions,
                   static_cast<T*>(dx));
  });
}

}  // namespace cnnfast::cuda
