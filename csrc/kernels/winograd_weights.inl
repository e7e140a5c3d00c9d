// Weights of Winograd convolution, and their gradient: transforms by the matrix G of the same points as those
// of winograd.inl, exactly in doubles where weights are packed, in single precision where every run
// transforms them. At the end the table of both files.
#pragma once
#include "kernels/winograd.inl"

namespace {

// Columns of G: row i is the powers of point i, divided by its distances to the others, which are equal for
// +a and -a up to the sign that InputRows leaves out as well.
template <int Side, int Taps>
struct WeightColumns {
  static constexpr int kCount = kPairs<Side>;
  double origin = 0, of[Taps][kCount] = {};
  constexpr WeightColumns() {
    double all = 1;
    for (int k = 0; k < kCount; ++k) {
      const double a = winograd_point<Side>(k);
      double distances = 2 * a * (kHasZero<Side> ? a : 1.0);
      for (int j = 0; j < kCount; ++j) {
        const double b = winograd_point<Side>(j);
        if (j != k) distances *= a * a - b * b;
      }
      all *= -a * a;
      double p = 1;
      for (int r = 0; r < Taps; ++r, p *= a) of[r][k] = p / distances;
    }
    origin = 1 / all;
  }
};

// Weights that are transformed once are so in double, and rounded once; those of every run in float.
constexpr int HL = VL / 2;
typedef double vd __attribute__((vector_size(HL * 8)));
typedef float vf_half __attribute__((vector_size(HL * 4)));
typedef float vf_half_unaligned __attribute__((vector_size(HL * 4), aligned(4), may_alias));
struct ExactLanes {
  static constexpr bool kOnce = true;
  static constexpr int kLanes = HL;
  typedef vd Vector;
  typedef double Number;
  static CNNFAST_INLINE_MEMBER vd read(const float* w) {
    return __builtin_convertvector(*reinterpret_cast<const vf_half_unaligned*>(w), vd);
  }
  static CNNFAST_INLINE_MEMBER void write(float* u, vd v) {
    *reinterpret_cast<vf_half_unaligned*>(u) = __builtin_convertvector(v, vf_half);
  }
};
struct QuickLanes {
  static constexpr bool kOnce = false;
  static constexpr int kLanes = VL;
  typedef vf Vector;
  typedef float Number;
  static CNNFAST_INLINE_MEMBER vf read(const float* w) { return load(w); }
  static CNNFAST_INLINE_MEMBER void write(float* u, vf v) { store(u, v); }
};

// G of the taps of a row or a column: rows of a pair share their even and their odd half.
template <class Lanes, int Side, int Taps, class Get>
CNNFAST_INLINE void weight_values(Get w, typename Lanes::Vector* out) {
  typedef typename Lanes::Number Number;
  if constexpr (Side == 5) {  // see InputRows<5>
    out[0] = w(0), out[1] = w(0) + w(2), out[2] = w(2);
    out[3] = out[4] = w(1);
    return;
  }
  constexpr WeightColumns<Side, Taps> g;
  out[0] = kHasZero<Side> ? static_cast<Number>(g.origin) * w(0) : w(Taps - 1);
  CNNFAST_UNROLL
  for (int k = 0; k < g.kCount; ++k) {
    typename Lanes::Vector even = static_cast<Number>(g.of[0][k]) * w(0),
                           odd = static_cast<Number>(g.of[1][k]) * w(1);
    CNNFAST_UNROLL
    for (int r = 2; r < Taps; ++r) (r % 2 ? odd : even) += static_cast<Number>(g.of[r][k]) * w(r);
    out[2 * k + 1] = even + odd;
    out[2 * k + 2] = even - odd;
  }
  if (kHasZero<Side>) out[Side - 1] = w(Taps - 1);
}

template <class Lanes, int Side, int Taps>
static __attribute__((noinline)) void weights_vector(const float* w, int64_t w_plane, float* u,
                                                     int64_t u_plane) {
  typedef typename Lanes::Vector Vector;
  Vector t[Side][Taps];
  const auto column = [&](int s) __attribute__((always_inline)) {
    Vector out[Side];
    weight_values<Lanes, Side, Taps>(
        [&](int r) __attribute__((always_inline)) { return Lanes::read(w + (r * Taps + s) * w_plane); }, out);
    CNNFAST_UNROLL
    for (int i = 0; i < Side; ++i) t[i][s] = out[i];
  };
  const auto row = [&](int i) __attribute__((always_inline)) {
    Vector out[Side];
    weight_values<Lanes, Side, Taps>([&](int s) __attribute__((always_inline)) { return t[i][s]; }, out);
    CNNFAST_UNROLL
    for (int j = 0; j < Side; ++j) Lanes::write(u + (i * Side + j) * u_plane, out[j]);
  };
  if constexpr (Lanes::kOnce) {  // as loops: a third of the code
#pragma GCC unroll 1
    for (int s = 0; s < Taps; ++s) column(s);
#pragma GCC unroll 1
    for (int i = 0; i < Side; ++i) row(i);
  } else {
    CNNFAST_UNROLL
    for (int s = 0; s < Taps; ++s) column(s);
    CNNFAST_UNROLL
    for (int i = 0; i < Side; ++i) row(i);
  }
}

template <class Lanes, int Side, int Taps>
static void weights_of(const cnnfast::WinogradWeights* g) {
  constexpr int kPlanes = Taps * Taps, kLanes = Lanes::kLanes;
  alignas(64) float patch[kPlanes * VL];
  for (int64_t k = 0; k < g->rows; ++k) {
    const float* w = g->w + k * g->w_row;
    float* u = g->u + k * g->u_row;
    int64_t j = 0;
    for (; j + kLanes <= g->columns; j += kLanes)
      weights_vector<Lanes, Side, Taps>(w + j, g->w_plane, u + j, g->u_plane);
    // The last columns with zeros after them.
    for (; j % VL || j < g->columns; j += kLanes) {
      const int lanes = static_cast<int>(min_int(kLanes, max_int(0, g->columns - j)));
      for (int tap = 0; tap < kPlanes; ++tap)
        store(patch + tap * VL, lanes ? load_n(w + tap * g->w_plane + j, lanes) : vf{});
      weights_vector<Lanes, Side, Taps>(patch, VL, u + j, g->u_plane);
    }
  }
}

template <class Lanes>
static void winograd_weights_by(const cnnfast::WinogradWeights* g) {
  switch (g->form.side()) {
    case 4:
      return weights_of<Lanes, 4, 3>(g);
    case 5:
      return weights_of<Lanes, 5, 3>(g);
    case 6:
      return g->form.taps == 3 ? weights_of<Lanes, 6, 3>(g) : weights_of<Lanes, 6, 5>(g);
    case 7:
      return g->form.taps == 3 ? weights_of<Lanes, 7, 3>(g) : weights_of<Lanes, 7, 5>(g);
    default:
      return weights_of<Lanes, 8, 3>(g);
  }
}

static void winograd_weights(const cnnfast::WinogradWeights* g) {
  g->exact ? winograd_weights_by<ExactLanes>(g) : winograd_weights_by<QuickLanes>(g);
}

// G^T of Side values: even taps need the sums of the values at +-a, odd ones the differences.
template <int Side, int Taps, class Get>
CNNFAST_INLINE void weight_taps(Get u, vf* out) {
  constexpr WeightColumns<Side, Taps> g;
  constexpr int kCount = g.kCount;
  vf sum[kCount], difference[kCount];
  CNNFAST_UNROLL
  for (int k = 0; k < kCount; ++k) {
    const vf plus = u(2 * k + 1), minus = u(2 * k + 2);
    sum[k] = plus + minus;
    difference[k] = plus - minus;
  }
  CNNFAST_UNROLL
  for (int r = 0; r < Taps; ++r) {
    const vf* pair = r % 2 ? difference : sum;
    vf total = r == 0 ? scaled(static_cast<float>(g.origin), u(0)) : r == Taps - 1 ? u(Side - 1) : vf{};
    CNNFAST_UNROLL
    for (int k = 0; k < kCount; ++k) total = add_scaled(total, static_cast<float>(g.of[r][k]), pair[k]);
    out[r] = total;
  }
}

template <int Side, int Taps, class Load, class Store>
CNNFAST_INLINE void weight_gradient_vector(Load load_plane, Store store_tap) {
  vf t[Taps][Side];
  CNNFAST_UNROLL
  for (int j = 0; j < Side; ++j) {
    vf out[Taps];
    weight_taps<Side, Taps>([&](int i) __attribute__((always_inline)) { return load_plane(i * Side + j); },
                            out);
    CNNFAST_UNROLL
    for (int r = 0; r < Taps; ++r) t[r][j] = out[r];
  }
  CNNFAST_UNROLL
  for (int r = 0; r < Taps; ++r) {
    vf out[Taps];
    weight_taps<Side, Taps>([&](int j) __attribute__((always_inline)) { return t[r][j]; }, out);
    CNNFAST_UNROLL
    for (int s = 0; s < Taps; ++s) store_tap(r * Taps + s, out[s]);
  }
}

template <int Side, int Taps>
static void weight_gradient_of(const cnnfast::WinogradWeightGradient* g) {
  for (int64_t k = 0; k < g->count; k += VL) {
    const float* u = g->u + k;
    float* w = g->w + k;
    if (g->count - k >= VL) {
      weight_gradient_vector<Side, Taps>(
          [&](int e) __attribute__((always_inline)) { return load(u + e * g->u_plane); },
          [&](int tap, vf v) __attribute__((always_inline)) { store(w + tap * g->w_plane, v); });
    } else {
      const int lanes = static_cast<int>(g->count - k);
      weight_gradient_vector<Side, Taps>(
          [&](int e) __attribute__((always_inline)) { return load_n(u + e * g->u_plane, lanes); },
          [&](int tap, vf v) __attribute__((always_inline)) { store_n(w + tap * g->w_plane, v, lanes); });
    }
  }
}

static void winograd_weight_gradient(const cnnfast::WinogradWeightGradient* g) {
  switch (g->form.side()) {
    case 4:
      return weight_gradient_of<4, 3>(g);
    case 6:
      return g->form.taps == 3 ? weight_gradient_of<6, 3>(g) : weight_gradient_of<6, 5>(g);
    default:
      return weight_gradient_of<8, 3>(g);
  }
}

constexpr cnnfast::WinogradKernels winograd_kernels() {
  return {kWinogradBlock,  kMaxVectors,      winograd_input,    winograd_products,
          winograd_output, winograd_weights, winograd_gradient, winograd_weight_gradient};
}

}  // namespace
