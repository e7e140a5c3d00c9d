// Normalisations. All wait for memory: `normalize` reads x and writes y once; `statistics` reads x once (sums
// of x - x[0] and of its square in double precision, per thread, block and part of a column, in fixed order),
// so that batch normalisation in training reads x twice, and its gradient x and g twice.
#include "cuda/norm.h"

#include "cuda/activation.h"
#include "cuda/columns.h"

namespace cnnfast::cuda {
namespace {

struct Channel {
  float mean, factor, shift;  // y = act((x - mean) * factor + shift)

  __device__ __forceinline__ float operator()(float x) const { return fmaf(x - mean, factor, shift); }
};

// 1 / sqrt(var + eps) of that channel; 1 where there are no variances.
__device__ __forceinline__ double deviation(const float* var, int64_t at, double eps) {
  return var ? 1.0 / sqrt(var[at] + eps) : 1.0;
}

__device__ __forceinline__ Channel channel(int64_t at, int64_t c, const float* mean, const float* var,
                                           const float* scale, const float* shift, double eps) {
  double factor = deviation(var, at, eps);
  if (scale) factor *= scale[c];
  return {mean[at], static_cast<float>(factor), shift ? shift[c] : 0.0f};
}

// A thread takes V channels of many rows: what belongs to the channels is worked out once.
template <class T, int V>
__global__ void __launch_bounds__(kColumnThreads)
    normalize_kernel(Columns c, const T* x, const float* mean, const float* var, const float* scale,
                     const float* shift, double eps, int activation, float slope, T* y) {
  ptx::begin_kernel();
  const ColumnPart part(c);
  if (!part.inside) return;
  Channel of[V];
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const int64_t at = part.inner * V + v;
    of[v] = channel(part.outer * c.inner * V + at, at, mean, var, scale, shift, eps);
  }
  for (int64_t k = part.first; k < part.end; k += part.step) {
    float values[V];
    load_vector<V>(x + part.index(c, k) * V, values);
#pragma unroll
    for (int v = 0; v < V; ++v) values[v] = of[v](values[v]);
    activate_all(values, activation, slope);
    store_vector<V>(y + part.index(c, k) * V, values);
  }
}

// Columns whose threads have rows enough to be worth their preparation, and blocks enough to fill a GPU.
Columns row_parts(int64_t groups, int64_t rows, int64_t channels) {
  Columns c = columns(groups, rows, channels, 1);
  const int64_t blocks = static_cast<int64_t>(c.grid().x), each = int64_t{1} << c.log_y;
  const int64_t wanted = ceil_div(rows, each * 8), most = ceil_div(132 * 32, blocks);
  c.split(wanted < most ? wanted : most);
  return c;
}

struct Sums {
  double first, second;
};
struct AddSums {
  __device__ __forceinline__ Sums operator()(Sums a, Sums b) const {
    return {a.first + b.first, a.second + b.second};
  }
};

// combine() of both sums.
__device__ __forceinline__ Sums combine_sums(const Columns& c, Sums s, double* room) {
  s.first = combine(c, s.first, room, Add());
  s.second = combine(c, s.second, room, Add());
  return s;
}

template <class T>
__global__ void __launch_bounds__(kColumnThreads) moments_kernel(Columns c, const T* x, Sums* parts) {
  ptx::begin_kernel();
  CNNFAST_SHARED(double, room, [kColumnThreads]);
  const ColumnPart part(c);
  const double pivot = part.inside ? load(x + part.index(c, 0)) : 0;
  Sums s{0, 0};
#pragma unroll 4
  for (int64_t k = part.first; k < part.end; k += part.step) {
    const double d = load(x + part.index(c, k)) - pivot;
    s.first += d;
    s.second += d * d;
  }
  s = combine_sums(c, s, room);
  if (part.lead) parts[(part.outer * c.splits + blockIdx.y) * c.inner + part.inner] = s;
}

__device__ __forceinline__ Sums add_parts(const Columns& c, const Sums* parts, int64_t outer, int64_t inner) {
  Sums s{0, 0};
  for (int64_t p = 0; p < c.splits; ++p) s = AddSums()(s, parts[(outer * c.splits + p) * c.inner + inner]);
  return s;
}

template <class T>
__global__ void moments_end_kernel(Columns c, Divider inner, const T* x, const Sums* parts, float* mean,
                                   float* var) {
  ptx::begin_kernel();
  CNNFAST_EACH(i, c.count()) {
    const Divided at = inner.divide(i);
    const Sums s = add_parts(c, parts, at.quotient, at.rest);
    const double pivot = load(x + at.quotient * c.k * c.inner + at.rest), rows = static_cast<double>(c.k);
    const double away = s.first / rows, square = s.second / rows - away * away;
    mean[i] = static_cast<float>(pivot + away);
    var[i] = square < 0 ? 0.0f : static_cast<float>(square);
  }
}

// What comes through the activation.
__device__ __forceinline__ float through(float g, float x, const Channel& of, int activation) {
  if (activation == kNone) return g;
  const float y = of(x);
  return y <= 0 || (activation == kRelu6 && y >= 6) ? 0.0f : g;
}

template <class T>
__global__ void __launch_bounds__(kColumnThreads)
    grad_sums_kernel(Columns c, const T* g, const T* x, const float* mean, const float* var,
                     const float* scale, const float* shift, double eps, int activation, Sums* parts) {
  ptx::begin_kernel();
  CNNFAST_SHARED(double, room, [kColumnThreads]);
  const ColumnPart part(c);
  Channel of{0, 0, 0};
  if (part.inside) of = channel(part.outer * c.inner + part.inner, part.inner, mean, var, scale, shift, eps);
  Sums s{0, 0};
#pragma unroll 2
  for (int64_t k = part.first; k < part.end; k += part.step) {
    const int64_t at = part.index(c, k);
    const float v = load(x + at);
    const double d = through(load(g + at), v, of, activation);
    s.first += d;
    s.second += d * (static_cast<double>(v) - of.mean);
  }
  s = combine_sums(c, s, room);
  if (part.lead) parts[(part.outer * c.splits + blockIdx.y) * c.inner + part.inner] = s;
}

__global__ void grad_sums_end_kernel(Columns c, Divider inner, const Sums* parts, const float* var,
                                     double eps, float* dscale, float* dshift) {
  ptx::begin_kernel();
  CNNFAST_EACH(i, c.count()) {
    const Divided at = inner.divide(i);
    const Sums s = add_parts(c, parts, at.quotient, at.rest);
    dshift[i] = static_cast<float>(s.first);
    dscale[i] = static_cast<float>(s.second * deviation(var, i, eps));
  }
}

template <class T, int V>
__global__ void __launch_bounds__(kColumnThreads)
    normalize_grad_kernel(Columns c, const T* g, const T* x, const float* mean, const float* var,
                          const float* scale, const float* shift, double eps, int activation,
                          const float* dscale, const float* dshift, T* dx) {
  ptx::begin_kernel();
  const ColumnPart part(c);
  if (!part.inside) return;
  Channel of[V];
  float along[V], level[V];  // dx = factor (g - level - (x - mean) along)
  const double rows = static_cast<double>(c.k);
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const int64_t inner = part.inner * V + v, at = part.outer * c.inner * V + inner;
    of[v] = channel(at, inner, mean, var, scale, shift, eps);
    along[v] = static_cast<float>(deviation(var, at, eps) * dscale[at] / rows);
    level[v] = static_cast<float>(dshift[at] / rows);
  }
  for (int64_t k = part.first; k < part.end; k += part.step) {
    float gs[V], xs[V];
    load_vector<V>(g + part.index(c, k) * V, gs);
    load_vector<V>(x + part.index(c, k) * V, xs);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const float d = through(gs[v], xs[v], of[v], activation) - level[v];
      xs[v] = fmaf(of[v].mean - xs[v], along[v], d) * of[v].factor;
    }
    store_vector<V>(dx + part.index(c, k) * V, xs);
  }
}

// x^-beta, by roots for the exponents of published networks.
__device__ __forceinline__ float shrink(float x, float beta) {
  if (beta == 0.75f) {
    const float root = sqrtf(x);
    return 1.0f / (root * sqrtf(root));
  }
  return powf(x, -beta);
}

// k + alpha * sum of squares about channel c of a row.
template <class T>
__device__ __forceinline__ float activity(const LocalResponse& s, const T* row, int64_t c) {
  const int64_t first = c < s.before ? 0 : c - s.before;
  const int64_t end = s.channels - c <= s.after ? s.channels : c + s.after + 1;
  float total = 0;
  for (int64_t j = first; j < end; ++j) {
    const float v = load(row + j);
    total = fmaf(v, v, total);
  }
  return fmaf(total, s.alpha, s.k);
}

template <class T>
__global__ void local_response_kernel(LocalResponse s, Divider channels, const T* x, T* y) {
  ptx::begin_kernel();
  CNNFAST_EACH(i, s.rows * s.channels) {
    const Divided at = channels.divide(i);
    const float d = activity(s, x + at.quotient * s.channels, at.rest), v = load(x + i);
    store(y + i, s.beta == 0.75f ? v / (sqrtf(d) * sqrtf(sqrtf(d))) : v / powf(d, s.beta));
  }
}

// g x d^(-beta - 1): what every channel of the window shares.
template <class T>
__global__ void local_response_share_kernel(LocalResponse s, Divider channels, const T* x, const T* g,
                                            float* share) {
  ptx::begin_kernel();
  CNNFAST_EACH(i, s.rows * s.channels) {
    const Divided at = channels.divide(i);
    const float d = activity(s, x + at.quotient * s.channels, at.rest);
    share[i] = load(g + i) * shrink(d, s.beta) * load(x + i) / d;
  }
}

template <class T>
__global__ void local_response_grad_kernel(LocalResponse s, Divider channels, const T* x, const T* g,
                                           const float* share, T* dx) {
  ptx::begin_kernel();
  CNNFAST_EACH(i, s.rows * s.channels) {
    const Divided at = channels.divide(i);
    const int64_t row = at.quotient * s.channels, c = at.rest;
    // The windows with c are those of channels c - after .. c + before.
    const int64_t first = c < s.after ? 0 : c - s.after;
    const int64_t end = s.channels - c <= s.before ? s.channels : c + s.before + 1;
    float total = 0;
    for (int64_t j = first; j < end; ++j) total += share[row + j];
    const float own = load(g + i) * shrink(activity(s, x + row, c), s.beta);
    store(dx + i, own - 2 * s.alpha * s.beta * load(x + i) * total);
  }
}

template <class T>
__global__ void __launch_bounds__(kColumnThreads)
    l2_normalize_kernel(Columns c, double eps, const T* x, T* y) {
  ptx::begin_kernel();
  CNNFAST_SHARED(double, room, [kColumnThreads]);
  const ColumnPart part(c);
  double squares = 0;
  for (int64_t k = part.first; k < part.end; k += part.step) {
    const double v = load(x + part.index(c, k));
    squares += v * v;
  }
  squares = sqrt(combine(c, squares, room, Add()));
  const float length = static_cast<float>(squares < eps ? eps : squares);  // NaN stays NaN
  for (int64_t k = part.first; k < part.end; k += part.step)
    store(y + part.index(c, k), load(x + part.index(c, k)) / length);
}

}  // namespace

void normalize(DType type, NormShape s, const void* x, const float* mean, const float* var,
               const float* scale, const float* shift, double eps, int activation, float slope, void* y,
               cudaStream_t stream) {
  if (s.groups * s.rows * s.channels == 0) return;
  dispatch_vector(
      type, s.channels,
      [&](auto element, auto vector) {
        using T = decltype(element);
        constexpr int V = vector.value;
        const Columns c = row_parts(s.groups, s.rows, s.channels / V);
        CNNFAST_LAUNCH((normalize_kernel<T, V>), c.grid(), kColumnThreads, 0, stream, c,
                       static_cast<const T*>(x), mean, var, scale, shift, eps, activation, slope,
                       static_cast<T*>(y));
      },
      x, y);
}

int64_t statistics_workspace(NormShape s) {
  const Columns c = split_columns(s.groups, s.rows, s.channels);
  return c.count() * c.splits * static_cast<int64_t>(sizeof(Sums));
}

void statistics(DType type, NormShape s, const void* x, float* mean, float* var, void* workspace,
                cudaStream_t stream) {
  const Columns c = split_columns(s.groups, s.rows, s.channels);
  if (c.count() == 0) return;
  auto* parts = static_cast<Sums*>(workspace);
  dispatch_float(type, [&](auto element) {
    using T = decltype(element);
    const auto* in = static_cast<const T*>(x);
    CNNFAST_LAUNCH((moments_kernel<T>), c.grid(), kColumnThreads, 0, stream, c, in, parts);
    CNNFAST_LAUNCH((moments_end_kernel<T>), blocks_for(c.count(), 64), 64, 0, stream, c, Divider(c.inner), in,
                   parts, mean, var);
  });
}

void normalize_grad_sums(DType type, NormShape s, const void* g, const void* x, const float* mean,
                         const float* var, const float* scale, const float* shift, double eps, int activation,
                         float* dscale, float* dshift, void* workspace, cudaStream_t stream) {
  const Columns c = split_columns(s.groups, s.rows, s.channels);
  if (c.count() == 0) return;
  auto* parts = static_cast<Sums*>(workspace);
  dispatch_float(type, [&](auto element) {
    using T = decltype(element);
    CNNFAST_LAUNCH((grad_sums_kernel<T>), c.grid(), kColumnThreads, 0, stream, c, static_cast<const T*>(g),
                   static_cast<const T*>(x), mean, var, scale, shift, eps, activation, parts);
  });
  CNNFAST_LAUNCH((grad_sums_end_kernel), blocks_for(c.count(), 64), 64, 0, stream, c, Divider(c.inner), parts,
                 var, eps, dscale, dshift);
}

void normalize_grad(DType type, NormShape s, const void* g, const void* x, const float* mean,
                    const float* var, const float* scale, const float* shift, double eps, int activation,
                    void* dx, float* dscale, float* dshift, void* workspace, cudaStream_t stream) {
  normalize_grad_sums(type, s, g, x, mean, var, scale, shift, eps, activation, dscale, dshift, workspace,
                      stream);
  if (s.groups * s.rows * s.channels == 0) return;
  dispatch_vector(
      type, s.channels,
      [&](auto element, auto vector) {
        using T = decltype(element);
        constexpr int V = vector.value;
        const Columns rows = row_parts(s.groups, s.rows, s.channels / V);
        CNNFAST_LAUNCH((normalize_grad_kernel<T, V>), rows.grid(), kColumnThreads, 0, stream, rows,
                       static_cast<const T*>(g), static_cast<const T*>(x), mean, var, scale, shift, eps,
                       activation, dscale, dshift, static_cast<T*>(dx));
      },
      g, x, dx);
}

void local_response_norm(DType type, const LocalResponse& s, const void* x, void* y, cudaStream_t stream) {
  const int64_t count = s.rows * s.channels;
  if (count == 0) return;
  dispatch_float(type, [&](auto element) {
    using T = decltype(element);
    CNNFAST_LAUNCH((local_response_kernel<T>), blocks_for(count, kThreads), kThreads, 0, stream, s,
                   Divider(s.channels), static_cast<const T*>(x), static_cast<T*>(y));
  });
}

void local_response_norm_grad(DType type, const LocalResponse& s, const void* x, const void* g, void* dx,
                              float* workspace, cudaStream_t stream) {
  const int64_t count = s.rows * s.channels;
  if (count == 0) return;
  const unsigned blocks = blocks_for(count, kThreads);
  const Divider channels(s.channels);
  dispatch_float(type, [&](auto element) {
    using T = decltype(element);
    const auto *xs = static_cast<const T*>(x), *gs = static_cast<const T*>(g);
    CNNFAST_LAUNCH((local_response_share_kernel<T>), blocks, kThreads, 0, stream, s, channels, xs, gs,
                   workspace);
    CNNFAST_LAUNCH((local_response_grad_kernel<T>), blocks, kThreads, 0, stream, s, channels, xs, gs,
                   workspace, static_cast<T*>(dx));
  });
}

void l2_normalize(DType type, int64_t outer, int64_t k, int64_t inner, double eps, const void* x, void* y,
                  cudaStream_t stream) {
  if (outer * k * inner == 0) return;
  const Columns c = columns(outer, k, inner);
  dispatch_float(type, [&](auto element) {
    using T = decltype(element);
    CNNFAST_LAUNCH((l2_normalize_kernel<T>), c.grid(), kColumnThreads, 0, stream, c, eps,
                   static_cast<const T*>(x), static_cast<T*>(y));
  });
}

}  // namespace cnnfast::cuda
