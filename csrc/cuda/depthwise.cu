// Depthwise convolution and its gradients: a channel sees only itself, so lanes are channels and there is
// nothing to multiply twice. 2 KH KW FLOPs for every element written; limit: memory, at 8 bytes an element if
// x is read once.
#include "cuda/conv2d.h"

#include <algorithm>

#include "cuda/tiles.h"

namespace cnnfast::cuda {
namespace {

constexpr int kThreads = 128;

// Shapes in 32 bits; M kernels to a channel, o = c M.
struct Shape {
  int n, h, w, c, kh, kw, o, multiplier, sh, sw, dh, dw, pt, pl, p, q;
};
Shape shape_of(const Conv2dSpec& s) {
  checked(s.p * s.sh + s.kh * s.dh);
  checked(s.q * s.sw + s.kw * s.dw);
  checked(s.n * s.p * s.q);
  checked(s.q * s.o);
  checked(s.w * s.c);
  return {checked(s.n),  checked(s.h),       checked(s.w),  checked(s.c),  checked(s.kh), checked(s.kw),
          checked(s.o),  checked(s.o / s.c), checked(s.sh), checked(s.sw), checked(s.dh), checked(s.dw),
          checked(s.pt), checked(s.pl),      checked(s.p),  checked(s.q)};
}

template <int V, class T>
__device__ __forceinline__ void finish_vector(const Finish<T>& f, T* y, int64_t at, int channel,
                                              float (&sum)[V]) {
  if (f.bias != nullptr) {
#pragma unroll
    for (int v = 0; v < V; ++v) sum[v] += f.bias[channel + v];
  }
  if (f.residual != nullptr) {
    float r[V];
    load_vector(f.residual + at, r);
#pragma unroll
    for (int v = 0; v < V; ++v) sum[v] += r[v];
  }
  activate_all(sum, f.activation, f.slope);
  store_vector(y + at, sum);
}

// How threads are dealt out: quads of channels, tiles across and down, pictures.
struct Tiling {
  int count;
  Divisor quads, across, down;
};

// One kernel per channel, K x K, stride S along both axes, no dilation. A thread makes P rows of Q pixels of
// V channels: each row of the picture that they need is read into registers once, ((Q - 1) S + K) V values,
// and multiplied for all P rows. Neighbouring threads hold neighbouring channels. With `turned` the kernel is
// turned by 180 degrees: the adjoint at stride 1. Registers: P Q V sums, ((Q - 1) S + K) V of the picture, V
// of the weight.
template <class T, int K, int S, int P, int Q, int V>
__global__ void __launch_bounds__(kThreads)
    window_kernel(const T* x, const T* w, Finish<T> finish, T* y, Shape s, Tiling grid, int turned) {
  ptx::begin_kernel();
  constexpr int kWide = (Q - 1) * S + K;
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= grid.count) return;
  const int rest = grid.quads.quotient(i), channel = grid.quads.remainder(i, rest) * V;
  const int tile = grid.across.quotient(rest), q0 = grid.across.remainder(rest, tile) * Q;
  const int n = grid.down.quotient(tile), p0 = grid.down.remainder(tile, n) * P;
  const int top = p0 * S - s.pt, left = q0 * S - s.pl;

  float sums[P][Q][V] = {};
#pragma unroll
  for (int r = 0; r < (P - 1) * S + K; ++r) {
    const int row = top + r;
    if (static_cast<unsigned>(row) >= static_cast<unsigned>(s.h)) continue;
    const T* from = x + (int64_t{1} * n * s.h + row) * s.w * s.c + channel;
    float pixels[kWide][V];
#pragma unroll
    for (int k = 0; k < kWide; ++k) {
      const int column = left + k;
      if (static_cast<unsigned>(column) < static_cast<unsigned>(s.w)) {
        load_vector(from + int64_t{1} * column * s.c, pixels[k]);
      } else {
#pragma unroll
        for (int v = 0; v < V; ++v) pixels[k][v] = 0.0f;
      }
    }
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const int tap = r - p * S;
      if (tap < 0 || tap >= K) continue;
#pragma unroll
      for (int j = 0; j < K; ++j) {
        const int at = tap * K + j;
        float weight[V];
        load_vector(w + int64_t{1} * (turned ? K * K - 1 - at : at) * s.c + channel, weight);
#pragma unroll
        for (int q = 0; q < Q; ++q)
#pragma unroll
          for (int v = 0; v < V; ++v) sums[p][q][v] = fmaf(pixels[q * S + j][v], weight[v], sums[p][q][v]);
      }
    }
  }
  // One pixel of a row at a time, picked by comparing as in tiles.h, so that what follows a sum is there
  // once; of single channels it is short, and registers are spilled otherwise.
#pragma unroll
  for (int p = 0; p < P; ++p)
#pragma unroll(V == 1 ? Q : 1)
    for (int q = 0; q < Q; ++q) {
      float sum[V] = {};
#pragma unroll
      for (int i = 0; i < Q; ++i)
        if (i == q)
#pragma unroll
          for (int v = 0; v < V; ++v) sum[v] = sums[p][i][v];
      if (p0 + p < s.p && q0 + q < s.q)
        finish_vector(finish, y, ((int64_t{1} * n * s.p + p0 + p) * s.q + q0 + q) * s.o + channel, channel,
                      sum);
    }
}

// Any shape: blocks take rows of the result, a thread one value at a time.
template <class T>
__global__ void __launch_bounds__(kThreads)
    any_kernel(const T* x, const T* w, Finish<T> finish, T* y, Shape s, int rows) {
  ptx::begin_kernel();
  for (int row = blockIdx.x; row < rows; row += gridDim.x) {
    const int n = row / s.p, p = row % s.p;
    for (int e = blockIdx.y * kThreads + threadIdx.x; e < s.q * s.o; e += gridDim.y * kThreads) {
      const int q = e / s.o, o = e % s.o, c = o / s.multiplier;
      float sum[1] = {0.0f};
      for (int i = 0; i < s.kh; ++i) {
        const int h = p * s.sh - s.pt + i * s.dh;
        if (static_cast<unsigned>(h) >= static_cast<unsigned>(s.h)) continue;
        for (int j = 0; j < s.kw; ++j) {
          const int column = q * s.sw - s.pl + j * s.dw;
          if (static_cast<unsigned>(column) >= static_cast<unsigned>(s.w)) continue;
          sum[0] = fmaf(load(x + ((int64_t{1} * n * s.h + h) * s.w + column) * s.c + c),
                        load(w + int64_t{1} * (i * s.kw + j) * s.o + o), sum[0]);
        }
      }
      finish_vector(finish, y, int64_t{1} * row * s.q * s.o + e, o, sum);
    }
  }
}

// The adjoint for any shape: a thread gathers V channels (one where a channel has several kernels) of one
// pixel from the pixels of g that saw it.
template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    adjoint_kernel(const T* g, const T* w, Finish<T> finish, T* dx, Shape s, int rows) {
  ptx::begin_kernel();
  const int quads = s.c / V;
  for (int line = blockIdx.x; line < rows; line += gridDim.x) {
    const int n = line / s.h, row = line % s.h;
    for (int e = blockIdx.y * kThreads + threadIdx.x; e < s.w * quads; e += gridDim.y * kThreads) {
      const int column = e / quads, c = e % quads * V;
      float sum[V] = {};
      for (int i = 0; i < s.kh; ++i) {
        const int up = row + s.pt - i * s.dh, p = up / s.sh;
        if (up < 0 || up % s.sh != 0 || p >= s.p) continue;
        for (int j = 0; j < s.kw; ++j) {
          const int back = column + s.pl - j * s.dw, q = back / s.sw;
          if (back < 0 || back % s.sw != 0 || q >= s.q) continue;
          const int64_t pixel = (int64_t{1} * n * s.p + p) * s.q + q, tap = i * s.kw + j;
          for (int m = 0; m < s.multiplier; ++m) {
            float a[V], b[V];
            load_vector(g + pixel * s.o + c * s.multiplier + m, a);
            load_vector(w + tap * s.o + c * s.multiplier + m, b);
#pragma unroll
            for (int v = 0; v < V; ++v) sum[v] = fmaf(a[v], b[v], sum[v]);
          }
        }
      }
      finish_vector(finish, dx, (int64_t{1} * line * s.w + column) * s.c + c, c, sum);
    }
  }
}

// --- gradient of the weight ------------------------------------------------------------------------

constexpr int kLanes = 32, kWarps = 8;

// dw[tap, o] as a sum over the rows (n, p) of a block's share. Lanes are output channels, warps take every
// eighth row; a thread holds all K x K sums of its channel while it walks along a row, with the K x K pixels
// that the window sees in registers: K S new ones a step. What eight warps have is added in their order, and
// what blocks have by a second kernel in theirs. 2 K K FLOPs for each element of g; reads g once and x K / S
// times, of which L1 keeps all but one; limit: loads, K S + 1 for K K FMAs.
template <class T, int K, int S>
__global__ void __launch_bounds__(kLanes* kWarps, K == 3 ? 2 : 1)
    grad_weight_kernel(const T* x, const T* g, Shape s, int share, float* partial) {
  ptx::begin_kernel();
  CNNFAST_SHARED(float, held, [kWarps][kLanes]);
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const int c = blockIdx.x * kLanes + lane;
  const int rows = s.n * s.p, first = blockIdx.y * share, last = min(first + share, rows);
  float sums[K * K] = {};
  if (c < s.c)
    for (int r = first + warp; r < last; r += kWarps) {
      const int n = r / s.p, top = r % s.p * S - s.pt;
      const T* picture = x + int64_t{1} * n * s.h * s.w * s.c + c;
      float window[K][K];
      const auto read = [&](int column, int j) {
#pragma unroll
        for (int i = 0; i < K; ++i) {
          const bool inside = static_cast<unsigned>(top + i) < static_cast<unsigned>(s.h) &&
                              static_cast<unsigned>(column) < static_cast<unsigned>(s.w);
          window[i][j] = inside ? load(picture + (int64_t{1} * (top + i) * s.w + column) * s.c) : 0.0f;
        }
      };
#pragma unroll
      for (int j = 0; j + S < K; ++j) read(j - s.pl, j + S);
      for (int q = 0; q < s.q; ++q) {
#pragma unroll
        for (int i = 0; i < K; ++i)
#pragma unroll
          for (int j = 0; j + S < K; ++j) window[i][j] = window[i][j + S];
#pragma unroll
        for (int j = K > S ? K - S : 0; j < K; ++j) read(q * S - s.pl + j, j);
        const float gradient = load(g + (int64_t{1} * r * s.q + q) * s.c + c);
#pragma unroll
        for (int t = 0; t < K * K; ++t) sums[t] = fmaf(window[t / K][t % K], gradient, sums[t]);
      }
    }
#pragma unroll
  for (int t = 0; t < K * K; ++t) {
    held[warp][lane] = sums[t];
    __syncthreads();
    if (warp == 0 && c < s.c) {
      float sum = held[0][lane];
      for (int i = 1; i < kWarps; ++i) sum += held[i][lane];
      partial[(int64_t{1} * blockIdx.y * K * K + t) * s.c + c] = sum;
    }
    __syncthreads();
  }
}

// Any shape: one tap per block; warps take every eighth pixel.
template <class T>
__global__ void __launch_bounds__(kLanes* kWarps)
    grad_weight_any_kernel(const T* x, const T* g, Shape s, int share, float* partial) {
  ptx::begin_kernel();
  CNNFAST_SHARED(float, held, [kWarps][kLanes]);
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes, taps = s.kh * s.kw;
  const int o = blockIdx.x * kLanes + lane, c = o / s.multiplier;
  const int i = blockIdx.y % taps / s.kw, j = blockIdx.y % s.kw;
  const int block = blockIdx.z, first = block * share, last = min(first + share, s.n * s.p * s.q);
  float sum = 0.0f;
  if (o < s.o)
    for (int pixel = first + warp; pixel < last; pixel += kWarps) {
      const int above = pixel / s.q, q = pixel % s.q, n = above / s.p, p = above % s.p;
      const int row = p * s.sh - s.pt + i * s.dh, column = q * s.sw - s.pl + j * s.dw;
      if (static_cast<unsigned>(row) < static_cast<unsigned>(s.h) &&
          static_cast<unsigned>(column) < static_cast<unsigned>(s.w))
        sum = fmaf(load(x + ((int64_t{1} * n * s.h + row) * s.w + column) * s.c + c),
                   load(g + int64_t{1} * pixel * s.o + o), sum);
    }
  held[warp][lane] = sum;
  __syncthreads();
  if (warp > 0 || o >= s.o) return;
  for (int k = 1; k < kWarps; ++k) sum += held[k][lane];
  partial[(int64_t{1} * block * taps + i * s.kw + j) * s.o + o] = sum;
}

// --- choices ---------------------------------------------------------------------------------------

unsigned blocks_of(int64_t threads) {
  const int64_t blocks = ceil_div(threads, kThreads);
  if (blocks > INT32_MAX) throw std::invalid_argument("depthwise: the result is too large for one launch");
  return static_cast<unsigned>(blocks);
}

// Blocks for the rows of all pictures, and for so many threads along each.
dim3 rows_of(int n, int rows, int along) {
  return {blocks_for(checked(int64_t{1} * n * rows), 1),
          static_cast<unsigned>(std::min<int64_t>(32, ceil_div(along, kThreads)))};
}

// Calls body(Int<K>, Int<S>) where there is a kernel for this window, or gives false.
template <class F>
bool for_window(const Shape& s, F&& body) {
  if (s.multiplier != 1 || s.kh != s.kw || s.sh != s.sw || s.sh > 2) return false;
  if ((s.dh != 1 || s.dw != 1) && s.kh != 1) return false;
  const auto strided = [&](auto k) {
    if (s.sh == 1)
      body(k, Int<1>{});
    else
      body(k, Int<2>{});
    return true;
  };
  if (s.kh == 3) return strided(Int<3>{});
  if (s.kh == 5) return strided(Int<5>{});
  if (s.kh == 7) return strided(Int<7>{});
  return false;
}

template <class T, int K, int S>
void launch_window(const Shape& s, const T* x, const T* w, const Finish<T>& finish, T* y, bool turned,
                   cudaStream_t stream) {
  // 16 bytes of channels, and as many pixels as registers hold.
  constexpr int kMost = 16 / static_cast<int>(sizeof(T));
  const auto run = [&](auto v, auto p, auto q) {
    constexpr int V = decltype(v)::value, P = decltype(p)::value, Q = decltype(q)::value;
    const int64_t across = ceil_div(s.q, Q), down = ceil_div(s.p, P);
    const Tiling grid{checked(s.n * down * across * (s.c / V)), Divisor(s.c / V), Divisor(across),
                      Divisor(down)};
    CNNFAST_LAUNCH((window_kernel<T, K, S, P, Q, V>), blocks_of(grid.count), kThreads, 0, stream, x, w,
                   finish, y, s, grid, turned ? 1 : 0);
  };
  if (s.c % kMost == 0 && aligned(16, x, w, finish.residual, y)) {
    if constexpr (kMost == 4)
      run(Int<4>{}, Int<(S == 1 && K < 7) ? 2 : 1>{}, Int<4>{});
    else if constexpr (K < 7)
      run(Int<8>{}, Int<1>{}, Int < S == 1 ? 4 : 2 > {});
    else
      run(Int<4>{}, Int<1>{}, Int<2>{});  // a row of more would not fit into registers
  } else {
    run(Int<1>{}, Int<2>{}, Int<4>{});
  }
}

}  // namespace

void depthwise(DType type, const Conv2dSpec& spec, const void* x, const void* w, const Ends& ends, void* y,
               cudaStream_t stream) {
  const Shape s = shape_of(spec);
  const int64_t total = spec.n * spec.p * spec.q * spec.o;
  if (total == 0) return;
  dispatch_float(type, [&](auto zero) {
    using T = decltype(zero);
    const auto *from = static_cast<const T*>(x), *weight = static_cast<const T*>(w);
    const Finish<T> end = finish<T>(ends);
    auto* to = static_cast<T*>(y);
    const bool done = for_window(s, [&](auto k, auto stride) {
      launch_window<T, decltype(k)::value, decltype(stride)::value>(s, from, weight, end, to, false, stream);
    });
    if (!done)
      CNNFAST_LAUNCH((any_kernel<T>), rows_of(s.n, s.p, s.q * s.o), kThreads, 0, stream, from, weight, end,
                     to, s, s.n * s.p);
  });
}

void depthwise_adjoint(DType type, const Conv2dSpec& spec, const void* g, const void* w, const Ends& ends,
                       void* dx, cudaStream_t stream) {
  const Shape s = shape_of(spec);
  const int64_t total = spec.n * spec.h * spec.w * spec.c;
  if (total == 0) return;
  dispatch_float(type, [&](auto zero) {
    using T = decltype(zero);
    const auto *from = static_cast<const T*>(g), *weight = static_cast<const T*>(w);
    const Finish<T> end = finish<T>(ends);
    auto* to = static_cast<T*>(dx);
    bool done = false;
    if (s.sh == 1 && s.sw == 1) {
      // The convolution of g with the kernel turned, padded so that the window reaches what saw a pixel.
      Shape turned = s;
      turned.h = s.p;
      turned.w = s.q;
      turned.p = s.h;
      turned.q = s.w;
      turned.pt = s.kh - 1 - s.pt;
      turned.pl = s.kw - 1 - s.pl;
      done = for_window(turned, [&](auto k, auto stride) {
        if constexpr (decltype(stride)::value == 1)
          launch_window<T, decltype(k)::value, 1>(turned, from, weight, end, to, true, stream);
      });
    }
    if (done) return;
    constexpr int kMost = 16 / static_cast<int>(sizeof(T));
    if (s.multiplier == 1 && s.c % kMost == 0 && aligned(16, g, w, ends.residual, dx))
      CNNFAST_LAUNCH((adjoint_kernel<T, kMost>), rows_of(s.n, s.h, s.w * s.c / kMost), kThreads, 0, stream,
                     from, weight, end, to, s, s.n * s.h);
    else
      CNNFAST_LAUNCH((adjoint_kernel<T, 1>), rows_of(s.n, s.h, s.w * s.c), kThreads, 0, stream, from, weight,
                     end, to, s, s.n * s.h);
  });
}

void depthwise_grad_weight(DType type, const Conv2dSpec& spec, const void* x, const void* g, void* dw,
                           Workspace& workspace, cudaStream_t stream) {
  const Shape s = shape_of(spec);
  const int64_t count = spec.kh * spec.kw * spec.o;
  dispatch_float(type, [&](auto zero) {
    using T = decltype(zero);
    const auto *from = static_cast<const T*>(x), *gradient = static_cast<const T*>(g);
    const unsigned columns = static_cast<unsigned>(ceil_div(s.o, kLanes));
    int64_t blocks = 0;
    float* partial = nullptr;
    // Blocks that fill the largest devices, at least two lines of the walk to each warp.
    const auto share_out = [&](int64_t lines, int64_t beside) {
      const int64_t wanted =
          std::max<int64_t>(1, std::min<int64_t>(2 * kFill / beside, lines / (2 * kWarps)));
      const int64_t share = std::max<int64_t>(1, ceil_div(lines, wanted));
      blocks = std::max<int64_t>(1, ceil_div(lines, share));
      partial = workspace.floats(blocks * count);
      return checked(share);
    };
    const bool done = for_window(s, [&](auto k, auto stride) {
      constexpr int K = decltype(k)::value, S = decltype(stride)::value;
      const int share = share_out(spec.n * spec.p, columns);
      CNNFAST_LAUNCH((grad_weight_kernel<T, K, S>), dim3(columns, static_cast<unsigned>(blocks)),
                     kLanes * kWarps, 0, stream, from, gradient, s, share, partial);
    });
    if (!done) {
      const int share = share_out(spec.n * spec.p * spec.q, columns * spec.kh * spec.kw);
      const dim3 grid(columns, static_cast<unsigned>(checked(spec.kh * spec.kw)),
                      static_cast<unsigned>(blocks));
      CNNFAST_LAUNCH((grad_weight_any_kernel<T>), grid, kLanes * kWarps, 0, stream, from, gradient, s, share,
                     partial);
    }
    join_sums(type, blocks, count, partial, dw, stream);
  });
}

}  // namespace cnnfast::cuda
