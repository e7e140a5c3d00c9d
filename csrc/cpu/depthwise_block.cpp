// Depthwise convolution between others. A thread takes a run of output rows and goes through it in
// bands: the rows that a band's windows reach into are expanded (those that the last band needed too are
// kept), filtered, and projected, while they lie in the second-level cache.
#include "cpu/depthwise_block.h"

#include <algorithm>
#include <cstring>

#include "core/threads.h"

namespace cnnfast {
namespace {

// Floats between the stages: what is left of a second-level cache beside weights, input and output.
constexpr int64_t kBetween = int64_t{150} << 10;
// Output rows of a band, at most: their input is to stay in the cache as well.
constexpr int64_t kTallest = 14;

struct Block {
  const Conv2dSpec& s;
  const float* x;
  const BlockConv& expand;
  DepthwiseImage image;  // of a whole picture
  const Epilogue& epilogue;
  const BlockConv& project;
  float* y;

  // Rows of the depthwise convolution's input that output rows p0 .. p1 look at.
  int64_t first_row(int64_t p0) const { return std::clamp<int64_t>(p0 * s.sh - s.pt, 0, s.h); }
  int64_t last_row(int64_t p1) const {
    return std::clamp<int64_t>((p1 - 1) * s.sh - s.pt + (s.kh - 1) * s.dh + 1, 0, s.h);
  }

  // Bands of so many output rows.
  int64_t band_count(int64_t rows) const {
    const int64_t in = expand.weights ? s.w * s.c : 0, out = project.weights ? s.q * s.c : 0;
    const int64_t per_row = s.sh * in + out, halo = ((s.kh - 1) * s.dh + 1 - s.sh) * in;
    const int64_t most = std::clamp<int64_t>((kBetween - halo) / std::max<int64_t>(1, per_row), 1, kTallest);
    return (rows + most - 1) / most;
  }

  // Expanded rows first .. last of picture n, each to its place in a ring of so many rows.
  void expand_rows(int64_t n, int64_t first, int64_t last, int64_t ring, float* to) const {
    for (int64_t row = first; row < last;) {
      const int64_t end = std::min(last, row - row % ring + ring);
      const Conv2dSpec& e = expand.spec;
      float* place = to + row % ring * s.w * s.c;
      if (e.kh * e.kw > 1)
        conv2d_lines(e, x + n * e.h * e.w * e.c, expand.weights->view(), expand.epilogue, row, end, place);
      else
        dense_gemm(x + (n * s.h + row) * s.w * expand.ld, expand.ld, (end - row) * s.w,
                   expand.weights->view(), expand.epilogue, place, s.c, 1);
      row = end;
    }
  }

  void run(int64_t n, int64_t p0, int64_t p1) const {
    const int64_t bands = band_count(p1 - p0);
    const int64_t tallest = (p1 - p0 + bands - 1) / bands;
    const int64_t ring = std::min(s.h, (tallest - 1) * s.sh + (s.kh - 1) * s.dh + 1);
    const int64_t expanded = expand.weights ? ring * s.w * s.c : 0;
    const int64_t filtered = project.weights ? tallest * s.q * s.c : 0;
    auto* between = static_cast<float*>(
        thread_scratch(Slot::kTile, static_cast<size_t>(expanded + filtered + 1) * sizeof(float)));
    int64_t done = 0;  // rows before this one are expanded
    for (int64_t band = 0; band < bands; ++band) {
      const int64_t b0 = p0 + band * (p1 - p0) / bands, b1 = p0 + (band + 1) * (p1 - p0) / bands;
      const int64_t top = first_row(b0), bottom = std::max(top, last_row(b1));
      int64_t base = top;  // the picture's row at the first place of what the kernel sees
      DepthwiseImage part = image;
      part.x = x + (n * s.h + top) * s.w * s.c;
      if (expand.weights) {
        expand_rows(n, std::max(top, done), bottom, ring, between);
        done = bottom;
        base = top - top % ring;
        part.x = between;
        part.fold = part.ring = ring;
      }
      part.h = bottom - base, part.p = b1 - b0;
      part.pt = s.pt - b0 * s.sh + base;
      const int64_t pixel = (n * s.p + b0) * s.q;
      part.y = project.weights ? between + expanded : y + pixel * s.c;
      depthwise_band(part, 0, part.p, 0, s.c);
      if (!project.weights) continue;
      Epilogue end = project.epilogue;
      if (end.residual) end.residual += pixel * project.ld;
      dense_gemm(part.y, s.c, part.p * s.q, project.weights->view(), end, y + pixel * project.ld, project.ld,
                 1);
    }
  }
};

}  // namespace

void depthwise_block(const Conv2dSpec& s, const float* x, const BlockConv& expand, const float* w,
                     bool finite, const Epilogue& epilogue, const BlockConv& project, float* y) {
  if (s.n * s.p * s.q * s.o == 0) return;
  const Block block{s, x, expand, depthwise_image(s, w, finite, epilogue), epilogue, project, y};
  double flops = s.flops();
  if (expand.weights)
    flops +=
        2.0 * static_cast<double>(s.n * s.h * s.w * s.c) * static_cast<double>(expand.weights->view().depth);
  if (project.weights)
    flops += 2.0 * static_cast<double>(s.n * s.p * s.q * s.c) *
             static_cast<double>(project.weights->view().columns);
  const int threads = threads_for(gemm_nanoseconds(flops));
  // Rows at the border of two runs are expanded twice: as few runs as keep all threads busy.
  int64_t runs = s.n % threads == 0 ? 1 : threads;
  if (!expand.weights && threads > 1) runs = std::max(runs, (4 * threads + s.n - 1) / s.n);
  runs = std::min(runs, s.p);
  parallel_for(s.n * runs, threads, [&](int64_t task) {
    const int64_t n = task / runs, i = task % runs;
    block.run(n, i * s.p / runs, (i + 1) * s.p / runs);
  });
}

}  // namespace cnnfast
