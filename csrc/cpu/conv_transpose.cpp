// Transpose convolution by phases: output pixels whose index has the same remainder modulo the stride
// see the same taps, so each of the stride_h * stride_w phases is an indirect GEMM of its own whose
// rows are scattered over the output.
#include <algorithm>

#include "core/threads.h"
#include "cpu/conv2d.h"
#include "kernels/table.h"

namespace cnnfast {
namespace {

// The taps of one axis by phase: kernel indices k with k * dilation = remainder (mod stride). At most
// one entry per tap, however large the stride; output pixels of other phases have no taps.
struct AxisPhase {
  int64_t remainder;
  std::vector<int64_t> taps;
};

std::vector<AxisPhase> axis_phases(int64_t k, int64_t stride, int64_t dilation) {
  std::vector<AxisPhase> phases;
  for (int64_t i = 0; i < k; ++i) {
    const int64_t remainder = i * dilation % stride;
    auto same = std::find_if(phases.begin(), phases.end(),
                             [&](const AxisPhase& phase) { return phase.remainder == remainder; });
    if (same == phases.end()) same = phases.insert(phases.end(), AxisPhase{remainder, {}});
    same->taps.push_back(i);
  }
  return phases;
}

struct PhaseRows {
  const ConvTransposeSpec* s;
  const float *x, *zero;
  float* y;
  const std::vector<int64_t>*ty, *tx;  // taps
  int64_t first_p, first_q;            // first output row and column of the phase
  int64_t rows, columns;               // output rows and columns of the phase, per image
};

int64_t fill_phase(const void* context, int64_t first, int64_t count, const float** rows, float** out,
                   int64_t* ends) {
  const auto& r = *static_cast<const PhaseRows*>(context);
  const ConvTransposeSpec& s = *r.s;
  for (int64_t done = 0; done < count;) {
    const int64_t index = first + done, line = index / r.columns, a = index % r.columns;
    const int64_t run = std::min(count - done, r.columns - a);
    const int64_t image = line / r.rows, p = r.first_p + line % r.rows * s.sh, q = r.first_q + a * s.sw;
    float* to = r.y + ((image * s.p + p) * s.q + q) * s.ldy;
    for (int64_t k = 0; k < run; ++k) out[done + k] = to + k * s.sw * s.ldy;
    const float** row = rows + done;
    for (int64_t i : *r.ty) {
      // Exact: the taps of this phase make the difference a multiple of the stride.
      const int64_t iy = (p + s.pt - i * s.dh) / s.sh;
      for (int64_t j : *r.tx) {
        const int64_t ix = (q + s.pl - j * s.dw) / s.sw;
        const bool inside = iy >= 0 && iy < s.h;
        const float* base = r.x + ((image * s.h + (inside ? iy : 0)) * s.w) * s.ldx;
        for (int64_t k = 0; k < run; ++k)
          row[k] = inside && ix + k >= 0 && ix + k < s.w ? base + (ix + k) * s.ldx : r.zero;
        row += count;
      }
    }
    done += run;
  }
  ends[0] = count;
  return 1;
}

void activate_pixel(const ConvTransposeSpec& s, const Epilogue& epilogue, float* y) {
  if (epilogue.activation) kernels().pointwise.activate(epilogue.activation, epilogue.slope, y, y, s.o);
}

void fill_with_bias(const ConvTransposeSpec& s, const Epilogue& epilogue, float* y, int threads) {
  Buffer pixel(static_cast<size_t>(s.o) * sizeof(float));
  if (epilogue.bias)
    std::copy_n(epilogue.bias, s.o, pixel.floats());
  else
    std::fill_n(pixel.floats(), s.o, 0.0f);
  activate_pixel(s, epilogue, pixel.floats());
  parallel_for(s.n * s.p, threads, [&](int64_t line) {
    float* to = y + line * s.q * s.ldy;
    for (int64_t q = 0; q < s.q; ++q, to += s.ldy) std::copy_n(pixel.floats(), s.o, to);
  });
}

// From the definition, for weights that are not finite: 0 * inf is NaN, so the zeros that stand in for
// pixels outside of x must not be multiplied.
void by_definition(const ConvTransposeSpec& s, const float* x, const float* w, const Epilogue& epilogue,
                   float* y, int threads) {
  const int64_t cg = s.c / s.groups, og = s.o / s.groups;
  parallel_for(s.n * s.p, threads, [&](int64_t line) {
    const int64_t image = line / s.p, p = line % s.p;
    for (int64_t q = 0; q < s.q; ++q) {
      float* to = y + (line * s.q + q) * s.ldy;
      std::fill_n(to, s.o, 0.0f);
      for (int64_t i = 0; i < s.kh; ++i)
        for (int64_t j = 0; j < s.kw; ++j) {
          const int64_t row = p + s.pt - i * s.dh, column = q + s.pl - j * s.dw;
          if (row < 0 || row % s.sh || row / s.sh >= s.h || column < 0 || column % s.sw ||
              column / s.sw >= s.w)
            continue;
          const float* from = x + ((image * s.h + row / s.sh) * s.w + column / s.sw) * s.ldx;
          for (int64_t o = 0; o < s.o; ++o) {
            const float *a = from + o / og * cg, *b = w + ((i * s.kw + j) * og + o % og) * s.c + o / og * cg;
            for (int64_t c = 0; c < cg; ++c) to[o] += a[c] * b[c];
          }
        }
      if (epilogue.bias)
        for (int64_t o = 0; o < s.o; ++o) to[o] += epilogue.bias[o];
      activate_pixel(s, epilogue, to);
    }
  });
}

}  // namespace

PackedTranspose::PackedTranspose(const ConvTransposeSpec& s, const float* w, int threads) {
  const int64_t cg = s.c / s.groups, og = s.o / s.groups;
  for (const AxisPhase& y : axis_phases(s.kh, s.sh, s.dh))
    for (const AxisPhase& x : axis_phases(s.kw, s.sw, s.dw)) {
      std::vector<const float*> sources;
      for (int64_t i : y.taps)
        for (int64_t j : x.taps) sources.push_back(w + (i * s.kw + j) * og * s.c);
      phases_.emplace_back(sources.data(), static_cast<int64_t>(sources.size()), cg, s.groups, og, cg, 1, s.c,
                           threads);
    }
}

std::vector<int64_t> PackedTranspose::depths(const ConvTransposeSpec& s) {
  std::vector<int64_t> depths;
  for (const AxisPhase& y : axis_phases(s.kh, s.sh, s.dh))
    for (const AxisPhase& x : axis_phases(s.kw, s.sw, s.dw))
      depths.push_back(static_cast<int64_t>(y.taps.size() * x.taps.size()) * (s.c / s.groups));
  return depths;
}

void conv2d_transpose(const ConvTransposeSpec& s, const float* x, const float* plain,
                      const PackedTranspose& w, const Epilogue& epilogue, float* y) {
  if (s.n * s.p * s.q * s.o == 0) return;
  if (verbose()) say_choice("conv2d_transpose", "one indirect GEMM per output phase", "anything");
  const double flops = 2.0 * static_cast<double>(s.n * s.h * s.w) * static_cast<double>(s.kh * s.kw) *
                       static_cast<double>(s.c) * static_cast<double>(s.o / s.groups);
  const int threads = threads_for(gemm_nanoseconds(flops));
  if (!w.finite()) return by_definition(s, x, plain, epilogue, y, threads);
  const float* zero = zeros(static_cast<size_t>(s.c));
  const std::vector<AxisPhase> ys = axis_phases(s.kh, s.sh, s.dh), xs = axis_phases(s.kw, s.sw, s.dw);
  std::vector<PhaseRows> rows;
  rows.reserve(ys.size() * xs.size());
  std::vector<IndirectGemm> gemms;
  for (size_t i = 0; i < ys.size(); ++i)
    for (size_t j = 0; j < xs.size(); ++j) {
      // First output row and column whose taps have these remainders.
      const int64_t p = ((ys[i].remainder - s.pt) % s.sh + s.sh) % s.sh;
      const int64_t q = ((xs[j].remainder - s.pl) % s.sw + s.sw) % s.sw;
      if (p >= s.p || q >= s.q) continue;
      rows.push_back({&s, x, zero, y, &ys[i].taps, &xs[j].taps, p, q, (s.p - p + s.sh - 1) / s.sh,
                      (s.q - q + s.sw - 1) / s.sw});
      const int64_t taps = static_cast<int64_t>(ys[i].taps.size() * xs[j].taps.size());
      gemms.push_back({fill_phase, &rows.back(), zero, s.n * rows.back().rows * rows.back().columns, taps,
                       s.c / s.groups, w.phase(i * xs.size() + j), y, s.ldy, epilogue});
    }
  // Pixels without a tap hold the bias alone.
  if (static_cast<int64_t>(ys.size()) < s.sh || static_cast<int64_t>(xs.size()) < s.sw)
    fill_with_bias(s, epilogue, y, threads);
  if (!gemms.empty()) run_gemms(gemms.data(), static_cast<int64_t>(gemms.size()), threads);
}

}  // namespace cnnfast
