// Winograd convolution, vectors over channels. The transforms walk a tile in pairs of rows: the first
// dimension of a pair is computed from memory and stays in registers for the second, so that every value
// is stored once; reading twice is cheaper than storing twice. The points come as +-a, so the two rows of
// a pair share the even and the odd half of their polynomial.
// Accumulators of the products: M rows x NV vectors, summed in the order of the channels, 512 at a time.
// Tiles as in gemm.inl: 32 registers 6x4, 8x3, 12x2, 12x1; 16 registers 6x2, 8x1.
#pragma once
#include "kernels/activation.inl"
#include "kernels/gemm.inl"
#include "kernels/simd.h"
#include "kernels/winograd.h"

namespace {

constexpr int64_t kWinogradChunk = 512;  // values summed in one go
constexpr int kWinogradBlock = 64 / VL;  // vectors: columns whose products stay in the second-level cache

// acc + s * x where s is known to the compiler.
CNNFAST_INLINE vf add_scaled(vf acc, float s, vf x) {
  return s == 1.0f ? acc + x : s == -1.0f ? acc - x : fma(splat(s), x, acc);
}
CNNFAST_INLINE vf scaled(float s, vf x) { return s == 1.0f ? x : splat(s) * x; }

template <int Side>
constexpr double winograd_point(int k) {
  return Side == 4   ? cnnfast::kWinogradPoints4[k]
         : Side == 6 ? cnnfast::kWinogradPoints6[k]
         : Side == 7 ? cnnfast::kWinogradPoints7[k]
                     : cnnfast::kWinogradPoints8[k];
}

template <int Side>
constexpr int kPairs = (Side - 1) / 2;
// Whether 0 is a point.
template <int Side>
constexpr bool kHasZero = Side % 2 == 0;

// Coefficients in y of the product of (y - a^2) over all points a but number `skip`, times `scale`.
struct Coefficients {
  int degree;
  float c[4];
};
template <int Side>
constexpr Coefficients product_of_points(int skip, double scale) {
  double c[4] = {1, 0, 0, 0};
  int degree = 0;
  for (int k = 0; k < kPairs<Side>; ++k) {
    if (k == skip) continue;
    const double a = winograd_point<Side>(k);
    ++degree;
    for (int j = degree; j >= 0; --j) c[j] = (j ? c[j - 1] : 0.0) - a * a * c[j];
  }
  Coefficients out{degree, {}};
  for (int j = 0; j <= degree; ++j) out.c[j] = static_cast<float>(scale * c[j]);
  return out;
}

// Every other value from `start` on, highest first.
template <class Get>
CNNFAST_INLINE vf polynomial(const Coefficients& p, int start, Get d) {
  vf sum = scaled(p.c[p.degree], d(start + 2 * p.degree));
  CNNFAST_UNROLL
  for (int j = p.degree - 1; j >= 0; --j) sum = add_scaled(sum, p.c[j], d(start + 2 * j));
  return sum;
}

constexpr float power(double a, int n) {
  double p = 1;
  for (int i = 0; i < n; ++i) p *= a;
  return static_cast<float>(p);
}
struct Powers {
  float of[3][3];  // [output of the parity][point]
};
template <int Tile, int Side>
constexpr Powers powers_of_points(int parity) {
  Powers p{};
  for (int r = 0; r < (Tile + 1 - parity) / 2; ++r)
    for (int k = 0; k < kPairs<Side>; ++k) p.of[r][k] = power(winograd_point<Side>(k), 2 * r + parity);
  return p;
}

// Transforms from kReads to kSide values in each dimension. Their rows fall into groups: 0, the pairs (1, 2),
// (3, 4), ..., and the last where their number is even. That is infinity; where 0 is not a point, infinity
// comes first.
template <class Rows, int Group>
constexpr bool kIsPair = Group > 0 && 2 * Group < Rows::kSide;
template <class Rows, int Group>
constexpr bool kIsLast = Group == (Rows::kSide - 1) / 2 + (Rows::kSide + 1) % 2;

// B^T: products of all points but one, those of a pair up to their sign.
template <int Side>
struct InputRows {
  static constexpr int kSide = Side, kReads = Side;
  template <int Group, class Get>
  static CNNFAST_INLINE_MEMBER void group(Get d, vf* out) {
    if constexpr (Group == 0) {
      constexpr Coefficients all = product_of_points<Side>(-1, 1.0);
      out[0] = polynomial(all, 0, d);
    } else if constexpr (!kIsPair<InputRows, Group>) {
      constexpr Coefficients all = product_of_points<Side>(-1, 1.0);
      out[0] = polynomial(all, 1, d);
    } else {
      constexpr bool kZero = kHasZero<Side>;
      constexpr double a = winograd_point<Side>(Group - 1);
      constexpr Coefficients even = product_of_points<Side>(Group - 1, kZero ? 1.0 : a);
      constexpr Coefficients odd = product_of_points<Side>(Group - 1, kZero ? a : 1.0);
      const vf e = polynomial(even, kZero ? 2 : 0, d), o = polynomial(odd, 1, d);
      out[0] = e + o;
      out[1] = e - o;
    }
  }
};

// A stride of 2: pixels 0, 2, 4 meet taps 0 and 2, pixels 1 and 3 tap 1.
//   y0 = w0 d0 + w1 d1 + w2 d2 = w0 (d0 - d2) + (w0 + w2) d2 + w1 d1
//   y1 = w0 d2 + w1 d3 + w2 d4 = (w0 + w2) d2 - w2 (d2 - d4) + w1 d3
template <>
struct InputRows<5> {
  static constexpr int kSide = 5, kReads = 5;
  template <int Group, class Get>
  static CNNFAST_INLINE_MEMBER void group(Get d, vf* out) {
    if constexpr (Group == 0) {
      out[0] = d(0) - d(2);
    } else {
      out[0] = Group == 1 ? d(2) : d(1);
      out[1] = Group == 1 ? d(2) - d(4) : d(3);
    }
  }
};

// A: the values as a polynomial, at the points.
template <int Tile, int Side>
struct GradientRows {
  static constexpr int kSide = Side, kReads = Tile;
  template <int Group, class Get>
  static CNNFAST_INLINE_MEMBER void group(Get d, vf* out) {
    if constexpr (Group == 0) {
      out[0] = d(0);
    } else if constexpr (Group == Side / 2) {
      out[0] = d(Tile - 1);
    } else {
      constexpr Powers even = powers_of_points<Tile, Side>(0), odd = powers_of_points<Tile, Side>(1);
      vf e = d(0), o = scaled(odd.of[0][Group - 1], d(1));
      CNNFAST_UNROLL
      for (int r = 1; r < Tile / 2; ++r) {
        e = add_scaled(e, even.of[r][Group - 1], d(2 * r));
        o = add_scaled(o, odd.of[r][Group - 1], d(2 * r + 1));
      }
      out[0] = e + o;
      out[1] = e - o;
    }
  }
};

template <class Rows, int Group = 0>
CNNFAST_INLINE void transform_row(const vf* t, float* v, int64_t plane) {
  vf out[2];
  Rows::template group<Group>([&](int j) __attribute__((always_inline)) { return t[j]; }, out);
  store(v, out[0]);
  v += plane;
  if constexpr (kIsPair<Rows, Group>) {
    store(v, out[1]);
    v += plane;
  }
  if constexpr (!kIsLast<Rows, Group>) transform_row<Rows, Group + 1>(t, v, plane);
}

template <class Rows, int Group = 0>
CNNFAST_INLINE void transform_rows(const float* x, int64_t row_stride, int64_t pixel_stride, float* v,
                                   int64_t plane) {
  constexpr int kSide = Rows::kSide;
  constexpr bool kPair = kIsPair<Rows, Group>;
  vf t[2][Rows::kReads];
  CNNFAST_UNROLL
  for (int j = 0; j < Rows::kReads; ++j) {
    const float* column = x + j * pixel_stride;
    vf out[2];
    Rows::template group<Group>(
        [&](int i) __attribute__((always_inline)) { return load(column + i * row_stride); }, out);
    t[0][j] = out[0];
    if (kPair) t[1][j] = out[1];
  }
  transform_row<Rows>(t[0], v, plane);
  if (kPair) transform_row<Rows>(t[1], v + kSide * plane, plane);
  if constexpr (!kIsLast<Rows, Group>)
    transform_rows<Rows, Group + 1>(x, row_stride, pixel_stride, v + (kPair ? 2 : 1) * kSide * plane, plane);
}

template <class Rows>
static __attribute__((noinline)) void transform_vectors(const float* x, int64_t row_stride,
                                                        int64_t pixel_stride, float* v, int64_t plane,
                                                        int64_t channels) {
  for (int64_t c = 0; c < channels; c += VL)
    transform_rows<Rows>(x + c, row_stride, pixel_stride, v + c, plane);
}

// Position of a tile, counted in tiles.
struct TilePlace {
  int64_t image, i, j;
};
CNNFAST_INLINE TilePlace place_of(const cnnfast::WinogradTiles& t, int64_t index) {
  const int64_t in_image = index % (t.th * t.tw);
  return {index / (t.th * t.tw), in_image / t.tw, in_image % t.tw};
}

template <class Rows>
static void transform_tiles(const cnnfast::WinogradInput* g) {
  constexpr int kReads = Rows::kReads;
  const int64_t tile = g->tiles.form.tile * g->tiles.form.stride;  // pixels from tile to tile
  alignas(64) float patch[kReads * kReads * VL];
  for (int64_t t = 0; t < g->tiles.count; ++t) {
    const TilePlace at = place_of(g->tiles, g->tiles.first + t);
    const int64_t y = at.i * tile - g->pt, x = at.j * tile - g->pl;
    const int64_t i0 = max_int(0, -y), i1 = min_int(kReads, g->h - y);
    const int64_t j0 = max_int(0, -x), j1 = min_int(kReads, g->w - x);
    const float* from = g->x + at.image * g->image_stride + y * g->row_stride + x * g->pixel_stride;
    float* v = g->v + t * g->v_row;
    int64_t c = g->c_first;
    if (i0 == 0 && j0 == 0 && i1 == kReads && j1 == kReads) {
      const int64_t whole = (g->c_last - c) / VL * VL;
      transform_vectors<Rows>(from + c, g->row_stride, g->pixel_stride, v + c, g->v_plane, whole);
      c += whole;
    }
    if (c == g->c_last) continue;
    // What reaches over the border, and the last channels, goes through a patch with zeros around it.
    for (int i = 0; i < kReads * kReads; ++i) store(patch + i * VL, vf{});
    for (; c < g->c_last; c += VL) {
      const int lanes = static_cast<int>(min_int(VL, g->c_last - c));
      for (int64_t i = i0; i < i1; ++i) {
        const float* row = from + i * g->row_stride + c;
        float* to = patch + i * kReads * VL;
        if (lanes == VL)
          for (int64_t j = j0; j < j1; ++j) store(to + j * VL, load(row + j * g->pixel_stride));
        else
          for (int64_t j = j0; j < j1; ++j) store(to + j * VL, load_n(row + j * g->pixel_stride, lanes));
      }
      transform_vectors<Rows>(patch, kReads * VL, VL, v + c, g->v_plane, VL);
    }
  }
}

static void winograd_input(const cnnfast::WinogradInput* g) {
  switch (g->tiles.form.side()) {
    case 4:
      return transform_tiles<InputRows<4>>(g);
    case 5:
      return transform_tiles<InputRows<5>>(g);
    case 6:
      return transform_tiles<InputRows<6>>(g);
    case 7:
      return transform_tiles<InputRows<7>>(g);
    default:
      return transform_tiles<InputRows<8>>(g);
  }
}

static void winograd_gradient(const cnnfast::WinogradInput* g) {
  const cnnfast::WinogradForm form = g->tiles.form;
  switch (form.tile) {
    case 2:
      return form.taps == 3 ? transform_tiles<GradientRows<2, 4>>(g) : transform_tiles<GradientRows<2, 6>>(g);
    case 4:
      return transform_tiles<GradientRows<4, 6>>(g);
    default:
      return transform_tiles<GradientRows<6, 8>>(g);
  }
}

struct ProductTile {
  const float* a;
  int64_t lda;
  const float* b;
  int64_t ldb;
  float* c;
  int64_t ldc;
  int64_t depth;
  const float* add;    // to the products, or null; as far apart as c
  const float* ahead;  // what is fetched meanwhile
  int64_t ahead_step;
};

template <int M, int NV, bool Far>
static __attribute__((noinline)) void product_tile(const ProductTile* t) {
  vf acc[M][NV];
  CNNFAST_UNROLL
  for (int m = 0; m < M; ++m) CNNFAST_UNROLL
  for (int v = 0; v < NV; ++v) acc[m][v] = vf{};
  const float *b = t->b, *a[M];
  CNNFAST_UNROLL
  for (int m = 0; m < M; ++m) a[m] = t->a + m * t->lda;
  const float* ahead = t->ahead;
  const int64_t depth = t->depth, ldb = t->ldb, ahead_step = t->ahead_step, half = (ahead_step + 1) / 2;
  for (int64_t k = 0; k < depth; ++k) {
    vf bv[NV];
    CNNFAST_UNROLL
    for (int v = 0; v < NV; ++v) bv[v] = load(b + v * VL);
    b += ldb;
    if (Far) {
      __builtin_prefetch(ahead, 0, 2);
      // A narrow panel has one line a step.
      if (kMaxVectors * VL > kLineFloats) __builtin_prefetch(ahead + half, 0, 2);
      ahead += ahead_step;
    }
    CNNFAST_UNROLL
    for (int m = 0; m < M; ++m) {
      const vf s = splat(a[m][k]);
      CNNFAST_UNROLL
      for (int v = 0; v < NV; ++v) acc[m][v] = fma(s, bv[v], acc[m][v]);
    }
  }
  const int64_t ldc = t->ldc;
  if (const float* add = t->add) {
    CNNFAST_UNROLL
    for (int m = 0; m < M; ++m) {
      CNNFAST_UNROLL
      for (int v = 0; v < NV; ++v) acc[m][v] = load(add + v * VL) + acc[m][v];
      add += ldc;
    }
  }
  float* c = t->c;
  CNNFAST_UNROLL
  for (int m = 0; m < M; ++m) {
    CNNFAST_UNROLL
    for (int v = 0; v < NV; ++v) store(c + v * VL, acc[m][v]);
    c += ldc;
  }
}

typedef void (*ProductFn)(const ProductTile*);
#define CNNFAST_PRODUCT_IF(NV, rows, m, far) \
  (rows) >= (m) ? product_tile<((rows) >= (m) ? (m) : 1), NV, far> : nullptr
#define CNNFAST_PRODUCT_ROW(NV, rows, far) \
  {nullptr,                                \
   CNNFAST_PRODUCT_IF(NV, rows, 1, far),   \
   CNNFAST_PRODUCT_IF(NV, rows, 2, far),   \
   CNNFAST_PRODUCT_IF(NV, rows, 3, far),   \
   CNNFAST_PRODUCT_IF(NV, rows, 4, far),   \
   CNNFAST_PRODUCT_IF(NV, rows, 5, far),   \
   CNNFAST_PRODUCT_IF(NV, rows, 6, far),   \
   CNNFAST_PRODUCT_IF(NV, rows, 7, far),   \
   CNNFAST_PRODUCT_IF(NV, rows, 8, far),   \
   CNNFAST_PRODUCT_IF(NV, rows, 9, far),   \
   CNNFAST_PRODUCT_IF(NV, rows, 10, far),  \
   CNNFAST_PRODUCT_IF(NV, rows, 11, far),  \
   CNNFAST_PRODUCT_IF(NV, rows, 12, far)}
#if defined(CNNFAST_LEVEL_V4) || defined(CNNFAST_LEVEL_NEON)
#define CNNFAST_PRODUCTS(far)                 \
  {{},                                        \
   CNNFAST_PRODUCT_ROW(1, kTileRows[1], far), \
   CNNFAST_PRODUCT_ROW(2, kTileRows[2], far), \
   CNNFAST_PRODUCT_ROW(3, kTileRows[3], far), \
   CNNFAST_PRODUCT_ROW(4, kTileRows[4], far)}
#else
#define CNNFAST_PRODUCTS(far) \
  {{}, CNNFAST_PRODUCT_ROW(1, kTileRows[1], far), CNNFAST_PRODUCT_ROW(2, kTileRows[2], far)}
#endif
static const ProductFn kProducts[2][kMaxVectors + 1][kMaxTileRows + 1] = {CNNFAST_PRODUCTS(false),
                                                                          CNNFAST_PRODUCTS(true)};

// What is left of the memory that is wanted soon.
class Fetches {
 public:
  CNNFAST_INLINE_MEMBER Fetches(const cnnfast::WinogradAhead* runs, int64_t count)
      : run_(runs), end_(runs + count) {}
  CNNFAST_INLINE_MEMBER int64_t lines() const {
    int64_t sum = 0;
    for (const cnnfast::WinogradAhead* r = run_; r < end_; ++r)
      sum += r->rows * ((r->floats + kLineFloats - 1) / kLineFloats);
    return sum;
  }
  CNNFAST_INLINE_MEMBER void fetch(int64_t lines) {
    while (lines > 0 && run_ < end_) {
      const float* from = run_->from + row_ * run_->stride;
      const int64_t last = min_int(run_->floats, done_ + lines * kLineFloats);
      for (; done_ < last; done_ += kLineFloats, --lines) __builtin_prefetch(from + done_, 0, 2);
      if (done_ < run_->floats) return;
      next_row();
    }
  }
  // Lines that are fetched elsewhere, or null: those of the current run may be fewer.
  CNNFAST_INLINE_MEMBER const float* take(int64_t lines) {
    if (run_ == end_) return nullptr;
    const float* from = run_->from + row_ * run_->stride + done_;
    done_ += lines * kLineFloats;
    if (done_ >= run_->floats) next_row();
    return from;
  }

 private:
  CNNFAST_INLINE_MEMBER void next_row() {
    done_ = 0;
    if (++row_ == run_->rows) ++run_, row_ = 0;
  }

  const cnnfast::WinogradAhead *run_, *end_;
  int64_t row_ = 0, done_ = 0;
};

static void winograd_products(const cnnfast::WinogradProducts* g) {
  const int64_t panels = (g->block_vectors + kMaxVectors - 1) / kMaxVectors;
  Fetches fetches(g->aheads, g->ahead_count);
  // For each tile of sums.
  int64_t fetch_lines = 0;
  if (g->far && g->ahead_count) {
    int64_t tiles = 0;
    for (int64_t panel = 0; panel < panels; ++panel) {
      const int64_t nv = min_int(cnnfast::share(panel + 1, panels, g->block_vectors), g->vector_last) -
                         max_int(cnnfast::share(panel, panels, g->block_vectors), g->vector_first);
      if (nv > 0) tiles += (g->rows + kTileRows[nv] - 1) / kTileRows[nv];
    }
    tiles *= g->planes * ((g->depth + kWinogradChunk - 1) / kWinogradChunk);
    fetch_lines = (fetches.lines() + tiles - 1) / tiles;
  }
  for (int64_t e = 0; e < g->planes; ++e) {
    const float* plane = g->u + e * g->u_plane;
    const int64_t on = g->on ? g->on[e / g->group] : -1;
    // From M of this plane to what its first products are added to.
    const int64_t add = on < 0 ? 0 : (on * g->group + e % g->group - e) * g->m_plane;
    const bool adds = g->add || on >= 0;
    for (int64_t panel = 0; panel < panels; ++panel) {
      const int64_t v0 = cnnfast::share(panel, panels, g->block_vectors);
      const int64_t v1 = cnnfast::share(panel + 1, panels, g->block_vectors);
      const int64_t first = max_int(v0, g->vector_first), last = min_int(v1, g->vector_last);
      if (first >= last) continue;
      const int64_t nv = last - first, height = kTileRows[nv], count = (g->rows + height - 1) / height;
      ProductTile t;
      t.ldb = (v1 - v0) * VL;
      t.lda = g->v_row;
      t.ldc = g->m_row;
      const float* b = plane + v0 * VL * g->depth + (first - v0) * VL;
      // The next panel lies behind this one; each tile fetches its share of it.
      t.ahead_step = (t.ldb + count - 1) / count;
      for (int64_t k0 = 0; k0 < g->depth; k0 += kWinogradChunk) {
        t.b = b + k0 * t.ldb;
        t.depth = min_int(kWinogradChunk, g->depth - k0);
        for (int64_t i = 0; i < count; ++i) {
          const int64_t r0 = i * g->rows / count, r1 = (i + 1) * g->rows / count;
          t.a = g->v + e * g->v_plane + r0 * g->v_row + k0;
          t.c = g->m + e * g->m_plane + r0 * g->m_row + (first - g->vector_first) * VL;
          t.add = k0 > 0 ? t.c : adds ? t.c + add : nullptr;
          bool fetch = g->far;
          if (fetch) {
            t.ahead = t.b + t.depth * (t.ldb + i * t.ahead_step);
            fetches.fetch(fetch_lines);
          } else if (const float* from = fetches.take(t.depth)) {
            // A line per step keeps the memory as busy as it can be.
            fetch = true;
            t.ahead = from;
            t.ahead_step = kLineFloats;
          }
          kProducts[fetch][nv][r1 - r0](&t);
        }
      }
    }
  }
}

template <int Tile, int Parity>
constexpr int kRowsOf = (Tile + 1 - Parity) / 2;
// Rows of A^T of one parity: even ones need the sums of the values at +-a, odd ones the differences.
// `start` is added to all of them.
template <int Tile, int Side, int Parity, bool Start, class Get>
CNNFAST_INLINE void output_group(Get m, vf start, vf* out) {
  if constexpr (Side == 5) {
    const vf sum = Parity ? m(1) - m(2) + m(4) : m(0) + m(1) + m(3);
    out[0] = Start ? start + sum : sum;
    return;
  }
  constexpr int kCount = kPairs<Side>, kRows = kRowsOf<Tile, Parity>;
  constexpr bool kZero = kHasZero<Side>, kInfinity = Parity == (Tile - 1) % 2;
  constexpr Powers powers = powers_of_points<Tile, Side>(Parity);
  vf pair[kCount];
  CNNFAST_UNROLL
  for (int k = 0; k < kCount; ++k) {
    const vf plus = m(2 * k + 1), minus = m(2 * k + 2);
    pair[k] = Parity ? plus - minus : plus + minus;
  }
  CNNFAST_UNROLL
  for (int r = 0; r < kRows; ++r) {
    vf sum = Start ? add_scaled(start, powers.of[r][0], pair[0]) : scaled(powers.of[r][0], pair[0]);
    CNNFAST_UNROLL
    for (int k = 1; k < kCount; ++k) sum = add_scaled(sum, powers.of[r][k], pair[k]);
    if (kZero && !Parity && r == 0) sum += m(0);
    if (kInfinity && r == kRows - 1) sum += m(kZero ? Side - 1 : 0);
    out[r] = sum;
  }
}

struct OutputTile {
  const float* m;
  int64_t plane;
  float* y;
  int64_t row_stride, pixel_stride;
  const float* bias;
  int64_t residual_delta;
  float least;  // of a result: 0 for ReLU, else -Inf
  float slope;  // of results below 0, where they are leaky
};

template <int Tile, int Side, bool Leaky, bool Residual, int Parity>
CNNFAST_INLINE void output_rows(const OutputTile& o, int64_t c, vf bias) {
  constexpr int kRows = kRowsOf<Tile, Parity>;
  vf t[kRows][Side];
  CNNFAST_UNROLL
  for (int j = 0; j < Side; ++j) {
    const float* column = o.m + c + j * o.plane;
    vf out[kRows];
    output_group<Tile, Side, Parity, false>(
        [&](int i) __attribute__((always_inline)) { return load(column + i * Side * o.plane); }, vf{}, out);
    CNNFAST_UNROLL
    for (int r = 0; r < kRows; ++r) t[r][j] = out[r];
  }
  CNNFAST_UNROLL
  for (int r = 0; r < kRows; ++r) {
    const auto get = [&](int j) __attribute__((always_inline)) { return t[r][j]; };
    vf out[2][kRowsOf<Tile, 0>];
    output_group<Tile, Side, 0, true>(get, bias, out[0]);
    output_group<Tile, Side, 1, true>(get, bias, out[1]);
    float* y = o.y + c + (2 * r + Parity) * o.row_stride;
    CNNFAST_UNROLL
    for (int j = 0; j < Tile; ++j) {
      vf v = out[j % 2][j / 2];
      if (Residual) v += load(y + o.residual_delta);
      v = Leaky ? select(v < vf{}, v * o.slope, v) : vmax(splat(o.least), v);
      store(y, v);
      y += o.pixel_stride;
    }
  }
}

template <int Tile, int Side, bool Leaky, bool Residual>
static __attribute__((noinline)) void output_vectors(const OutputTile* o, int64_t columns) {
  for (int64_t c = 0; c < columns; c += VL) {
    const vf bias = o->bias ? load(o->bias + c) : vf{};
    output_rows<Tile, Side, Leaky, Residual, 0>(*o, c, bias);
    output_rows<Tile, Side, Leaky, Residual, 1>(*o, c, bias);
  }
}

template <int Tile, int Side>
static void winograd_output_of(const cnnfast::WinogradOutput* g) {
  const bool relu = g->activation == cnnfast::kRelu, leaky = g->activation == cnnfast::kLeakyRelu;
  const bool quick = relu || g->activation == cnnfast::kNone || (leaky && !g->residual);
  const float least = relu ? 0.0f : -__builtin_inff();
  const int64_t delta = g->residual
                            ? (reinterpret_cast<intptr_t>(g->residual) - reinterpret_cast<intptr_t>(g->y)) /
                                  static_cast<intptr_t>(sizeof(float))
                            : 0;
  alignas(64) float patch[Tile * Tile * VL], bias[VL];
  for (int64_t t = 0; t < g->tiles.count; ++t) {
    const TilePlace at = place_of(g->tiles, g->tiles.first + t);
    const int64_t p = at.i * Tile, q = at.j * Tile;
    const int64_t rows = min_int(Tile, g->p - p), pixels = min_int(Tile, g->q - q);
    float* y = g->y + at.image * g->image_stride + p * g->row_stride + q * g->pixel_stride;
    OutputTile o{
        g->m + t * g->m_row, g->m_plane, y, g->row_stride, g->pixel_stride, g->bias, delta, least, g->slope};
    int64_t c = 0;
    if (quick && rows == Tile && pixels == Tile) {
      c = g->columns / VL * VL;
      if (g->residual)
        output_vectors<Tile, Side, false, true>(&o, c);
      else
        leaky ? output_vectors<Tile, Side, true, false>(&o, c)
              : output_vectors<Tile, Side, false, false>(&o, c);
    }
    // What reaches over the border, the last columns and the dearer activations go through a patch.
    o.y = patch;
    o.row_stride = Tile * VL;
    o.pixel_stride = VL;
    o.bias = bias;
    o.least = -__builtin_inff();
    for (; c < g->columns; c += VL) {
      const int lanes = static_cast<int>(min_int(VL, g->columns - c));
      store(bias, g->bias ? load_n(g->bias + c, lanes) : vf{});
      o.m = g->m + t * g->m_row + c;
      output_vectors<Tile, Side, false, false>(&o, VL);
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < pixels; ++j) {
          float* to = y + i * g->row_stride + j * g->pixel_stride + c;
          vf v = load(patch + (i * Tile + j) * VL);
          if (g->residual) v += load_n(to + delta, lanes);
          store_n(to, activate(g->activation, v, g->slope), lanes);
        }
    }
  }
}

static void winograd_output(const cnnfast::WinogradOutput* g) {
  const cnnfast::WinogradForm form = g->tiles.form;
  if (form.stride == 2) return winograd_output_of<2, 5>(g);
  switch (form.tile) {
    case 2:
      return form.taps == 3 ? winograd_output_of<2, 4>(g) : winograd_output_of<2, 6>(g);
    case 3:
      return winograd_output_of<3, 7>(g);
    case 4:
      return winograd_output_of<4, 6>(g);
    case 5:
      return winograd_output_of<5, 7>(g);
    default:
      return winograd_output_of<6, 8>(g);
  }
}

}  // namespace
