// Transpose convolution by phases: output pixels whose index has the same remainder modulo the stride
// see the same taps, so each of the stride_h * stride_w phases is an indirect GEMM of its own whose
// rows are scattered over the output.
#include <algorithm>

#include "core/threads.h"
#include "cpu/conv2d.h"

namespace cnnfast {
namespace {

// Kernel indices k with k * dilation = phase (mod stride).
std::vector<int64_t> phase_taps(int64_t k, int64_t stride, int64_t dilation, int64_t phase) {
  std::vector<int64_t> taps;
  for (int64_t i = 0; i < k; ++i)
    if (i * dilation % stride == phase) taps.push_back(i);
  return taps;
}

struct PhaseRows {
  const ConvTransposeSpec* s;
  const float *x, *zero;
  float* y;
  const std::vector<int64_t>*ty, *tx;  // taps
  int64_t first_p, first_q;            // first output row and column of the phase
  int64_t rows, columns;               // output rows and columns of the phase, per image
};

void fill_phase(const void* context, int64_t first, int64_t count, const float** rows, float** out) {
  const auto& r = *static_cast<const PhaseRows*>(context);
  const ConvTransposeSpec& s = *r.s;
  for (int64_t done = 0; done < count;) {
    const int64_t index = first + done, line = index / r.columns, a = index % r.columns;
    const int64_t run = std::min(count - done, r.columns - a);
    const int64_t image = line / r.rows, p = r.first_p + line % r.rows * s.sh, q = r.first_q + a * s.sw;
    float* to = r.y + ((image * s.p + p) * s.q + q) * s.o;
    for (int64_t k = 0; k < run; ++k) out[done + k] = to + k * s.sw * s.o;
    const float** row = rows + done;
    if (r.ty->empty() || r.tx->empty())
      for (int64_t k = 0; k < run; ++k) row[k] = r.zero;
    for (int64_t i : *r.ty) {
      // Exact: the taps of this phase make the difference a multiple of the stride.
      const int64_t iy = (p + s.pt - i * s.dh) / s.sh;
      for (int64_t j : *r.tx) {
        const int64_t ix = (q + s.pl - j * s.dw) / s.sw;
        const bool inside = iy >= 0 && iy < s.h;
        const float* base = r.x + ((image * s.h + (inside ? iy : 0)) * s.w) * s.c;
        for (int64_t k = 0; k < run; ++k)
          row[k] = inside && ix + k >= 0 && ix + k < s.w ? base + (ix + k) * s.c : r.zero;
        row += count;
      }
    }
    done += run;
  }
}

}  // namespace

PackedTranspose::PackedTranspose(const ConvTransposeSpec& s, const float* w, int threads) : sw_(s.sw) {
  const int64_t cg = s.c / s.groups, og = s.o / s.groups;
  for (int64_t i = 0; i < s.sh; ++i)
    for (int64_t j = 0; j < s.sw; ++j) {
      const std::vector<int64_t> ty = phase_taps(s.kh, s.sh, s.dh, i), tx = phase_taps(s.kw, s.sw, s.dw, j);
      // A phase without taps keeps one of zeros, so that its pixels still get the epilogue.
      const int64_t taps = std::max<int64_t>(1, static_cast<int64_t>(ty.size() * tx.size()));
      Buffer matrix(static_cast<size_t>(s.groups * taps * cg * og) * sizeof(float));
      std::fill_n(matrix.floats(), s.groups * taps * cg * og, 0.0f);
      for (int64_t g = 0; g < s.groups; ++g) {
        float* to = matrix.floats() + g * taps * cg * og;
        for (int64_t a : ty)
          for (int64_t b : tx) {
            const float* from = w + (a * s.kw + b) * og * s.c + g * cg;
            // Blocks of 16 channels, so that both sides stay in cache lines already touched.
            for (int64_t c0 = 0; c0 < cg; c0 += 16)
              for (int64_t o = 0; o < og; ++o)
                for (int64_t c = c0; c < std::min(cg, c0 + 16); ++c) to[c * og + o] = from[o * s.c + c];
            to += cg * og;
          }
      }
      phases_.emplace_back(matrix.floats(), s.groups, taps * cg, og, taps * cg * og, og, 1, threads);
    }
}

void conv2d_transpose(const ConvTransposeSpec& s, const float* x, const PackedTranspose& w,
                      const Epilogue& epilogue, float* y) {
  if (s.n * s.p * s.q * s.o == 0) return;
  if (verbose()) say_choice("conv2d_transpose", "one indirect GEMM per output phase", "anything");
  const double flops = 2.0 * static_cast<double>(s.n * s.h * s.w) * static_cast<double>(s.kh * s.kw) *
                       static_cast<double>(s.c) * static_cast<double>(s.o / s.groups);
  const int threads = threads_for(gemm_nanoseconds(flops));
  const float* zero = zeros(static_cast<size_t>(s.c));
  for (int64_t i = 0; i < std::min(s.sh, s.p); ++i)
    for (int64_t j = 0; j < std::min(s.sw, s.q); ++j) {
      const int64_t pi = (i + s.pt) % s.sh, pj = (j + s.pl) % s.sw;
      const std::vector<int64_t> ty = phase_taps(s.kh, s.sh, s.dh, pi), tx = phase_taps(s.kw, s.sw, s.dw, pj);
      PhaseRows rows{&s, x, zero, y, &ty, &tx, i, j, (s.p - i + s.sh - 1) / s.sh, (s.q - j + s.sw - 1) / s.sw};
      const int64_t taps = std::max<int64_t>(1, static_cast<int64_t>(ty.size() * tx.size()));
      run_gemm({fill_phase, &rows, s.n * rows.rows * rows.columns, taps, s.c / s.groups, w.phase(pi, pj), y, epilogue},
               threads);
    }
}

}  // namespace cnnfast
