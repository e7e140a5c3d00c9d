// Resizing. Few taps (nearest, bilinear): one pass, a thread makes 16 bytes of channels of one pixel from the
// taps of both axes, which neighbours find in the caches; the limit is one read and one write. Many taps
// (antialiasing, wide adjoints): one axis after the other, through float32 memory.
#include "cuda/resize.h"

#include "cuda/index.h"

namespace cnnfast::cuda {
namespace {

constexpr int64_t kMostTaps = 16;  // of both axes together, in one pass

bool in_one_pass(const ResizeTable& a, const ResizeTable& b) { return int64_t{a.taps} * b.taps <= kMostTaps; }

template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    resize_kernel(int64_t count, Divider groups, Divider columns_out, Divider rows_out, int64_t rows,
                  int64_t columns, int64_t channels, ResizeTable vertical, ResizeTable horizontal, const T* x,
                  T* y) {
  ptx::begin_kernel();
  CNNFAST_EACH(i, count) {
    const Divided c = groups.divide(i), column = columns_out.divide(c.quotient);
    const Divided row = rows_out.divide(column.quotient);
    const float *down = vertical.weights + row.rest * vertical.taps,
                *along = horizontal.weights + column.rest * horizontal.taps;
    const int tall = vertical.count[row.rest], wide = horizontal.count[column.rest];
    const T* corner =
        x +
        ((row.quotient * rows + vertical.start[row.rest]) * columns + horizontal.start[column.rest]) *
            channels +
        c.rest * V;
    float sums[V] = {};
    for (int a = 0; a < tall; ++a) {
      float line[V] = {};
      for (int b = 0; b < wide; ++b) {
        float values[V];
        load_vector<V>(corner + (a * columns + b) * channels, values);
#pragma unroll
        for (int v = 0; v < V; ++v) line[v] = fmaf(along[b], values[v], line[v]);
      }
#pragma unroll
      for (int v = 0; v < V; ++v) sums[v] = fmaf(down[a], line[v], sums[v]);
    }
    store_vector<V>(y + i * V, sums);
  }
}

// One axis: outer x size x inner to outer x table.out x inner.
template <class From, class To, int V>
__global__ void __launch_bounds__(kThreads)
    blend_kernel(int64_t count, Divider groups, Divider out, int64_t size, int64_t inner, ResizeTable table,
                 const From* x, To* y) {
  ptx::begin_kernel();
  CNNFAST_EACH(i, count) {
    const Divided c = groups.divide(i), place = out.divide(c.quotient);
    const float* weights = table.weights + place.rest * table.taps;
    const From* first = x + (place.quotient * size + table.start[place.rest]) * inner + c.rest * V;
    float sums[V] = {};
    for (int k = 0; k < table.count[place.rest]; ++k) {
      float values[V];
      load_vector<V>(first + k * inner, values);
#pragma unroll
      for (int v = 0; v < V; ++v) sums[v] = fmaf(weights[k], values[v], sums[v]);
    }
    store_vector<V>(y + i * V, sums);
  }
}

template <class From, class To>
void blend(int64_t outer, int64_t size, int64_t inner, const ResizeTable& table, const From* x, To* y,
           cudaStream_t stream) {
  const int64_t count = outer * table.out * inner;
  const auto run = [&](auto vector) {
    constexpr int V = decltype(vector)::value;
    CNNFAST_LAUNCH((blend_kernel<From, To, V>), blocks_for(count / V, kThreads), kThreads, 0, stream,
                   count / V, Divider(inner / V), Divider(table.out), size, inner, table, x, y);
  };
  if (inner % 4 == 0 && aligned(4 * sizeof(From), x) && aligned(4 * sizeof(To), y))
    run(std::integral_constant<int, 4>{});
  else
    run(std::integral_constant<int, 1>{});
}

}  // namespace

int64_t resize_workspace(int64_t n, int64_t rows, int64_t columns, int64_t channels,
                         const ResizeTable& vertical, const ResizeTable& horizontal, bool columns_first) {
  if (in_one_pass(vertical, horizontal)) return 0;
  return n * channels * (columns_first ? rows * horizontal.out : vertical.out * columns) *
         static_cast<int64_t>(sizeof(float));
}

void resize(DType type, int64_t n, int64_t rows, int64_t columns, int64_t channels,
            const ResizeTable& vertical, const ResizeTable& horizontal, bool columns_first, const void* x,
            void* y, float* between, cudaStream_t stream) {
  const int64_t p = vertical.out, q = horizontal.out;
  if (n * p * q * channels == 0) return;
  if (in_one_pass(vertical, horizontal)) {
    dispatch_vector(
        type, channels,
        [&](auto element, auto vector) {
          using T = decltype(element);
          constexpr int V = vector.value < 4 ? vector.value : 4;
          const int64_t count = n * p * q * channels / V;
          CNNFAST_LAUNCH((resize_kernel<T, V>), blocks_for(count, kThreads), kThreads, 0, stream, count,
                         Divider(channels / V), Divider(q), Divider(p), rows, columns, channels, vertical,
                         horizontal, static_cast<const T*>(x), static_cast<T*>(y));
        },
        x, y);
    return;
  }
  dispatch_float(type, [&](auto element) {
    using T = decltype(element);
    const auto* in = static_cast<const T*>(x);
    auto* out = static_cast<T*>(y);
    if (columns_first) {
      blend(n * rows, columns, channels, horizontal, in, between, stream);
      blend(n, rows, q * channels, vertical, between, out, stream);
    } else {
      blend(n, rows, columns * channels, vertical, in, between, stream);
      blend(n * p, columns, channels, horizontal, between, out, stream);
    }
  });
}

}  // namespace cnnfast::cuda
