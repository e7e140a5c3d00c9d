// 1x1 convolution of gated channels: sum over c of (x[c] g[c]) w[c, o] = sum over c of x[c] (g[c] w[c, o]).
// The weights are fewer than the pixels, so they take the gates in, picture by picture.
#include "cpu/gated_conv2d.h"

#include "core/threads.h"
#include "kernels/table.h"

namespace cnnfast {

void gated_conv2d(const Conv2dSpec& s, const float* x, const float* gates, const PackedMatrix& w,
                  const Epilogue& epilogue, float* y) {
  if (s.n * s.p * s.q == 0) return;
  const KernelTable& k = kernels();
  MatrixView b = w.view();
  const Buffer gated(static_cast<size_t>(w.floats()) * sizeof(float));
  const float* plain = b.data;
  b.data = gated.floats();
  // Packed panels: depth x width, one after the other.
  const int64_t vectors = (s.o + k.vl - 1) / k.vl, panels = panel_count(s.o, k.vl, k.gemm.max_vectors, false);
  const int64_t pixels = s.p * s.q;
  const int threads = threads_for(gemm_nanoseconds(s.flops()));
  for (int64_t n = 0; n < s.n; ++n) {
    for (int64_t panel = 0; panel < panels; ++panel) {
      const int64_t first = panel * vectors / panels * k.vl, last = (panel + 1) * vectors / panels * k.vl;
      const int64_t width = last - first, begin = first * s.c;
      const BinaryRows rows{
          plain + begin, gates + n * s.c, gated.floats() + begin, s.c, width, width, 1, width, true, kNone,
          0.0f};
      k.pointwise.binary(Binary::kMul, &rows);
    }
    Epilogue end = epilogue;
    if (end.residual) end.residual += n * pixels * s.ldy;
    dense_gemm(x + n * pixels * s.ldx, s.ldx, pixels, b, end, y + n * pixels * s.ldy, s.ldy, threads);
  }
}

}  // namespace cnnfast
