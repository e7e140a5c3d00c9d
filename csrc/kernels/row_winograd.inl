// Winograd's algorithm along rows alone, for few input channels: F(4,3) and F(3,4) take 6 products for 12
// multiply-adds, F(2,5) 6 for 10, at the points of winograd.inl. Output channels across lanes; in the
// transform of the input the six values of a tile lie across them.
// Accumulators: 6 planes of 5 output rows below each other, with 16 registers one plane at a time of 5 rows
// and 2 vectors; summed over kernel rows, remainders of the stride and channels in this order. The transform
// of the output happens in the registers, or out of the first-level cache where planes are summed one by one.
#pragma once
#include "kernels/activation.inl"
#include "kernels/row_winograd.h"
#include "kernels/simd.h"
#include "kernels/winograd_weights.inl"

namespace {

using cnnfast::kRowWinogradRoom;
using cnnfast::kRowWinogradRows;
using cnnfast::kRowWinogradSide;

constexpr bool kPlanesTogether = kMaxVectors == 4;
constexpr int kRowWinogradVectors = kPlanesTogether ? 1 : 2;

// Columns of B^T: what pixel j adds to the values of a tile.
struct RowWinogradMatrix {
  float column[kRowWinogradSide][kRowWinogradRoom] = {};
  constexpr RowWinogradMatrix() {
    constexpr int kSide = kRowWinogradSide;
    constexpr Coefficients all = product_of_points<kSide>(-1, 1.0);
    for (int j = 0; j <= all.degree; ++j) {
      column[2 * j][0] = all.c[j];
      column[2 * j + 1][kSide - 1] = all.c[j];
    }
    for (int k = 0; k < kPairs<kSide>; ++k) {
      const Coefficients even = product_of_points<kSide>(k, 1.0);
      const Coefficients odd = product_of_points<kSide>(k, winograd_point<kSide>(k));
      for (int j = 0; j <= even.degree; ++j)
        for (int sign = 0; sign < 2; ++sign) {
          column[2 + 2 * j][2 * k + 1 + sign] = even.c[j];
          column[1 + 2 * j][2 * k + 1 + sign] = sign ? -odd.c[j] : odd.c[j];
        }
    }
  }
};

#if defined(CNNFAST_LEVEL_V4)
typedef vh RowValues;  // a part of the eight values of a tile
#else
typedef vf RowValues;
#endif

static void row_winograd_input(const cnnfast::RowWinogradInput* g) {
  constexpr int kSide = kRowWinogradSide, kRoom = kRowWinogradRoom;
  constexpr int kLanes = sizeof(RowValues) / sizeof(float), kParts = kRoom / kLanes;
  static constexpr RowWinogradMatrix kMatrix;
  RowValues b[kSide][kParts];
  CNNFAST_UNROLL
  for (int j = 0; j < kSide; ++j) CNNFAST_UNROLL
  for (int i = 0; i < kParts; ++i) b[j][i] = load_as<RowValues>(kMatrix.column[j] + i * kLanes);
  for (int64_t tile = 0; tile < g->tiles; ++tile) {
    const int64_t column = tile * g->tile * g->stride - g->left, step = g->stride * g->ldx;
    for (int64_t line = 0; line < g->count; ++line) {
      const float* x = g->lines[line];
      float* to = g->v + (tile * g->count + line) * g->stride * g->c * kRoom;
      for (int64_t remainder = column; remainder < column + g->stride; ++remainder) {
        const auto transform = [&](auto inside) __attribute__((always_inline)) {
          for (int64_t k = 0; k < g->c; ++k, to += kRoom) {
            RowValues sum[kParts];
            CNNFAST_UNROLL
            for (int i = 0; i < kParts; ++i) sum[i] = RowValues{};
            CNNFAST_UNROLL
            for (int j = 0; j < kSide; ++j) {
              if (!inside(j)) continue;
              const RowValues s = splat_as<RowValues>(x[remainder * g->ldx + j * step + k]);
              CNNFAST_UNROLL
              for (int i = 0; i < kParts; ++i) sum[i] = fma(b[j][i], s, sum[i]);
            }
            CNNFAST_UNROLL
            for (int i = 0; i < kParts; ++i) store(to + i * kLanes, sum[i]);
          }
        };
        if (x && remainder >= 0 && remainder + (kSide - 1) * g->stride < g->w)
          transform([](int) { return true; });
        else
          transform([&](int j) {
            const int64_t pixel = remainder + j * g->stride;
            return x && pixel >= 0 && pixel < g->w;
          });
      }
    }
  }
}

template <int N>
struct Planes {
  static constexpr int kCount = N;
};

// P output rows from p on of one tile and NV vectors of outputs.
template <int T, int P, int NV>
static __attribute__((noinline)) void row_winograd_tile(const cnnfast::RowWinogradRows* g, int64_t tile,
                                                        int64_t p, int64_t o) {
  constexpr int kSide = kRowWinogradSide, kRoom = kRowWinogradRoom;
  const int64_t line = g->c * kRoom, row = g->stride * line, depth = g->depth, u_vector = depth * kSide * VL;
  const float* v = g->v + tile * g->lines * line + p * row;
  const float* u = g->u + o * depth * kSide;
  vf sums[kSide][P][NV];
  // Planes first .. first + Planes.
  const auto multiply = [&](int first, auto planes) __attribute__((always_inline)) {
    constexpr int kPlanes = decltype(planes)::kCount;
    vf acc[kPlanes][P][NV];
    CNNFAST_UNROLL
    for (int i = 0; i < kPlanes * P * NV; ++i) acc[i / (P * NV)][i / NV % P][i % NV] = vf{};
    const float *a = v + first, *b = u + first * VL;
    for (int64_t k = 0; k < depth; ++k, a += kRoom, b += kSide * VL) {
      CNNFAST_UNROLL
      for (int e = 0; e < kPlanes; ++e) {
        vf w[NV];
        CNNFAST_UNROLL
        for (int i = 0; i < NV; ++i) w[i] = load(b + i * u_vector + e * VL);
        CNNFAST_UNROLL
        for (int r = 0; r < P; ++r) {
          const vf x = splat(a[r * row + e]);
          CNNFAST_UNROLL
          for (int i = 0; i < NV; ++i) acc[e][r][i] = fma(x, w[i], acc[e][r][i]);
        }
      }
    }
    CNNFAST_UNROLL
    for (int i = 0; i < kPlanes * P * NV; ++i)
      sums[first + i / (P * NV)][i / NV % P][i % NV] = acc[i / (P * NV)][i / NV % P][i % NV];
  };
  if constexpr (kPlanesTogether)
    multiply(0, Planes<kSide>{});
  else
    for (int e = 0; e < kSide; ++e) multiply(e, Planes<1>{});

  const int columns = static_cast<int>(min_int(T, g->q - tile * T));
  const bool relu = g->activation == cnnfast::kRelu || g->activation == cnnfast::kRelu6;
  const vf least = splat(relu ? 0.0f : -__builtin_inff());
  const vf most = splat(g->activation == cnnfast::kRelu6 ? 6.0f : __builtin_inff());
  const bool leaky = g->activation == cnnfast::kLeakyRelu;
  CNNFAST_UNROLL
  for (int i = 0; i < NV; ++i) {
    const int64_t at = p * g->row_step + tile * T * g->ldy + o + i * VL;
    const int lanes = static_cast<int>(min_int(VL, g->o - o - i * VL));
    const vf bias = g->bias ? load_n(g->bias + o + i * VL, lanes) : vf{};
    float* changed[P * T];
    int count = 0;
    CNNFAST_UNROLL
    for (int r = 0; r < P; ++r) {
      const auto get = [&](int e) __attribute__((always_inline)) { return sums[e][r][i]; };
      vf out[2][kRowsOf<T, 0>];
      output_group<T, kSide, 0, true>(get, bias, out[0]);
      output_group<T, kSide, 1, true>(get, bias, out[1]);
      CNNFAST_UNROLL
      for (int t = 0; t < T; ++t) {
        if (t >= columns) break;
        const int64_t to = at + r * g->row_step + t * g->ldy;
        vf x = out[t % 2][t / 2];
        if (g->residual) x += load_n(g->residual + to, lanes);
        x = leaky ? select(x < vf{}, x * g->slope, x) : vmin(most, vmax(least, x));
        if (lanes == VL)
          store(g->y + to, x);
        else
          store_n(g->y + to, x, lanes);
        changed[count++] = g->y + to;
      }
    }
    if (g->activation > cnnfast::kLeakyRelu) activate_rows(g->activation, g->slope, changed, count, lanes);
  }
}

template <int T>
static void row_winograd_rows_of(const cnnfast::RowWinogradRows* g) {
  constexpr int P = kRowWinogradRows, NV = kRowWinogradVectors;
  // Whole pixels of a few rows one after the other, so that lines of the cache are finished when they leave
  // it.
  for (int64_t p = 0; p < g->rows; p += p + P <= g->rows ? P : 1) {
    const bool several = p + P <= g->rows;
    for (int64_t tile = 0; tile < g->tiles; ++tile) {
      int64_t o = 0;
      for (; NV > 1 && several && o + VL < g->o; o += NV * VL) row_winograd_tile<T, P, NV>(g, tile, p, o);
      for (; o < g->o; o += VL)
        (several ? row_winograd_tile<T, P, 1> : row_winograd_tile<T, 1, 1>)(g, tile, p, o);
    }
  }
}

static void row_winograd_rows(const cnnfast::RowWinogradRows* g) {
  g->taps == 3   ? row_winograd_rows_of<4>(g)
  : g->taps == 4 ? row_winograd_rows_of<3>(g)
                 : row_winograd_rows_of<2>(g);
}

template <int Taps>
static void row_winograd_weights_of(const cnnfast::RowWinogradWeights* g) {
  constexpr int kSide = kRowWinogradSide;
  const int64_t c = g->stride * g->c, depth = g->kh * c;
  for (int64_t k = 0; k < depth; ++k) {
    const int64_t remainder = k % c / g->c, channel = k % g->c;
    for (int64_t o = 0; o < g->o; o += VL) {
      float patch[Taps][VL];
      const int lanes = static_cast<int>(min_int(VL, g->o - o));
      for (int j = 0; j < Taps; ++j) {
        const int64_t tap = j * g->stride + remainder;
        const float* w = g->w + ((k / c * g->kw + tap) * g->c + channel) * g->o + o;
        store(patch[j], tap < g->kw ? load_n(w, lanes) : vf{});
      }
      float* u = g->u + (o * depth + k * VL) * kSide;
      for (int part = 0; part < VL; part += HL) {
        vd out[kSide];
        weight_values<ExactLanes, kSide, Taps>(
            [&](int j) __attribute__((always_inline)) { return ExactLanes::read(patch[j] + part); }, out);
        CNNFAST_UNROLL
        for (int e = 0; e < kSide; ++e) ExactLanes::write(u + e * VL + part, out[e]);
      }
    }
  }
}

static void row_winograd_weights(const cnnfast::RowWinogradWeights* g) {
  g->taps == 3   ? row_winograd_weights_of<3>(g)
  : g->taps == 4 ? row_winograd_weights_of<4>(g)
                 : row_winograd_weights_of<5>(g);
}

constexpr cnnfast::RowWinogradKernels row_winograd_kernels() {
  return {row_winograd_input, row_winograd_rows, row_winograd_weights};
}

}  // namespace
