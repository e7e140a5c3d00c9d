// Moves of memory. Axes that are walked through as one are merged, and elements are moved in units of up to
// 16 bytes where sizes, steps and addresses allow it; axes in another order go through tiles in shared
// memory, so that both reads and writes are contiguous. The limit is one read and one write.
#include "cuda/copy.h"

#include <algorithm>

#include "cuda/index.h"

namespace cnnfast::cuda {
namespace {

struct alignas(16) Sixteen {
  uint64_t low, high;
};

constexpr int kMostSteps = 8;
struct Walk {
  int rank;
  int64_t count;
  Divider size[kMostSteps];
  int64_t from[kMostSteps], to[kMostSteps];
};

template <class U>
__global__ void __launch_bounds__(kThreads) copy_kernel(Walk s, const U* x, U* y) {
  ptx::begin_kernel();
  CNNFAST_EACH(i, s.count) {
    int64_t rest = i, at = 0, there = 0;
#pragma unroll
    for (int axis = kMostSteps - 1; axis >= 0; --axis) {
      if (axis >= s.rank) continue;
      const Divided d = s.size[axis].divide(rest);
      at += d.rest * s.from[axis];
      there += d.rest * s.to[axis];
      rest = d.quotient;
    }
    y[there] = x[at];
  }
}

// Axis "row" is contiguous in x, axis "column" in y; all others are walked through tile by tile.
struct Exchange {
  int64_t rows, columns, row_to, column_from;
  Divider row_tiles, column_tiles;
  int64_t tiles;
};
constexpr int kTile = 32, kTileRows = 8;

template <class U>
__global__ void __launch_bounds__(kTile* kTileRows) exchange_kernel(Walk s, Exchange e, const U* x, U* y) {
  ptx::begin_kernel();
  CNNFAST_SHARED(U, tile, [kTile][kTile + 1]);
  const int lane = threadIdx.x % kTile, line = threadIdx.x / kTile;
  for (int64_t t = blockIdx.x; t < e.tiles; t += gridDim.x) {
    const Divided column = e.column_tiles.divide(t), row = e.row_tiles.divide(column.quotient);
    int64_t rest = row.quotient, at = 0, there = 0;
#pragma unroll
    for (int axis = kMostSteps - 1; axis >= 0; --axis) {
      if (axis >= s.rank) continue;
      const Divided d = s.size[axis].divide(rest);
      at += d.rest * s.from[axis];
      there += d.rest * s.to[axis];
      rest = d.quotient;
    }
    const int64_t first_row = row.rest * kTile, first_column = column.rest * kTile;
    for (int i = line; i < kTile; i += kTileRows)
      if (first_row + lane < e.rows && first_column + i < e.columns)
        tile[i][lane] = x[at + first_row + lane + (first_column + i) * e.column_from];
    __syncthreads();
    for (int i = line; i < kTile; i += kTileRows)
      if (first_row + i < e.rows && first_column + lane < e.columns)
        y[there + (first_row + i) * e.row_to + first_column + lane] = tile[lane][i];
    __syncthreads();
  }
}

struct Axis {
  int64_t size, from, to;
};

// Outermost first, without axes of one element; neighbours that are walked through as one are merged.
std::vector<Axis> merged(const std::vector<int64_t>& sizes, const std::vector<int64_t>& from,
                         const std::vector<int64_t>& to) {
  std::vector<Axis> axes;
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] == 1) continue;
    if (!axes.empty() && axes.back().from == from[i] * sizes[i] && axes.back().to == to[i] * sizes[i])
      axes.back() = {axes.back().size * sizes[i], from[i], to[i]};
    else
      axes.push_back({sizes[i], from[i], to[i]});
  }
  return axes;
}

Walk walk(const std::vector<Axis>& axes) {
  if (axes.size() > kMostSteps) throw std::invalid_argument("copy: more than eight axes");
  Walk s{};
  s.rank = static_cast<int>(axes.size());
  s.count = 1;
  for (int i = 0; i < s.rank; ++i) {
    s.size[i] = Divider(axes[i].size);
    s.from[i] = axes[i].from;
    s.to[i] = axes[i].to;
    s.count *= axes[i].size;
  }
  return s;
}

template <class U>
void copy_units(std::vector<Axis> axes, const void* x, void* y, cudaStream_t stream) {
  const auto* in = static_cast<const U*>(x);
  auto* out = static_cast<U*>(y);
  const auto contiguous = [](int64_t Axis::* step) { return [step](const Axis& a) { return a.*step == 1; }; };
  const auto row = std::find_if(axes.begin(), axes.end(), contiguous(&Axis::from));
  const auto column = std::find_if(axes.begin(), axes.end(), contiguous(&Axis::to));
  if (row != axes.end() && column != axes.end() && row != column && row->size >= 8 && column->size >= 8) {
    Exchange e{row->size, column->size, row->to, column->from, {}, {}, 0};
    const int64_t row_tiles = ceil_div(e.rows, kTile), column_tiles = ceil_div(e.columns, kTile);
    e.row_tiles = Divider(row_tiles), e.column_tiles = Divider(column_tiles);
    axes.erase(std::max(row, column));
    axes.erase(std::min(row, column));
    const Walk s = walk(axes);
    e.tiles = s.count * row_tiles * column_tiles;
    CNNFAST_LAUNCH((exchange_kernel<U>), blocks_for(e.tiles, 1), kTile * kTileRows, 0, stream, s, e, in, out);
    return;
  }
  const Walk s = walk(axes);
  CNNFAST_LAUNCH((copy_kernel<U>), blocks_for(s.count, kThreads), kThreads, 0, stream, s, in, out);
}

template <class U>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(int64_t total, Divider inner, Divider count, int64_t width, int64_t size, const U* x,
                  const int64_t* indices, U* y) {
  ptx::begin_kernel();
  CNNFAST_EACH(i, total) {
    const Divided c = inner.divide(i), pick = count.divide(c.quotient);
    int64_t index = indices[pick.rest];
    if (index < 0) index += size;
    y[i] = x[(pick.quotient * size + index) * width + c.rest];
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    gather_grad_kernel(int64_t total, Divider inner, Divider sizes, int64_t width, int64_t picks,
                       int64_t size, const T* g, const int64_t* indices, T* dx) {
  ptx::begin_kernel();
  CNNFAST_EACH(i, total) {
    const Divided c = inner.divide(i), place = sizes.divide(c.quotient);
    float sum = 0;
    for (int64_t p = 0; p < picks; ++p) {
      const int64_t index = indices[p];
      if (index == place.rest || index + size == place.rest)
        sum += load(g + (place.quotient * picks + p) * width + c.rest);
    }
    store(dx + i, sum);
  }
}

// Where padded position i comes from, or -1.
__device__ __forceinline__ int source(Padding mode, int i, int before, int size) {
  i -= before;
  if (i >= 0 && i < size) return i;
  switch (mode) {
    case Padding::kReflect:  // the edge itself is not repeated
      return i < 0 ? -i : 2 * (size - 1) - i;
    case Padding::kReplicate:
      return i < 0 ? 0 : size - 1;
    case Padding::kCircular:
      return i < 0 ? i + size : i - size;
    default:
      return -1;
  }
}

// The padded positions that come from i: itself, and runs before and after the picture.
struct Copies {
  int first[3], end[3];

  __device__ __forceinline__ Copies(Padding mode, int i, int before, int after, int size) {
    first[1] = before + i, end[1] = first[1] + 1;
    first[0] = end[0] = 0;
    first[2] = end[2] = 0;
    const int padded = before + size + after;
    if (mode == Padding::kReplicate) {
      if (i == 0) end[0] = before;
      if (i == size - 1) first[2] = before + size, end[2] = padded;
    } else if (mode != Padding::kZeros) {
      const bool reflect = mode == Padding::kReflect;
      const int low = reflect ? before - i : before + i - size;
      const int high = reflect ? before + 2 * (size - 1) - i : before + i + size;
      if (low >= 0 && low < before) first[0] = low, end[0] = low + 1;
      if (high >= before + size && high < padded) first[2] = high, end[2] = high + 1;
    }
  }
};

struct Decoder {
  Divider groups, columns, rows;
  int64_t count;

  Decoder(int64_t n, int64_t rows, int64_t columns, int64_t groups)
      : groups(groups), columns(columns), rows(rows), count(n * rows * columns * groups) {}
};

template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    pad_kernel(PadShape s, Decoder out, float value, const T* x, T* y) {
  ptx::begin_kernel();
  CNNFAST_EACH(i, out.count) {
    const Divided c = out.groups.divide(i), column = out.columns.divide(c.quotient);
    const Divided row = out.rows.divide(column.quotient);
    const int h = source(s.mode, static_cast<int>(row.rest), s.top, s.h);
    const int w = source(s.mode, static_cast<int>(column.rest), s.left, s.w);
    Vector<T, V> v;
    if (h < 0 || w < 0) {
#pragma unroll
      for (int j = 0; j < V; ++j) v.values[j] = from_float<T>(value);
    } else {
      v = *reinterpret_cast<const Vector<T, V>*>(x + ((row.quotient * s.h + h) * s.w + w) * s.c + c.rest * V);
    }
    *reinterpret_cast<Vector<T, V>*>(y + i * V) = v;
  }
}

template <class T, int V>
__global__ void __launch_bounds__(kThreads, 2) pad_grad_kernel(PadShape s, Decoder in, const T* g, T* dx) {
  ptx::begin_kernel();
  const int64_t wide = s.left + s.w + s.right, tall = s.top + s.h + s.bottom;
  CNNFAST_EACH(i, in.count) {
    const Divided c = in.groups.divide(i), column = in.columns.divide(c.quotient);
    const Divided row = in.rows.divide(column.quotient);
    const Copies rows(s.mode, static_cast<int>(row.rest), s.top, s.bottom, s.h);
    const Copies columns(s.mode, static_cast<int>(column.rest), s.left, s.right, s.w);
    float sums[V] = {};
#pragma unroll
    for (int a = 0; a < 3; ++a)
      for (int h = rows.first[a]; h < rows.end[a]; ++h)
#pragma unroll
        for (int b = 0; b < 3; ++b)
          for (int w = columns.first[b]; w < columns.end[b]; ++w) {
            float values[V];
            load_vector<V>(g + ((row.quotient * tall + h) * wide + w) * s.c + c.rest * V, values);
#pragma unroll
            for (int v = 0; v < V; ++v) sums[v] += values[v];
          }
    store_vector<V>(dx + i * V, sums);
  }
}

}  // namespace

void copy(int64_t element, const std::vector<int64_t>& sizes, const std::vector<int64_t>& from,
          const std::vector<int64_t>& to, const void* x, void* y, cudaStream_t stream) {
  for (const int64_t size : sizes)
    if (size == 0) return;
  std::vector<Axis> axes = merged(sizes, from, to);
  int64_t unit = element;
  if (!axes.empty() && axes.back().from == 1 && axes.back().to == 1) {
    const auto whole = [&](int64_t bytes) {
      bool all = aligned(static_cast<size_t>(bytes), x, y) && axes.back().size * element % bytes == 0;
      for (size_t i = 0; i + 1 < axes.size(); ++i)
        all = all && axes[i].from * element % bytes == 0 && axes[i].to * element % bytes == 0;
      return all;
    };
    while (unit < 16 && whole(2 * unit)) unit *= 2;
    const int64_t factor = unit / element;
    axes.back().size /= factor;
    for (size_t i = 0; i + 1 < axes.size(); ++i) axes[i].from /= factor, axes[i].to /= factor;
    if (axes.back().size == 1) axes.pop_back();
  }
  switch (unit) {
    case 1:
      return copy_units<uint8_t>(axes, x, y, stream);
    case 2:
      return copy_units<uint16_t>(axes, x, y, stream);
    case 4:
      return copy_units<uint32_t>(axes, x, y, stream);
    case 8:
      return copy_units<uint64_t>(axes, x, y, stream);
    default:
      return copy_units<Sixteen>(axes, x, y, stream);
  }
}

void gather(int64_t element, int64_t outer, int64_t size, int64_t count, int64_t inner, const void* x,
            const int64_t* indices, void* y, cudaStream_t stream) {
  const int64_t total = outer * count * inner;
  if (total == 0) return;
  const auto run = [&](auto unit) {
    using U = decltype(unit);
    CNNFAST_LAUNCH((gather_kernel<U>), blocks_for(total, kThreads), kThreads, 0, stream, total,
                   Divider(inner), Divider(count), inner, size, static_cast<const U*>(x), indices,
                   static_cast<U*>(y));
  };
  switch (element) {
    case 1:
      return run(uint8_t{});
    case 2:
      return run(uint16_t{});
    case 4:
      return run(uint32_t{});
    default:
      return run(uint64_t{});
  }
}

void gather_grad(DType type, int64_t outer, int64_t size, int64_t count, int64_t inner, const void* g,
                 const int64_t* indices, void* dx, cudaStream_t stream) {
  const int64_t total = outer * size * inner;
  if (total == 0) return;
  dispatch_float(type, [&](auto element) {
    using T = decltype(element);
    CNNFAST_LAUNCH((gather_grad_kernel<T>), blocks_for(total, kThreads), kThreads, 0, stream, total,
                   Divider(inner), Divider(size), inner, count, size, static_cast<const T*>(g), indices,
                   static_cast<T*>(dx));
  });
}

void pad2d(DType type, const PadShape& s, float value, const void* x, void* y, cudaStream_t stream) {
  const int64_t rows = int64_t{s.top} + s.h + s.bottom, columns = int64_t{s.left} + s.w + s.right;
  if (s.n * rows * columns * s.c == 0) return;
  dispatch_vector(
      type, s.c,
      [&](auto element, auto vector) {
        using T = decltype(element);
        constexpr int V = vector.value;
        const Decoder out(s.n, rows, columns, s.c / V);
        CNNFAST_LAUNCH((pad_kernel<T, V>), blocks_for(out.count, kThreads), kThreads, 0, stream, s, out,
                       value, static_cast<const T*>(x), static_cast<T*>(y));
      },
      x, y);
}

void pad2d_grad(DType type, const PadShape& s, const void* g, void* dx, cudaStream_t stream) {
  if (s.n * s.h * s.w * s.c == 0) return;
  dispatch_vector(
      type, s.c,
      [&](auto element, auto vector) {
        using T = decltype(element);
        constexpr int V = vector.value < 4 ? vector.value : 4;  // more would not fit in registers
        const Decoder in(s.n, s.h, s.w, s.c / V);
        CNNFAST_LAUNCH((pad_grad_kernel<T, V>), blocks_for(in.count, kThreads), kThreads, 0, stream, s, in,
                       static_cast<const T*>(g), static_cast<T*>(dx));
      },
      g, dx);
}

}  // namespace cnnfast::cuda
