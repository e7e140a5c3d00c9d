// Depthwise convolution, and groups of G channels in and out. Algorithm: channels across lanes. 3x3 kernels
// with stride 1 or 2 walk down strips of up to kRollingWidth output columns: each input row is read once and
// added to the sums of all output rows that it touches, which wait in registers (rolling accumulators); the
// nine weights stay in registers too. Other kernels sum one output row of up to kRowsWidth columns at a time.
// Groups: the lanes hold whole groups. Each of the G channels of an input vector is repeated over the lanes
// of its group and multiplied by one vector of weights, which lie as they are needed.
// Accumulators: per output pixel one vector, taps in row-major order, in rows of groups channel by channel.
// At the borders of the picture columns outside are skipped; groups read zeros through selected pointers. The
// last channels overlap their neighbours instead of being masked (computed twice, with the same result).
#pragma once
#include "kernels/activation.inl"
#include "kernels/depthwise.h"
#include "kernels/simd.h"

namespace {

#if defined(CNNFAST_LEVEL_V4) || defined(CNNFAST_LEVEL_NEON)
constexpr bool kManyRegisters = true;
constexpr int kRollingWidth = 7, kStridedWidth = 6, kRowsWidth = 8, kGroupsWidth = 8;
#else
constexpr bool kManyRegisters = false;
constexpr int kRollingWidth = 4, kStridedWidth = 4, kRowsWidth = VL == 8 ? 8 : 4,
              kGroupsWidth = VL == 8 ? 6 : 4;
#endif
constexpr int kStripWidth = 8;  // room in the tables

CNNFAST_INLINE const float* depthwise_row(const cnnfast::DepthwiseImage* a, int64_t row) {
  return a->x + (row - (row >= a->fold ? a->ring : 0)) * a->w * a->c;
}

// What follows the sums, with every pointer ready for one channel vector of one strip.
struct DepthwiseOut {
  float* y;
  const float* residual;
  vf bias;
  int64_t row, column;  // strides
  int activation;
  float slope;
};

CNNFAST_INLINE DepthwiseOut depthwise_out(const cnnfast::DepthwiseImage* a, int64_t q0, int64_t c) {
  DepthwiseOut o;
  o.y = a->y + q0 * a->c + c;
  o.residual = a->residual ? a->residual + q0 * a->c + c : nullptr;
  o.bias = a->bias ? load(a->bias + c) : vf{};
  o.row = a->q * a->c;
  o.column = a->c;
  o.activation = a->activation;
  o.slope = a->slope;
  return o;
}

template <int T>
CNNFAST_INLINE void depthwise_write(const DepthwiseOut& o, int64_t p, const vf* sums) {
  float* y = o.y + p * o.row;
  vf v[T];
  CNNFAST_UNROLL
  for (int t = 0; t < T; ++t) v[t] = sums[t] + o.bias;
  if (o.residual) {
    const float* r = o.residual + p * o.row;
    CNNFAST_UNROLL
    for (int t = 0; t < T; ++t) v[t] += load(r + t * o.column);
  }
  if (o.activation == cnnfast::kRelu || o.activation == cnnfast::kRelu6) {
    const vf top = splat(o.activation == cnnfast::kRelu6 ? 6.0f : __builtin_inff());
    CNNFAST_UNROLL
    for (int t = 0; t < T; ++t) v[t] = vmin(top, vmax(vf{}, v[t]));
  }
  CNNFAST_UNROLL
  for (int t = 0; t < T; ++t) store(y + t * o.column, v[t]);
}

// The dearer activations, every few rows of a strip: a call has to save all sums that wait in registers.
constexpr int kActivatedRows = 16;
static __attribute__((noinline)) void depthwise_activate(const DepthwiseOut* o, int64_t first, int64_t last,
                                                         int columns) {
  float* pixels[kActivatedRows * kStripWidth];
  int count = 0;
  for (int64_t p = first; p < last; ++p)
    for (int t = 0; t < columns; ++t) pixels[count++] = o->y + p * o->row + t * o->column;
  activate_rows(o->activation, o->slope, pixels, count, VL);
}
// Output row p of p0 .. p1 is finished.
CNNFAST_INLINE void depthwise_finish(const DepthwiseOut& o, int64_t p0, int64_t p, int64_t p1, int columns) {
  if (o.activation <= cnnfast::kRelu6) return;
  const int64_t waiting = (p - p0) % kActivatedRows + 1;
  if (waiting == kActivatedRows || p + 1 == p1) depthwise_activate(&o, p + 1 - waiting, p + 1, columns);
}

// Input columns first .. last of a strip lie inside the picture.
struct DepthwiseInside {
  int64_t first, last;
};

// Adds one row of input columns to the sums of the R output rows that it touches, each with T columns and its
// own kernel row: a vector is loaded once and multiplied by all weights that meet it. EDGE: columns outside
// are skipped.
template <int R, int KW, int S, int T, bool EDGE>
CNNFAST_INLINE void depthwise_add(const float* in, int64_t step, DepthwiseInside inside, const vf (*w)[KW],
                                  vf (*sums)[T]) {
  constexpr int N = (T - 1) * S + KW;
  // All of them at once where registers allow, as pictures seldom lie in the first-level cache.
  constexpr bool kAtOnce = kManyRegisters && R < 3;
  auto outside = [&](int n) { return EDGE && (n < inside.first || n >= inside.last); };
  vf x[N];
  CNNFAST_UNROLL
  for (int n = 0; kAtOnce && n < N; ++n) x[n] = outside(n) ? vf{} : load(in + n * step);
  CNNFAST_UNROLL
  for (int n = 0; n < N; ++n) {
    if (outside(n)) continue;
    if (!kAtOnce) x[n] = load(in + n * step);
    CNNFAST_UNROLL
    for (int r = 0; r < R; ++r) {
      CNNFAST_UNROLL
      for (int t = 0; t < T; ++t)
        if (n >= t * S && n < t * S + KW) sums[r][t] = fma(x[n], w[r][n - t * S], sums[r][t]);
    }
  }
}

// 3x3, stride S: walks down output rows p0 .. p1 of T columns.
template <int S, int T, bool EDGE>
static __attribute__((noinline)) void depthwise_3x3(const cnnfast::DepthwiseImage* a, int64_t p0, int64_t p1,
                                                    int64_t q0, int64_t c) {
  const int64_t column = q0 * S - a->pl, top = p0 * S - a->pt, step = a->c;
  const DepthwiseInside inside = {-column, a->w - column};
  const DepthwiseOut out = depthwise_out(a, q0, c);
  // Kernel rows in the order of the sums they go to, the oldest first: 2, 1, 0; with stride 2 2 and 0,
  // then 1.
  vf w[3][3], sums[3][T];
  CNNFAST_UNROLL
  for (int i = 0; i < 9; ++i)
    w[S == 1 ? 2 - i / 3 : (i / 3 + 1) % 3][i % 3] = load(a->weights + i * step + c);
  auto row = [&](int64_t k) -> const float* {
    return top + k >= 0 && top + k < a->h ? depthwise_row(a, top + k) + column * step + c : nullptr;
  };
  auto shift = [&](vf* to, const vf* from) __attribute__((always_inline)) {
    CNNFAST_UNROLL
    for (int t = 0; t < T; ++t) to[t] = from ? from[t] : vf{};
  };
  shift(sums[0], nullptr), shift(sums[1], nullptr), shift(sums[2], nullptr);
  if (const float* in = row(0))
    depthwise_add<1, 3, S, T, EDGE>(in, step, inside, S == 1 ? w + 2 : w + 1, S == 1 ? sums : sums + 1);
  if (S == 1)
    if (const float* in = row(1)) depthwise_add<2, 3, S, T, EDGE>(in, step, inside, w + 1, sums);
  for (int64_t p = p0; p < p1; ++p) {
    if (S == 1) {
      if (const float* in = row(p - p0 + 2)) depthwise_add<3, 3, S, T, EDGE>(in, step, inside, w, sums);
    } else {
      shift(sums[0], sums[1]), shift(sums[1], nullptr);
      if (const float* in = row(2 * (p - p0) + 1))
        depthwise_add<1, 3, S, T, EDGE>(in, step, inside, w + 2, sums);
      if (const float* in = row(2 * (p - p0) + 2)) depthwise_add<2, 3, S, T, EDGE>(in, step, inside, w, sums);
    }
    depthwise_write<T>(out, p, sums[0]);
    if (S == 1) shift(sums[0], sums[1]), shift(sums[1], sums[2]), shift(sums[2], nullptr);
    depthwise_finish(out, p0, p, p1, T);
  }
}

// Kernel width KW, stride S along the row, any height, vertical stride and vertical dilation.
template <int KW, int S, int T, bool EDGE>
static __attribute__((noinline)) void depthwise_rows(const cnnfast::DepthwiseImage* a, int64_t p0, int64_t p1,
                                                     int64_t q0, int64_t c) {
  const int64_t column = q0 * S - a->pl, step = a->c;
  const DepthwiseInside inside = {-column, a->w - column};
  const DepthwiseOut out = depthwise_out(a, q0, c);
  for (int64_t p = p0; p < p1; ++p) {
    vf sums[1][T];
    CNNFAST_UNROLL
    for (int t = 0; t < T; ++t) sums[0][t] = vf{};
    for (int64_t i = 0; i < a->kh; ++i) {
      const int64_t iy = p * a->sh - a->pt + i * a->dh;
      if (iy < 0 || iy >= a->h) continue;
      vf w[1][KW];
      CNNFAST_UNROLL
      for (int j = 0; j < KW; ++j) w[0][j] = load(a->weights + (i * KW + j) * step + c);
      depthwise_add<1, KW, S, T, EDGE>(depthwise_row(a, iy) + column * step + c, step, inside, w, sums);
    }
    depthwise_write<T>(out, p, sums[0]);
    depthwise_finish(out, p0, p, p1, T);
  }
}

template <int G, int K>
constexpr int lane_of_channel(int l) {
  return l / G * G + K;
}
// Calls f(vector -> its channel K of every group, K) for all K.
template <int G, int K = 0, class F>
CNNFAST_INLINE void each_channel(F f) {
  if constexpr (K < G) {
    f([](vf x)
          __attribute__((always_inline)) { return G == 1 ? x : pick_lanes<lane_of_channel<G, K>>(x, x); },
      K);
    each_channel<G, K + 1>(f);
  }
}

// Groups: the N input vectors of one row that a strip looks at; EDGE: some columns lie outside.
template <int N, bool EDGE>
struct DepthwiseColumns {
  int64_t offset[EDGE ? N : 1];
  bool inside[EDGE ? N : 1];
  int64_t first, step;

  static inline __attribute__((always_inline)) DepthwiseColumns make(const cnnfast::DepthwiseImage* a,
                                                                     int64_t column, int64_t c) {
    DepthwiseColumns d;
    d.first = column * a->c + c;
    d.step = a->c;
    if (EDGE)
      for (int i = 0; i < N; ++i) {
        d.inside[i] = column + i >= 0 && column + i < a->w;
        d.offset[i] = d.first + i * a->c;
      }
    return d;
  }
  inline __attribute__((always_inline)) void read(const float* row, const float* zero, vf* x) const {
    CNNFAST_UNROLL
    for (int i = 0; i < N; ++i)
      x[i] = load(EDGE ? (inside[i] ? row + offset[i] : zero) : row + first + i * step);
  }
};

// Groups of G channels, otherwise the same.
template <int G, int KW, int S, int T, bool EDGE>
static __attribute__((noinline)) void depthwise_group_rows(const cnnfast::DepthwiseImage* a, int64_t p0,
                                                           int64_t p1, int64_t q0, int64_t c) {
  constexpr int N = (T - 1) * S + KW;
  const auto columns = DepthwiseColumns<N, EDGE>::make(a, q0 * S - a->pl, c);
  const DepthwiseOut out = depthwise_out(a, q0, c);
  const int64_t step = a->c;
  for (int64_t p = p0; p < p1; ++p) {
    vf acc[T];
    CNNFAST_UNROLL
    for (int t = 0; t < T; ++t) acc[t] = vf{};
    for (int64_t i = 0; i < a->kh; ++i) {
      const int64_t iy = p * a->sh - a->pt + i * a->dh;
      if (iy < 0 || iy >= a->h) continue;
      vf in[N];
      columns.read(depthwise_row(a, iy), a->zero, in);
      const float* w = a->weights + i * KW * G * step + c;
      each_channel<G>([&](auto channel, int k) __attribute__((always_inline)) {
        vf x[N];
        CNNFAST_UNROLL
        for (int n = 0; n < N; ++n) x[n] = channel(in[n]);
        CNNFAST_UNROLL
        for (int j = 0; j < KW; ++j) {
          const vf weight = load(w + (j * G + k) * step);
          CNNFAST_UNROLL
          for (int t = 0; t < T; ++t) acc[t] = fma(x[t * S + j], weight, acc[t]);
        }
      });
    }
    depthwise_write<T>(out, p, acc);
    depthwise_finish(out, p0, p, p1, T);
  }
}

// Any kernel, one pixel and up to a vector of channels at a time.
template <int G>
static void depthwise_pixel(const cnnfast::DepthwiseImage* a, int64_t p, int64_t q, int64_t c, int lanes) {
  vf sum = {};
  for (int64_t i = 0; i < a->kh; ++i) {
    const int64_t iy = p * a->sh - a->pt + i * a->dh;
    for (int64_t j = 0; j < a->kw; ++j) {
      const int64_t ix = q * a->sw - a->pl + j * a->dw;
      const bool inside = iy >= 0 && iy < a->h && ix >= 0 && ix < a->w;
      if (!inside && a->skip_padding) continue;
      const vf x = inside ? load_n(depthwise_row(a, iy) + ix * a->c + c, lanes) : vf{};
      const float* w = a->weights + (i * a->kw + j) * G * a->c + c;
      each_channel<G>([&](auto channel, int k) __attribute__((always_inline)) {
        sum = fma(channel(x), load_n(w + k * a->c, lanes), sum);
      });
    }
  }
  const int64_t at = (p * a->q + q) * a->c + c;
  if (a->bias) sum += load_n(a->bias + c, lanes);
  if (a->residual) sum += load_n(a->residual + at, lanes);
  store_n(a->y + at, activate(a->activation, sum, a->slope), lanes);
}

typedef void (*DepthwiseStripFn)(const cnnfast::DepthwiseImage*, int64_t, int64_t, int64_t, int64_t);
struct DepthwiseStrips {
  int width;  // widest strip
  DepthwiseStripFn inner[kStripWidth + 1], edge[kStripWidth + 1];
};

// Strips of a wide picture are of the two greatest widths; narrower ones mostly lie at its edges.
#define CNNFAST_STRIP_IF(F, width, T, edge, ...)                                                      \
  (width) >= (T)                                                                                      \
      ? F<__VA_ARGS__, ((width) >= (T) ? (T) : 1), ((width) >= (T) && ((edge) || (width) > (T) + 1))> \
      : nullptr
#define CNNFAST_STRIP_ROW(F, width, edge, ...)       \
  {nullptr,                                          \
   CNNFAST_STRIP_IF(F, width, 1, edge, __VA_ARGS__), \
   CNNFAST_STRIP_IF(F, width, 2, edge, __VA_ARGS__), \
   CNNFAST_STRIP_IF(F, width, 3, edge, __VA_ARGS__), \
   CNNFAST_STRIP_IF(F, width, 4, edge, __VA_ARGS__), \
   CNNFAST_STRIP_IF(F, width, 5, edge, __VA_ARGS__), \
   CNNFAST_STRIP_IF(F, width, 6, edge, __VA_ARGS__), \
   CNNFAST_STRIP_IF(F, width, 7, edge, __VA_ARGS__), \
   CNNFAST_STRIP_IF(F, width, 8, edge, __VA_ARGS__)}
#define CNNFAST_STRIPS(F, width, ...) \
  {width, CNNFAST_STRIP_ROW(F, width, false, __VA_ARGS__), CNNFAST_STRIP_ROW(F, width, true, __VA_ARGS__)}

static const DepthwiseStrips kStrips3x3s1 = CNNFAST_STRIPS(depthwise_3x3, kRollingWidth, 1);
static const DepthwiseStrips kStrips3x3s2 = CNNFAST_STRIPS(depthwise_3x3, kStridedWidth, 2);
static const DepthwiseStrips kStrips3s1 = CNNFAST_STRIPS(depthwise_rows, kRowsWidth, 3, 1);
static const DepthwiseStrips kStrips5s1 = CNNFAST_STRIPS(depthwise_rows, kRowsWidth, 5, 1);
static const DepthwiseStrips kStrips5s2 = CNNFAST_STRIPS(depthwise_rows, kRowsWidth, 5, 2);
static const DepthwiseStrips kStrips7s1 = CNNFAST_STRIPS(depthwise_rows, kRowsWidth, 7, 1);
template <int G>
static const DepthwiseStrips kGroups3s1 = CNNFAST_STRIPS(depthwise_group_rows, kGroupsWidth, G, 3, 1);
template <int G>
static const DepthwiseStrips kGroups3s2 =
    CNNFAST_STRIPS(depthwise_group_rows, (kGroupsWidth < 6 ? kGroupsWidth : 6), G, 3, 2);

template <int G>
static const DepthwiseStrips* depthwise_strips(const cnnfast::DepthwiseImage* a) {
  if (a->c < VL || a->dw != 1 || !a->skip_padding) return nullptr;
  if (G > 1) return a->kw != 3 || a->sw > 2 ? nullptr : a->sw == 1 ? &kGroups3s1<G> : &kGroups3s2<G>;
  const bool square = a->kh == 3 && a->dh == 1 && a->sh == a->sw;
  if (a->kw == 3 && a->sw == 1) return square ? &kStrips3x3s1 : &kStrips3s1;
  if (a->kw == 3 && a->sw == 2 && square) return &kStrips3x3s2;
  if (a->kw == 5 && a->sw == 1) return &kStrips5s1;
  if (a->kw == 5 && a->sw == 2) return &kStrips5s2;
  if (a->kw == 7 && a->sw == 1) return &kStrips7s1;
  return nullptr;
}

template <int G>
static void depthwise_groups(const cnnfast::DepthwiseImage* a, int64_t p0, int64_t p1, int64_t c0,
                             int64_t c1) {
  const DepthwiseStrips* strips = depthwise_strips<G>(a);
  if (!strips) {
    for (int64_t p = p0; p < p1; ++p)
      for (int64_t q = 0; q < a->q; ++q)
        for (int64_t c = c0; c < c1; c += VL)
          depthwise_pixel<G>(a, p, q, c, static_cast<int>(min_int(VL, c1 - c)));
    return;
  }
  // Strips of nearly equal width.
  const int64_t count = (a->q + strips->width - 1) / strips->width;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t q0 = i * a->q / count, q1 = (i + 1) * a->q / count;
    const int64_t first = q0 * a->sw - a->pl, last = (q1 - 1) * a->sw - a->pl + a->kw - 1;
    const DepthwiseStripFn strip = (first < 0 || last >= a->w ? strips->edge : strips->inner)[q1 - q0];
    for (int64_t c = c0; c < c1; c += VL) strip(a, p0, p1, q0, min_int(c, c1 - VL));
  }
}

static void depthwise_band(const cnnfast::DepthwiseImage* a, int64_t p0, int64_t p1, int64_t c0, int64_t c1) {
  if (a->group == 1) depthwise_groups<1>(a, p0, p1, c0, c1);
  if (a->group == 2) depthwise_groups<2>(a, p0, p1, c0, c1);
  if (a->group == 4) depthwise_groups<4>(a, p0, p1, c0, c1);
  if constexpr (VL >= 8) {
    if (a->group == 8) depthwise_groups<8>(a, p0, p1, c0, c1);
  }
}

static bool all_finite(const float* weights, int64_t count) {
  vf check[4] = {};  // NaN once a value is not finite
  int64_t i = 0;
  for (; i + 4 * VL <= count; i += 4 * VL) {
    CNNFAST_UNROLL
    for (int v = 0; v < 4; ++v) check[v] += load(weights + i + v * VL) * 0.0f;
  }
  for (; i < count; i += VL) check[0] += load_n(weights + i, static_cast<int>(min_int(VL, count - i))) * 0.0f;
  return sum_lanes(check[0] + check[1] + (check[2] + check[3])) == 0.0f;
}

constexpr cnnfast::DepthwiseKernels depthwise_kernels() { return {depthwise_band, all_finite}; }

}  // namespace
