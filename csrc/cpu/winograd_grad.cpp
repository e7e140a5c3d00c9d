// Winograd's algorithm for the gradient of a weight. The convolution is y = A^T [(G w G^T) . (B^T x B)] A for
// every tile, linear in w; turned round, dw = G^T [sum over tiles of (B^T x B) . (A g A^T)] G. The sum is a
// product of matrices for each plane e: U[e][c][o] = sum over tiles t of V[e][t][c] M[e][t][o].
// Tiles are taken in passes whose V and M stay in the last-level cache: the threads first share the tiles,
// then planes and columns of U. Passes follow from the shape alone and add up one after the other, so the
// bits do not depend on the number of threads.
#include <algorithm>
#include <cmath>

#include "core/arena.h"
#include "core/threads.h"
#include "cpu/gemm.h"
#include "cpu/winograd.h"
#include "kernels/table.h"

namespace cnnfast {
namespace {

// V and M of a pass.
constexpr int64_t kPassBytes = 10 << 20;
// Tiles of a pass: fewer read and write U too often, more would sum too many products in one go.
constexpr int64_t kLeastTiles = 32, kMostTiles = 512;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
// No multiple of 4096 bytes, or the lines of a tile would share a few sets of the cache.
int64_t spread(int64_t floats) { return floats % 512 == 0 ? floats + 16 : floats; }
int64_t row_of(int64_t channels) {
  const int64_t vl = kernels().vl;
  return spread(ceil_div(channels, vl) * vl);
}

class Run {
 public:
  Run(const Conv2dSpec& s, WinogradForm form)
      : s_(s),
        form_(form),
        planes_(form.planes()),
        th_(ceil_div(s.p, form.tile)),
        tw_(ceil_div(s.q, form.tile)),
        tiles_(s.n * th_ * tw_),
        v_row_(row_of(s.c)),
        m_row_(row_of(s.o)),
        u_plane_(spread(s.c * s.o)) {
    const int64_t bytes = planes_ * (v_row_ + m_row_) * static_cast<int64_t>(sizeof(float));
    passes_ = ceil_div(tiles_, std::clamp(kPassBytes / bytes, kLeastTiles, kMostTiles));
    const int64_t most = ceil_div(tiles_, passes_);
    v_plane_ = spread(most * v_row_);
    m_plane_ = spread(most * m_row_);
    const double products = static_cast<double>(planes_ * tiles_) * static_cast<double>(s.c * s.o);
    threads_ = threads_for(gemm_nanoseconds(2 * products));
  }

  void operator()(const float* x, const float* g, float* dw) const {
    const Buffer v(static_cast<size_t>(planes_ * v_plane_) * sizeof(float));
    const Buffer m(static_cast<size_t>(planes_ * m_plane_) * sizeof(float));
    const Buffer u(static_cast<size_t>(planes_ * u_plane_) * sizeof(float));
    for (int64_t pass = 0; pass < passes_; ++pass) {
      const int64_t first = share(pass, passes_, tiles_), count = share(pass + 1, passes_, tiles_) - first;
      transform(x, g, first, count, v.floats(), m.floats());
      multiply(count, v.floats(), m.floats(), pass == 0, u.floats());
    }
    finish(u.floats(), dw);
  }

 private:
  void transform(const float* x, const float* g, int64_t first, int64_t count, float* v, float* m) const {
    const int64_t rows = std::min(count, int64_t{8} * threads_);
    parallel_for(rows, threads_, [&](int64_t row) {
      const int64_t begin = share(row, rows, count), end = share(row + 1, rows, count);
      WinogradInput t{};
      t.tiles = {form_, th_, tw_, first + begin, end - begin};
      t.x = x;
      t.h = s_.h, t.w = s_.w;
      t.pixel_stride = t.c_last = s_.c;
      t.row_stride = s_.w * s_.c;
      t.image_stride = s_.h * t.row_stride;
      t.pt = s_.pt, t.pl = s_.pl;
      t.v = v + begin * v_row_;
      t.v_row = v_row_, t.v_plane = v_plane_;
      kernels().winograd.input(&t);
      t.x = g;
      t.h = s_.p, t.w = s_.q;
      t.pixel_stride = t.c_last = s_.o;
      t.row_stride = s_.q * s_.o;
      t.image_stride = s_.p * t.row_stride;
      t.pt = t.pl = 0;
      t.v = m + begin * m_row_;
      t.v_row = m_row_, t.v_plane = m_plane_;
      kernels().winograd.gradient(&t);
    });
  }

  // Every task takes one plane and the columns of one panel.
  void multiply(int64_t count, const float* v, const float* m, bool first, float* u) const {
    const OuterKernels& kernel = kernels().outer;
    const int64_t vl = kernels().vl, vectors = ceil_div(s_.o, vl),
                  panels = ceil_div(vectors, kernel.widest / vl);
    parallel_for(planes_ * panels, threads_, [&](int64_t task) {
      const int64_t e = task / panels, panel = task % panels;
      const int64_t begin = share(panel, panels, vectors) * vl;
      const OuterRun run{0, 0, count};
      OuterBlock t{};
      t.runs = &run;
      t.run_count = 1;
      t.a_unit = 1;
      t.a_step = v_row_;
      t.b = m + e * m_plane_ + begin;
      t.b_step = m_row_;
      t.n = std::min(s_.o, share(panel + 1, panels, vectors) * vl) - begin;
      t.ldy = s_.o;
      t.first = first;
      const int64_t heights = ceil_div(s_.c, kernel.rows(t.n));
      for (int64_t i = 0; i < heights; ++i) {
        const int64_t c = share(i, heights, s_.c);
        t.a = v + e * v_plane_ + c;
        t.m = share(i + 1, heights, s_.c) - c;
        t.y = u + e * u_plane_ + c * s_.o + begin;
        kernel.block(&t);
      }
    });
  }

  void finish(const float* u, float* dw) const {
    constexpr int64_t kStretch = 1024;
    const int64_t pairs = s_.c * s_.o;
    parallel_for(ceil_div(pairs, kStretch), threads_, [&](int64_t task) {
      const int64_t begin = task * kStretch, count = std::min(kStretch, pairs - begin);
      const WinogradWeightGradient g{form_, count, u + begin, u_plane_, dw + begin, pairs};
      kernels().winograd.weight_gradient(&g);
    });
  }

  const Conv2dSpec& s_;
  WinogradForm form_;
  int64_t planes_, th_, tw_, tiles_, v_row_, m_row_, u_plane_;
  int64_t passes_, v_plane_, m_plane_;
  int threads_;
};

}  // namespace

std::optional<WinogradForm> winograd_grad_form(const Conv2dSpec& s) {
  if (!winograd_applies(s)) return {};
  const WinogradForm form{s.kh == 3 ? 4 : 2, static_cast<int>(s.kh)};
  const double planes = form.planes();
  const double tiles = static_cast<double>(s.n * ceil_div(s.p, form.tile) * ceil_div(s.q, form.tile));
  const double c = static_cast<double>(row_of(s.c)), o = static_cast<double>(row_of(s.o));
  // Values of V and M are made, stored and loaded in the time of some FLOPs of a product, those of U are
  // stored and loaded once per pass.
  const double passes = std::ceil(tiles * planes * (c + o) * sizeof(float) / kPassBytes);
  const double flops = planes * (2 * tiles * c * o + 20 * tiles * (c + o) + 40 * passes * c * o);
  if (flops < s.flops()) return form;
  return {};
}

void conv2d_grad_weight_winograd(const Conv2dSpec& s, const float* x, const float* g, WinogradForm form,
                                 float* dw) {
  Run(s, form)(x, g, dw);
}

}  // namespace cnnfast
