// Strassen's product in Winograd's form: seven products of blocks instead of eight, with eight additions of
// blocks of the input and the weights and seven of the products (S. Winograd, 1971; Higham, "Accuracy and
// Stability of Numerical Algorithms", section 23.1). Vectors over channels. A pair of rows [a11 a12; a21 a22]
// times [b11 b12; b21 b22]:
//   s1 = a21 + a22, s2 = s1 - a11, s3 = a11 - a21, s4 = a12 - s2
//   t1 = b12 - b11, t2 = b22 - t1, t3 = b22 - b12, t4 = t2 - b21
//   planes p0 = a11 b11, p1 = a12 b21, p2 = s4 b22, p3 = a22 t4, p4 = s1 t1, p5 = s2 t2, p6 = s3 t3
//   c11 = p0 + p1, c12 = (p0 + p5) + p4 + p2, c21 = (p0 + p5) + p6 - p3, c22 = (p0 + p5) + p6 + p4
#pragma once
#include "kernels/activation.inl"
#include "kernels/simd.h"
#include "kernels/strassen.h"

namespace {

static void strassen_input(const cnnfast::StrassenInput* g) {
  const int64_t per_image = g->pairs.per_image();
  for (int64_t t = 0; t < g->pairs.count; ++t) {
    const int64_t pair = g->pairs.first + t, r = pair % per_image * 2;
    const float* image = g->x + pair / per_image * g->image_stride;
    auto pixel = [&](int64_t row) {
      return image + row / g->line * g->line_stride + row % g->line * g->pixel_stride;
    };
    const float* top = pixel(r);
    const bool whole = r + 1 < g->pairs.rows;
    const float* bottom = whole ? pixel(r + 1) : top;
    float* to = g->v + t * g->v_row;
    const int64_t plane = g->v_plane;
    for (int64_t k = g->k_first; k < g->k_last; k += VL) {
      const vf a11 = load(top + k), a12 = load(top + g->half + k);
      const vf a21 = whole ? load(bottom + k) : vf{}, a22 = whole ? load(bottom + g->half + k) : vf{};
      const vf s1 = a21 + a22, s2 = s1 - a11;
      float* v = to + k;
      store(v, a11);
      store(v + plane, a12);
      store(v + 2 * plane, a12 - s2);
      store(v + 3 * plane, a22);
      store(v + 4 * plane, s1);
      store(v + 5 * plane, s2);
      store(v + 6 * plane, a11 - a21);
    }
  }
}

static void strassen_output(const cnnfast::StrassenOutput* g) {
  const int64_t per_image = g->pairs.per_image(), plane = g->m_plane, half = g->half;
  const int64_t delta = g->residual
                            ? (reinterpret_cast<intptr_t>(g->residual) - reinterpret_cast<intptr_t>(g->y)) /
                                  static_cast<intptr_t>(sizeof(float))
                            : 0;
  const bool relu = g->activation == cnnfast::kRelu || g->activation == cnnfast::kRelu6;
  const vf top_value = splat(g->activation == cnnfast::kRelu6 ? 6.0f : __builtin_inff());
  for (int64_t t = 0; t < g->pairs.count; ++t) {
    const int64_t pair = g->pairs.first + t, r = pair % per_image * 2;
    float* top = g->y + (pair / per_image * g->pairs.rows + r) * g->row_stride;
    float* bottom = top + g->row_stride;
    const bool whole = r + 1 < g->pairs.rows;
    const float* m = g->m + t * g->m_row;
    for (int64_t c = 0; c < g->columns; c += VL, m += VL) {
      auto finish = [&](float* y, vf value, vf bias) __attribute__((always_inline)) {
        value += bias;
        if (g->residual) value += load(y + delta);
        if (relu) value = vmin(top_value, vmax(vf{}, value));
        store(y, value);
      };
      const vf left = g->bias ? load(g->bias + c) : vf{}, right = g->bias ? load(g->bias + half + c) : vf{};
      const vf p0 = load(m), p4 = load(m + 4 * plane);
      const vf u2 = p0 + load(m + 5 * plane), u3 = u2 + load(m + 6 * plane);
      finish(top + c, p0 + load(m + plane), left);
      finish(top + half + c, u2 + p4 + load(m + 2 * plane), right);
      if (!whole) continue;
      finish(bottom + c, u3 - load(m + 3 * plane), left);
      finish(bottom + half + c, u3 + p4, right);
    }
    if (g->activation > cnnfast::kRelu6) {
      float* rows[4] = {top, top + half, bottom, bottom + half};
      activate_rows(g->activation, g->slope, rows, whole ? 4 : 2, g->columns);
    }
  }
}

constexpr cnnfast::StrassenKernels strassen_kernels() { return {strassen_input, strassen_output}; }

}  // namespace
