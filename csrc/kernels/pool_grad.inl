// Gradients of pooling, one output row at a time. Algorithm: channels across lanes. Maxima: the number of
// the tap that holds the first maximum is found again, then each tap takes the gradient in the lanes where
// the number is its own. No accumulators: gradients are added in memory, window after window. Windows that
// lie apart are written without a look at what is there: reading what the window before has just written
// beside it would wait for that.
#pragma once
#include "kernels/pool_grad.h"
#include "kernels/simd.h"

namespace {

// Taps j0 .. j1 of the window of pixel q lie in the row; tap 0 is at column x0.
struct GradTaps {
  int64_t x0, j0, j1;
};
CNNFAST_INLINE GradTaps grad_taps(const cnnfast::PoolGradRow* r, int64_t q) {
  const int64_t x0 = q * r->sw - r->pl;
  int64_t j0 = 0, j1 = r->kw;
  if (x0 < 0) j0 = (-x0 + r->dw - 1) / r->dw;
  if (x0 + (j1 - 1) * r->dw >= r->w) j1 = (r->w - x0 + r->dw - 1) / r->dw;
  return {x0, j0, j1};
}

template <bool Apart, class Read, class Write>
CNNFAST_INLINE void max_grad(const cnnfast::PoolGradRow* r, GradTaps taps, vf g, int64_t c, Read read,
                             Write write) {
  vf best = read(r->x[0] + (taps.x0 + taps.j0 * r->dw) * r->ld + c);
  vi where = {}, tap = {};
  for (int64_t i = 0; i < r->rows; ++i)
    for (int64_t j = taps.j0; j < taps.j1; ++j, tap += splat_int(1)) {
      const vf x = read(r->x[i] + (taps.x0 + j * r->dw) * r->ld + c);
      // Larger, or the first NaN.
      const vi replace = ~(x <= best) & (best == best);
      best = replace ? x : best;
      where = replace ? tap : where;
    }
  tap = vi{};
  for (int64_t i = 0; i < r->rows; ++i)
    for (int64_t j = taps.j0; j < taps.j1; ++j, tap += splat_int(1)) {
      float* to = r->dx[i] + (taps.x0 + j * r->dw) * r->ld + c;
      const vf part = select(where == tap, g, vf{});
      write(to, Apart ? part : read(to) + part);
    }
}

template <bool Apart, class Read, class Write>
CNNFAST_INLINE void average_grad(const cnnfast::PoolGradRow* r, GradTaps taps, vf share, int64_t c, Read read,
                                 Write write) {
  for (int64_t i = 0; i < r->rows; ++i)
    for (int64_t j = taps.j0; j < taps.j1; ++j) {
      float* to = r->dx[i] + (taps.x0 + j * r->dw) * r->ld + c;
      write(to, Apart ? share : read(to) + share);
    }
}

template <bool Max, bool Apart>
static void pool_grad_row_of(const cnnfast::PoolGradRow* r) {
  for (int64_t q = 0; q < r->q; ++q) {
    const GradTaps taps = grad_taps(r, q);
    const float* from = r->g + q * r->ld;
    const vf divisor = splat(Max ? 1.0f : static_cast<float>(r->divisor * r->divisors[q]));
    const auto at = [&](int64_t c, auto read, auto write) __attribute__((always_inline)) {
      const vf g = read(from + c);
      if (Max)
        max_grad<Apart>(r, taps, g, c, read, write);
      else
        average_grad<Apart>(r, taps, g / divisor, c, read, write);
    };
    int64_t c = 0;
    for (; c + VL <= r->c; c += VL)
      at(
          c, [](const float* p) __attribute__((always_inline)) { return load(p); },
          [](float* p, vf v) __attribute__((always_inline)) { store(p, v); });
    if (c == r->c) continue;
    const int lanes = static_cast<int>(r->c - c);
    at(
        c, [lanes](const float* p) __attribute__((always_inline)) { return load_n(p, lanes); },
        [lanes](float* p, vf v) __attribute__((always_inline)) { store_n(p, v, lanes); });
  }
}

template <bool Max>
static void pool_grad_row(const cnnfast::PoolGradRow* r) {
  r->apart ? pool_grad_row_of<Max, true>(r) : pool_grad_row_of<Max, false>(r);
}

constexpr cnnfast::PoolGradKernels pool_grad_kernels() { return {pool_grad_row<true>, pool_grad_row<false>}; }

}  // namespace
