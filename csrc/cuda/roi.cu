// Regions of interest. A thread makes 16 bytes of channels of one bin; what a bin reads lies close together.
// Places of bins and samples are worked out in the roundings of python/cnnfast/ops/roi.py, so that all
// backends read the same pixels. Gradients gather: for each pixel the boxes are gone through in their order,
// by small tables of what every bin reads of every row and column, so that nothing is added atomically.
#include "cuda/roi.h"

#include <cmath>

#include "cuda/index.h"

namespace cnnfast::cuda {
namespace {

__device__ __forceinline__ bool names_image(const RoiShape& s, float image) {
  return image >= 0 && image < static_cast<float>(s.n);
}

// V channels of one bin of one box, from an index over all of them.
struct Bins {
  Divider groups, columns, rows;
  int64_t count;

  Bins(const RoiShape& s, int v)
      : groups(s.c / v), columns(s.q), rows(s.p), count(s.k * s.p * s.q * s.c / v) {}
};
struct Bin {
  int64_t k, channel;
  int i, j;

  __device__ __forceinline__ Bin(int64_t at, const Bins& of, int v) {
    const Divided c = of.groups.divide(at), column = of.columns.divide(c.quotient);
    const Divided row = of.rows.divide(column.quotient);
    k = row.quotient, channel = c.rest * v;
    i = static_cast<int>(row.rest), j = static_cast<int>(column.rest);
  }
};
// The same of the pixels of the pictures.
struct Pixels {
  Divider groups, columns, rows;
  int64_t count;

  Pixels(const RoiShape& s, int v)
      : groups(s.c / v), columns(s.w), rows(s.h), count(s.n * s.h * s.w * s.c / v) {}
};

// --- maxima ----------------------------------------------------------------------------------------

struct Span {
  int first, end;
};

// Pixels of bin i of `bins` between two corners.
__device__ __forceinline__ Span bin_span(float low, float high, int i, int bins, int size, float scale) {
  const double start = round(static_cast<double>(__fmul_rn(low, scale)));
  const double length = round(static_cast<double>(__fmul_rn(high, scale))) - start + 1;
  const float step = __fdiv_rn(static_cast<float>(length < 1 ? 1.0 : length), static_cast<float>(bins));
  const double first = floorf(__fmul_rn(static_cast<float>(i), step)) + start;
  const double end = ceilf(__fmul_rn(static_cast<float>(i + 1), step)) + start;
  const auto within = [&](double at) { return static_cast<int>(at < 0 ? 0 : at > size ? size : at); };
  return {within(first), within(end)};
}

// Rows of every box's bins (k x p), then columns (k x q).
__global__ void __launch_bounds__(kThreads)
    spans_kernel(RoiShape s, Divider bins, const float* boxes, Span* spans) {
  ptx::begin_kernel();
  CNNFAST_EACH(at, s.k * (s.p + s.q)) {
    const Divided d = bins.divide(at);
    const float* box = boxes + 5 * d.quotient;
    const int i = static_cast<int>(d.rest);
    if (i < s.p)
      spans[at] = bin_span(box[2], box[4], i, s.p, s.h, s.scale);
    else
      spans[at] = bin_span(box[1], box[3], i - s.p, s.q, s.w, s.scale);
  }
}

// y may be null where positions are asked for: row * w + column of the maximum, the first of equal ones, or
// -1.
template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    roi_pool_kernel(RoiShape s, Bins bins, const T* x, const float* boxes, const Span* spans, T* y,
                    int* positions) {
  ptx::begin_kernel();
  CNNFAST_EACH(at, bins.count) {
    const Bin bin(at, bins, V);
    const float image = boxes[5 * bin.k];
    const Span rows = spans[bin.k * (s.p + s.q) + bin.i], columns = spans[bin.k * (s.p + s.q) + s.p + bin.j];
    float best[V];
    int where[V];
#pragma unroll
    for (int v = 0; v < V; ++v) best[v] = 0, where[v] = -1;
    if (names_image(s, image)) {
      const T* picture = x + static_cast<int64_t>(image) * s.h * s.w * s.c + bin.channel;
      for (int row = rows.first; row < rows.end; ++row)
        for (int column = columns.first; column < columns.end; ++column) {
          float values[V];
          load_vector<V>(picture + (static_cast<int64_t>(row) * s.w + column) * s.c, values);
#pragma unroll
          for (int v = 0; v < V; ++v) {
            const float value = values[v];
            if (where[v] < 0 || value > best[v] || (value != value && best[v] == best[v]))
              best[v] = value, where[v] = row * s.w + column;
          }
        }
    }
    if (y) store_vector<V>(y + at * V, best);
    if (positions)
#pragma unroll
      for (int v = 0; v < V; ++v) positions[at * V + v] = where[v];
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    roi_pool_grad_kernel(RoiShape s, Pixels pixels, const float* boxes, const Span* spans,
                         const int* positions, const T* g, T* dx) {
  ptx::begin_kernel();
  CNNFAST_EACH(at, pixels.count) {
    const Divided c = pixels.groups.divide(at), column = pixels.columns.divide(c.quotient);
    const Divided row = pixels.rows.divide(column.quotient);
    const int h = static_cast<int>(row.rest), w = static_cast<int>(column.rest), mine = h * s.w + w;
    float sum = 0;
    for (int64_t k = 0; k < s.k; ++k) {
      if (boxes[5 * k] != static_cast<float>(row.quotient)) continue;
      const Span* rows = spans + k * (s.p + s.q);
      const Span* columns = rows + s.p;
      for (int i = 0; i < s.p; ++i) {
        if (h < rows[i].first || h >= rows[i].end) continue;
        for (int j = 0; j < s.q; ++j) {
          if (w < columns[j].first || w >= columns[j].end) continue;
          const int64_t from = ((k * s.p + i) * s.q + j) * s.c + c.rest;
          if (positions[from] == mine) sum += load(g + from);
        }
      }
    }
    store(dx + at, sum);
  }
}

// --- bilinear samples ------------------------------------------------------------------------------

// Samples along one axis of a box: sample t of bin i lies at start + i size + (t + 1/2) size / count.
struct Axis {
  double start, size;
  int count;

  __device__ __forceinline__ Axis(const RoiShape& s, float low, float high, int bins) {
    const float offset = s.aligned ? 0.5f : 0.0f;
    const float first = __fsub_rn(__fmul_rn(low, s.scale), offset);
    float length = __fsub_rn(__fsub_rn(__fmul_rn(high, s.scale), offset), first);
    if (!s.aligned && length < 1) length = 1;
    const float step = __fdiv_rn(length, static_cast<float>(bins));
    start = first, size = step;
    count = s.sampling_ratio;
    if (count == 0) count = step > 0 ? static_cast<int>(ceilf(step)) : 0;
  }
  __device__ __forceinline__ double place(int i, int t) const {
    return __dadd_rn(__dadd_rn(start, __dmul_rn(i, size)), __dmul_rn(t + 0.5, size) / count);
  }
};

// The two pixels of a sample along an axis, and the weight of the second; `low` is -1 outside of the picture.
struct Sample {
  int low;
  double part;

  __device__ __forceinline__ Sample(double place, int size) : low(-1), part(0) {
    if (!(place >= -1 && place <= size)) return;
    if (place < 0) place = 0;
    low = static_cast<int>(place);
    if (low >= size - 1)
      low = size - 1;
    else
      part = place - low;
  }
};

template <class T, int V>
__global__ void __launch_bounds__(kThreads, 2)
    roi_align_kernel(RoiShape s, Bins bins, const T* x, const float* boxes, T* y) {
  ptx::begin_kernel();
  CNNFAST_EACH(at, bins.count) {
    const Bin bin(at, bins, V);
    const float* box = boxes + 5 * bin.k;
    float sums[V] = {};
    if (names_image(s, box[0])) {
      const Axis vertical(s, box[2], box[4], s.p), horizontal(s, box[1], box[3], s.q);
      const T* picture = x + static_cast<int64_t>(box[0]) * s.h * s.w * s.c + bin.channel;
      for (int a = 0; a < vertical.count; ++a) {
        const Sample row(vertical.place(bin.i, a), s.h);
        if (row.low < 0) continue;
        for (int b = 0; b < horizontal.count; ++b) {
          const Sample column(horizontal.place(bin.j, b), s.w);
          if (column.low < 0) continue;
          // Weights of zero are left out: 0 times infinity must not reach the bin.
#pragma unroll 1  // four copies would not fit in registers
          for (int corner = 0; corner < 4; ++corner) {
            const int down = corner / 2, along = corner % 2;
            const double weight = (down ? row.part : 1 - row.part) * (along ? column.part : 1 - column.part);
            if (weight == 0) continue;
            float values[V];
            load_vector<V>(picture + (static_cast<int64_t>(row.low + down) * s.w + column.low + along) * s.c,
                           values);
#pragma unroll
            for (int v = 0; v < V; ++v) sums[v] = fmaf(static_cast<float>(weight), values[v], sums[v]);
          }
        }
      }
      const int samples = vertical.count * horizontal.count;
      if (samples > 0) {
        const float share = 1.0f / static_cast<float>(samples);
#pragma unroll
        for (int v = 0; v < V; ++v) sums[v] *= share;
      }
    }
    store_vector<V>(y + at * V, sums);
  }
}

// What bin i of box k takes of row h (k x p x h), then of column w (k x q x w).
__global__ void __launch_bounds__(kThreads)
    weights_kernel(RoiShape s, bool rows, Divider pixels, Divider bins, const float* boxes, float* weights) {
  ptx::begin_kernel();
  const int size = rows ? s.h : s.w, count = rows ? s.p : s.q;
  CNNFAST_EACH(at, s.k * count * size) {
    const Divided pixel = pixels.divide(at), bin = bins.divide(pixel.quotient);
    const float* box = boxes + 5 * bin.quotient;
    const Axis axis = rows ? Axis(s, box[2], box[4], s.p) : Axis(s, box[1], box[3], s.q);
    double sum = 0;
    for (int t = 0; t < axis.count; ++t) {
      const Sample sample(axis.place(static_cast<int>(bin.rest), t), size);
      if (sample.low < 0) continue;
      if (sample.low == pixel.rest) sum += (1 - sample.part) / axis.count;
      if (sample.low + 1 == pixel.rest) sum += sample.part / axis.count;
    }
    weights[at] = static_cast<float>(sum);
  }
}

template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    roi_align_grad_kernel(RoiShape s, Pixels pixels, const float* boxes, const float* vertical,
                          const float* horizontal, const T* g, T* dx) {
  ptx::begin_kernel();
  CNNFAST_EACH(at, pixels.count) {
    const Divided c = pixels.groups.divide(at), column = pixels.columns.divide(c.quotient);
    const Divided row = pixels.rows.divide(column.quotient);
    float sums[V] = {};
    for (int64_t k = 0; k < s.k; ++k) {
      if (boxes[5 * k] != static_cast<float>(row.quotient)) continue;
      for (int i = 0; i < s.p; ++i) {
        const float down = vertical[(k * s.p + i) * s.h + row.rest];
        if (down == 0) continue;
        for (int j = 0; j < s.q; ++j) {
          const float along = horizontal[(k * s.q + j) * s.w + column.rest];
          if (along == 0) continue;
          float values[V];
          load_vector<V>(g + ((k * s.p + i) * s.q + j) * s.c + c.rest * V, values);
#pragma unroll
          for (int v = 0; v < V; ++v) sums[v] = fmaf(down * along, values[v], sums[v]);
        }
      }
    }
    store_vector<V>(dx + at * V, sums);
  }
}

void make_spans(const RoiShape& s, const float* boxes, Span* spans, cudaStream_t stream) {
  const int64_t count = s.k * (s.p + s.q);
  if (count > 0)
    CNNFAST_LAUNCH((spans_kernel), blocks_for(count, kThreads), kThreads, 0, stream, s, Divider(s.p + s.q),
                   boxes, spans);
}

}  // namespace

int64_t roi_pool_workspace(const RoiShape& s, bool gradient) {
  return s.k * (s.p + s.q) * static_cast<int64_t>(sizeof(Span)) +
         (gradient ? s.k * s.p * s.q * s.c * static_cast<int64_t>(sizeof(int)) : 0);
}

void roi_pool(DType type, const RoiShape& s, const void* x, const float* boxes, void* y, void* workspace,
              cudaStream_t stream) {
  if (s.k * s.p * s.q * s.c == 0) return;
  auto* spans = static_cast<Span*>(workspace);
  make_spans(s, boxes, spans, stream);
  dispatch_vector(
      type, s.c,
      [&](auto element, auto vector) {
        using T = decltype(element);
        constexpr int V = vector.value < 4 ? vector.value : 4;
        const Bins bins(s, V);
        CNNFAST_LAUNCH((roi_pool_kernel<T, V>), blocks_for(bins.count, kThreads), kThreads, 0, stream, s,
                       bins, static_cast<const T*>(x), boxes, spans, static_cast<T*>(y), nullptr);
      },
      x, y);
}

void roi_pool_grad(DType type, const RoiShape& s, const void* x, const float* boxes, const void* g, void* dx,
                   void* workspace, cudaStream_t stream) {
  auto* spans = static_cast<Span*>(workspace);
  auto* positions = reinterpret_cast<int*>(spans + s.k * (s.p + s.q));
  make_spans(s, boxes, spans, stream);
  dispatch_float(type, [&](auto element) {
    using T = decltype(element);
    const Bins bins(s, 1);
    const Pixels pixels(s, 1);
    if (bins.count > 0)
      CNNFAST_LAUNCH((roi_pool_kernel<T, 1>), blocks_for(bins.count, kThreads), kThreads, 0, stream, s, bins,
                     static_cast<const T*>(x), boxes, spans, nullptr, positions);
    if (pixels.count > 0)
      CNNFAST_LAUNCH((roi_pool_grad_kernel<T>), blocks_for(pixels.count, kThreads), kThreads, 0, stream, s,
                     pixels, boxes, spans, positions, static_cast<const T*>(g), static_cast<T*>(dx));
  });
}

void roi_align(DType type, const RoiShape& s, const void* x, const float* boxes, void* y,
               cudaStream_t stream) {
  if (s.k * s.p * s.q * s.c == 0) return;
  dispatch_vector(
      type, s.c,
      [&](auto element, auto vector) {
        using T = decltype(element);
        constexpr int V = vector.value < 4 ? vector.value : 4;
        const Bins bins(s, V);
        CNNFAST_LAUNCH((roi_align_kernel<T, V>), blocks_for(bins.count, kThreads), kThreads, 0, stream, s,
                       bins, static_cast<const T*>(x), boxes, static_cast<T*>(y));
      },
      x, y);
}

int64_t roi_align_grad_workspace(const RoiShape& s) {
  return s.k * (int64_t{s.p} * s.h + int64_t{s.q} * s.w) * static_cast<int64_t>(sizeof(float));
}

void roi_align_grad(DType type, const RoiShape& s, const float* boxes, const void* g, void* dx,
                    void* workspace, cudaStream_t stream) {
  if (s.n * s.h * s.w * s.c == 0) return;
  auto* vertical = static_cast<float*>(workspace);
  float* horizontal = vertical + s.k * s.p * s.h;
  for (const bool rows : {true, false}) {
    const int size = rows ? s.h : s.w, bins = rows ? s.p : s.q;
    if (s.k > 0)
      CNNFAST_LAUNCH((weights_kernel), blocks_for(s.k * bins * size, kThreads), kThreads, 0, stream, s, rows,
                     Divider(size), Divider(bins), boxes, rows ? vertical : horizontal);
  }
  dispatch_vector(
      type, s.c,
      [&](auto element, auto vector) {
        using T = decltype(element);
        constexpr int V = vector.value < 4 ? vector.value : 4;
        const Pixels pixels(s, V);
        CNNFAST_LAUNCH((roi_align_grad_kernel<T, V>), blocks_for(pixels.count, kThreads), kThreads, 0, stream,
                       s, pixels, boxes, vertical, horizontal, static_cast<const T*>(g), static_cast<T*>(dx));
      },
      g, dx);
}

}  // namespace cnnfast::cuda
