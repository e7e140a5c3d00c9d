// The adjoint of convolution (gradient of its input, transpose convolution) and the gradient of its weight,
// both as products by the tiles of tiles.h.
//
// Adjoint: the pixels of the input that are alike modulo the stride (a phase) see the same taps, and see them
// through an ordinary window of stride 1 on g: row h = r + u sh of phase r meets tap i where sh divides
// r + pt - i dh, at row u + (r + pt - i dh) / sh of g. So nothing is multiplied that a stride leaves out.
// Rows are pixels of a phase, columns input channels, K the taps of the phase with output channels innermost,
// along which both g and the weight lie in memory. 2 N P Q O KH KW C/groups FLOPs; limit: FMA throughput.
//
// Weight: rows are (tap, input channel), columns output channels, K the pixels of g, of which splits take
// their shares. As many FLOPs; reads x KH KW O / BN times and g KH KW C / BM times through L2.
#include "cuda/conv2d.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "cuda/window.h"

namespace cnnfast::cuda {
namespace {

// Rows of the input that are the same modulo the stride, and the taps they meet: first, first + step, ...
struct Phase {
  int residue, first, taps, shift;
};

// Weights (KH, KW, C of a group, O) read along their output channels, only the taps of a phase.
template <class T, int V>
struct PhaseWeights {
  static constexpr int kVector = V;
  static constexpr bool kAlongK = true;
  struct Outer {
    int64_t offset;  // -1: outside
  };
  struct Inner {
    int64_t offset;
  };
  const T* data;
  int64_t o, tap;  // elements from input channel to input channel, from tap to tap
  int kw, first_i, first_j, step_i, step_j, wide;
  Divisor channels;

  __device__ Outer outer(int c, int count) const { return {c < count ? c * o : -1}; }
  __device__ Inner inner(int k, int count) const {
    if (k >= count) return {-1};
    const int t = channels.quotient(k), i = t / wide, j = t % wide;
    return {((first_i + i * step_i) * kw + first_j + j * step_j) * tap + channels.remainder(k, t)};
  }
  __device__ void read(const Outer& a, const Inner& b, float (&values)[V]) const {
    if (a.offset >= 0 && b.offset >= 0) {
      load_vector<V>(data + a.offset + b.offset, values);
    } else {
#pragma unroll
      for (int v = 0; v < V; ++v) values[v] = 0.0f;
    }
  }
};

// Pixel (u, v) of a phase is row first_row + u sh, column first_column + v sw, where there is such a pixel.
template <class T>
struct PhaseResult {
  static constexpr bool kSymmetric = false;
  T* data;
  int h, w, c, sh, sw, first_row, first_column;
  Divisor pixels, columns;  // of a phase
  bool vector;
  Finish<T> finish;
  __device__ void shift(int channels) {
    data += channels;
    finish.shift(channels);
  }
  __device__ int64_t row(int m) const {
    const int n = pixels.quotient(m), rest = pixels.remainder(m, n);
    const int u = columns.quotient(rest), v = columns.remainder(rest, u);
    const int row = first_row + u * sh, column = first_column + v * sw;
    return row < h && column < w ? ((static_cast<int64_t>(n) * h + row) * w + column) * c : -1;
  }
};

constexpr int kPhases = 8;  // along each axis in one launch

template <class T, int V>
struct AdjointProblem {
  using Element = T;
  using A = WindowOperand<T, V, true>;
  using B = PhaseWeights<T, V>;
  A g;  // of the first group, as all that follows
  B w;
  PhaseResult<T> dx;
  Phase rows[kPhases], columns[kPhases];
  Divisor wide[kPhases];  // taps of each phase side by side
  int across, down;       // phases of this launch
  int batch, m, n, k;     // k: of the phase with most taps
  int channels;           // output channels of a group

  __device__ Part<A, B, PhaseResult<T>> at(int z) const {
    const int group = z / (down * across), phase = z % (down * across);
    const Phase& i = rows[phase / across];
    const Phase& j = columns[phase % across];
    Part<A, B, PhaseResult<T>> part{g, w, dx, m, n, i.taps * j.taps * channels};
    part.a.data += group * channels;
    part.a.window.top = i.shift;
    part.a.window.left = j.shift;
    part.a.window.taps_wide = wide[phase % across];
    part.b.data += group * channels;
    part.b.first_i = i.first;
    part.b.first_j = j.first;
    part.b.wide = j.taps;
    part.result.first_row = i.residue;
    part.result.first_column = j.residue;
    part.result.shift(group * n);
    return part;
  }
};

// Of the phases of one axis, with the taps' step and how far a step reaches back in g.
struct Axis {
  std::vector<Phase> phases;
  int step, reach, extent;  // extent: pixels of the largest phase
};
Axis phases_of(int64_t size, int64_t k, int64_t stride, int64_t dilation, int64_t pad) {
  Axis axis;
  axis.step = checked(stride / std::gcd(stride, dilation));
  axis.reach = checked(axis.step * dilation / stride);
  axis.extent = checked(ceil_div(size, stride));
  for (int64_t r = 0; r < std::min(stride, size); ++r) {
    int64_t first = 0;
    while (first < std::min<int64_t>(axis.step, k) && (r + pad - first * dilation) % stride != 0) ++first;
    const bool any = first < std::min<int64_t>(axis.step, k);
    axis.phases.push_back({checked(r), static_cast<int>(first),
                           any ? checked(ceil_div(k - first, axis.step)) : 0,
                           any ? static_cast<int>((r + pad - first * dilation) / stride) : 0});
  }
  return axis;
}

template <class T, int V>
void launch_adjoint(const Conv2dSpec& s, const void* g, const void* w, const Ends& ends, void* dx,
                    Workspace& workspace, cudaStream_t stream) {
  const int64_t cg = s.c / s.groups, og = s.o / s.groups;
  const Axis rows = phases_of(s.h, s.kh, s.sh, s.dh, s.pt), columns = phases_of(s.w, s.kw, s.sw, s.dw, s.pl);
  const bool quads = cg % 4 == 0 && aligned(4 * sizeof(T), dx, ends.residual);
  AdjointProblem<T, V> problem{};
  problem.channels = checked(og);
  problem.m = checked(s.n * rows.extent * columns.extent);
  problem.n = checked(cg);
  Window& window = problem.g.window;
  problem.g.data = static_cast<const T*>(g);
  window.h = checked(s.p);
  window.w = checked(s.q);
  window.c = checked(s.o);
  window.sh = window.sw = 1;
  window.dh = -rows.reach;
  window.dw = -columns.reach;
  window.channels = Divisor(og);
  window.pixels = Divisor(int64_t{1} * rows.extent * columns.extent);
  window.columns = Divisor(columns.extent);
  problem.w = {
      static_cast<const T*>(w), s.o, cg * s.o, checked(s.kw), 0, 0, rows.step, columns.step, 1, Divisor(og)};
  problem.dx = {
      static_cast<T*>(dx), checked(s.h),   checked(s.w), checked(s.c),   checked(s.sh), checked(s.sw), 0, 0,
      window.pixels,       window.columns, quads,        finish<T>(ends)};
  const auto some = [](const std::vector<Phase>& all, size_t first, Phase* to) {
    const size_t count = std::min<size_t>(kPhases, all.size() - first);
    std::copy_n(all.begin() + static_cast<std::ptrdiff_t>(first), count, to);
    return static_cast<int>(count);
  };
  for (size_t i = 0; i < rows.phases.size(); i += kPhases) {
    problem.down = some(rows.phases, i, problem.rows);
    for (size_t j = 0; j < columns.phases.size(); j += kPhases) {
      problem.across = some(columns.phases, j, problem.columns);
      problem.batch = checked(s.groups * problem.down * problem.across);
      int64_t high = 0, wide = 0;
      for (int a = 0; a < problem.down; ++a) high = std::max<int64_t>(high, problem.rows[a].taps);
      for (int b = 0; b < problem.across; ++b) {
        wide = std::max<int64_t>(wide, problem.columns[b].taps);
        problem.wide[b] = Divisor(problem.columns[b].taps);
      }
      problem.k = checked(high * wide * og);
      launch_product(problem, workspace, stream);
    }
  }
}

template <class T, int VX, int VG>
struct WeightProblem {
  using Element = T;
  using A = WindowOperand<T, VX, false>;
  using B = MatrixOperand<T, VG, false>;
  A x;  // of the first group, as all that follows
  B g;
  MatrixResult<T> dw;
  int batch, m, n, k;  // batch: groups
  int channels;        // input channels of a group

  __device__ Part<A, B, MatrixResult<T>> at(int group) const {
    Part<A, B, MatrixResult<T>> part{x, g, dw, m, n, k};
    part.a.data += group * channels;
    part.b.data += group * n;
    part.result.shift(group * n);
    return part;
  }
};

template <class T>
void launch_grad_weight(const Conv2dSpec& s, const void* x, const void* g, void* dw, Workspace& workspace,
                        cudaStream_t stream) {
  const int64_t cg = s.c / s.groups, og = s.o / s.groups;
  const bool x_quads = cg % 4 == 0 && aligned(4 * sizeof(T), x),
             g_quads = og % 4 == 0 && aligned(4 * sizeof(T), g);
  const MatrixResult<T> result{static_cast<T*>(dw), s.o, og % 4 == 0 && aligned(4 * sizeof(T), dw),
                               finish<T>({})};
  choose_vectors<T, false>(x_quads, g_quads, [&](auto vx, auto vg) {
    const WeightProblem<T, vx(), vg()> problem{{static_cast<const T*>(x), window_of(s)},
                                               {static_cast<const T*>(g), s.o},
                                               result,
                                               checked(s.groups),
                                               checked(s.depth()),
                                               checked(og),
                                               checked(s.n * s.p * s.q),
                                               static_cast<int>(cg)};
    launch_product(problem, workspace, stream);
  });
}

}  // namespace

void conv2d_adjoint(DType type, const Conv2dSpec& s, const void* g, const void* w, const Ends& ends, void* dx,
                    Workspace& workspace, cudaStream_t stream) {
  if (s.n * s.h * s.w * s.c == 0) return;
  if (is_depthwise(s)) return depthwise_adjoint(type, s, g, w, ends, dx, stream);
  if (is_pointwise(s))
    return gemm(type, {s.n * s.h * s.w, s.c, s.o, false, true, {}}, g, w, ends, dx, workspace, stream);
  dispatch_float(type, [&](auto zero) {
    using T = decltype(zero);
    const bool quads = s.o / s.groups % 4 == 0 && aligned(4 * sizeof(T), g, w);
    choose_vectors<T, false>(quads, quads, [&](auto v, auto same) {
      if constexpr (v() == same()) launch_adjoint<T, v()>(s, g, w, ends, dx, workspace, stream);
    });
  });
}

void conv2d_grad_weight(DType type, const Conv2dSpec& s, const void* x, const void* g, void* dw,
                        Workspace& workspace, cudaStream_t stream) {
  if (is_depthwise(s)) return depthwise_grad_weight(type, s, x, g, dw, workspace, stream);
  if (is_pointwise(s))
    return gemm(type, {s.c, s.o, s.n * s.p * s.q, true, false, {}}, x, g, {}, dw, workspace, stream);
  dispatch_float(type,
                 [&](auto zero) { launch_grad_weight<decltype(zero)>(s, x, g, dw, workspace, stream); });
}

}  // namespace cnnfast::cuda
