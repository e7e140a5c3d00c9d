// Strassen's product in Winograd's form: seven products of blocks instead of eight, with eight additions of
// blocks of the input and the weights and seven of the products (S. Winograd, 1971; Higham, "Accuracy and
// Stability of Numerical Algorithms", section 23.1). Vectors over channels. [a11 a12; a21 a22] times
// [b11 b12; b21 b22]:
//   s1 = a21 + a22, s2 = s1 - a11, s3 = a11 - a21, s4 = a12 - s2
//   t1 = b12 - b11, t2 = b22 - t1, t3 = b22 - b12, t4 = b21 - t2
//   planes p0 = a11 b11, p1 = a12 b21, p2 = s2 t2, p3 = s4 b22, p4 = s3 t3, p5 = a22 t4, p6 = s1 t1
//   c11 = p0 + p1, c12 = (p0 + p2) + p3 + p6, c21 = ((p0 + p2) + p4) + p5, c22 = ((p0 + p2) + p4) + p6
// The kernel of the products adds up, in its registers, what the parentheses and kStrassenOn say: then
//   c11 = m1, c12 = m3 + m6, c21 = m5, c22 = m4 + m6
// Two levels do the same with every product, whose own are not added up: plane 7 i + j is product j of
// product i.
#pragma once
#include "kernels/activation.inl"
#include "kernels/simd.h"
#include "kernels/strassen.h"

namespace {

// a(r, j): the vector of row r and block j.
template <int Levels, class Get>
CNNFAST_INLINE void strassen_split(Get a, float* v, int64_t plane) {
  if constexpr (Levels == 1) {
    const vf a11 = a(0, 0), a12 = a(0, 1), a21 = a(1, 0), a22 = a(1, 1);
    const vf s1 = a21 + a22, s2 = s1 - a11;
    store(v, a11);
    store(v + plane, a12);
    store(v + 2 * plane, s2);
    store(v + 3 * plane, a12 - s2);
    store(v + 4 * plane, a11 - a21);
    store(v + 5 * plane, a22);
    store(v + 6 * plane, s1);
  } else {
    constexpr int kHalf = 1 << (Levels - 1);
    const int64_t step = cnnfast::strassen_planes(Levels - 1) * plane;
    const auto a11 = [&](int r, int j) __attribute__((always_inline)) { return a(r, j); };
    const auto a12 = [&](int r, int j) __attribute__((always_inline)) { return a(r, kHalf + j); };
    const auto a22 = [&](int r, int j) __attribute__((always_inline)) { return a(kHalf + r, kHalf + j); };
    const auto s1 = [&](int r, int j) __attribute__((always_inline)) { return a(kHalf + r, j) + a22(r, j); };
    const auto s2 = [&](int r, int j) __attribute__((always_inline)) { return s1(r, j) - a(r, j); };
    const auto s3 = [&](int r, int j) __attribute__((always_inline)) { return a(r, j) - a(kHalf + r, j); };
    const auto s4 = [&](int r, int j) __attribute__((always_inline)) { return a12(r, j) - s2(r, j); };
    strassen_split<Levels - 1>(a11, v, plane);
    strassen_split<Levels - 1>(a12, v + step, plane);
    strassen_split<Levels - 1>(s2, v + 2 * step, plane);
    strassen_split<Levels - 1>(s4, v + 3 * step, plane);
    strassen_split<Levels - 1>(s3, v + 4 * step, plane);
    strassen_split<Levels - 1>(a22, v + 5 * step, plane);
    strassen_split<Levels - 1>(s1, v + 6 * step, plane);
  }
}

template <int Levels>
static void strassen_input_of(const cnnfast::StrassenInput* g) {
  constexpr int kSide = 1 << Levels;
  const int64_t per_image = g->tiles.per_image(), block = g->block;
  for (int64_t t = 0; t < g->tiles.count; ++t) {
    const int64_t tile = g->tiles.first + t, first = tile % per_image * kSide;
    const float* image = g->x + tile / per_image * g->image_stride;
    const float* rows[kSide];
    for (int i = 0; i < kSide; ++i) {
      const int64_t r = first + i;
      const float* pixel = image + r / g->line * g->line_stride + r % g->line * g->pixel_stride;
      rows[i] = r < g->tiles.rows ? pixel : g->zero;
    }
    float* v = g->v + t * g->v_row;
    for (int64_t k = g->k_first; k < g->k_last; k += VL)
      strassen_split<Levels>([&](int r, int j)
                                 __attribute__((always_inline)) { return load(rows[r] + j * block + k); },
                             v + k, g->v_plane);
  }
}

static void strassen_input(const cnnfast::StrassenInput* g) {
  g->tiles.levels == 1 ? strassen_input_of<1>(g) : strassen_input_of<2>(g);
}

// Blocks c11, c12, c21, c22 of a level, whose products are m(0) .. m(6), to put(r, j, value) with r and j 0
// or 1.
template <class Get, class Put>
CNNFAST_INLINE void strassen_join(Get m, Put put) {
  const vf p0 = m(0), p6 = m(6);
  const vf u2 = p0 + m(2), u3 = u2 + m(4);
  put(0, 0, p0 + m(1));
  put(0, 1, u2 + m(3) + p6);
  put(1, 0, u3 + m(5));
  put(1, 1, u3 + p6);
}

// The same of the outer level, with bias(j) of each block of columns; put(r, j, value) is called once for
// every row and block.
template <int Levels, class Bias, class Put>
CNNFAST_INLINE void strassen_join_sums(const float* m, int64_t plane, Bias bias, Put put) {
  if constexpr (Levels == 1) {
    const vf b = bias(0), m6 = load(m + 6 * plane) + bias(1);
    put(0, 0, load(m + plane) + b);
    put(0, 1, load(m + 3 * plane) + m6);
    put(1, 0, load(m + 5 * plane) + b);
    put(1, 1, load(m + 4 * plane) + m6);
  } else {
    const auto product = [&](int i, int e)
                             __attribute__((always_inline)) { return load(m + (7 * i + e) * plane); };
    // Product 6 is part of both blocks on the right, and so is their bias.
    const vf right[2] = {bias(2), bias(3)}, left[2] = {bias(0), bias(1)};
    vf m6[7];
    CNNFAST_UNROLL
    for (int e = 0; e < 7; ++e) m6[e] = product(6, e);
    const auto join = [&](int i, int r, int j, const vf* b) __attribute__((always_inline)) {
      strassen_join(
          [&](int e) __attribute__((always_inline)) {
            const vf x = product(i, e);
            if (j) return x + m6[e];
            return e == 1 || e == 5 ? x + b[0] : e == 6 ? x + b[1] : x;
          },
          [&](int inner_r, int inner_j, vf x)
              __attribute__((always_inline)) { put(2 * r + inner_r, 2 * j + inner_j, x); });
    };
    join(1, 0, 0, left);
    join(5, 1, 0, left);
    m6[1] += right[0], m6[5] += right[0], m6[6] += right[1];
    join(3, 0, 1, right);
    join(4, 1, 1, right);
  }
}

template <int Levels>
static void strassen_output_of(const cnnfast::StrassenOutput* g) {
  constexpr int kSide = 1 << Levels;
  const int64_t per_image = g->tiles.per_image(), block = g->block;
  const int64_t delta = g->residual
                            ? (reinterpret_cast<intptr_t>(g->residual) - reinterpret_cast<intptr_t>(g->y)) /
                                  static_cast<intptr_t>(sizeof(float))
                            : 0;
  const bool relu = g->activation == cnnfast::kRelu || g->activation == cnnfast::kRelu6;
  const bool relu6 = g->activation == cnnfast::kRelu6;
  for (int64_t t = 0; t < g->tiles.count; ++t) {
    const int64_t tile = g->tiles.first + t, first = tile % per_image * kSide;
    const int64_t rows = min_int(kSide, g->tiles.rows - first);
    float* y = g->y + (tile / per_image * g->tiles.rows + first) * g->row_stride;
    const float* m = g->m + t * g->m_row;
    for (int64_t c = 0; c < g->columns; c += VL)
      strassen_join_sums<Levels>(
          m + c, g->m_plane,
          [&](int j)
              __attribute__((always_inline)) { return g->bias ? load(g->bias + j * block + c) : vf{}; },
          [&](int r, int j, vf x) __attribute__((always_inline)) {
            if (r >= rows) return;
            float* to = y + r * g->row_stride + j * block + c;
            if (g->residual) x += load(to + delta);
            if (relu) x = vmax(vf{}, x);
            if (relu6) x = vmin(splat(6.0f), x);
            store(to, x);
          });
    if (g->activation > cnnfast::kRelu6) {
      float* parts[kSide * kSide];
      for (int64_t i = 0; i < rows * kSide; ++i) parts[i] = y + i / kSide * g->row_stride + i % kSide * block;
      activate_rows(g->activation, g->slope, parts, static_cast<int>(rows * kSide), g->columns);
    }
  }
}

static void strassen_output(const cnnfast::StrassenOutput* g) {
  g->tiles.levels == 1 ? strassen_output_of<1>(g) : strassen_output_of<2>(g);
}

constexpr cnnfast::StrassenKernels strassen_kernels() { return {strassen_input, strassen_output}; }

}  // namespace
