#include "cpu/conv2d.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <optional>
#include <string>

#include "core/threads.h"
#include "cpu/pixel_lanes.h"
#include "kernels/table.h"

namespace cnnfast {
namespace {

// Taps shorter than this are not worth tiles of their own at the edges.
constexpr int64_t kSkipLength = 16;

// Output lines of one task, of few channels.
constexpr int64_t kLines = 16;

struct ConvRows {
  const Conv2dSpec* s;
  const float* x;
  int64_t len;  // channels per group
  const float* zero;
  float* y;
  // Output columns and rows whose window reaches into the padding; 0 when nothing is gained by
  // handling them apart.
  int64_t left, right, top, bottom;
};

// A run of output pixels: (p, q), (p + dp, q + dq), ...
struct Run {
  int64_t image, p, q, dp, dq, count;
  bool ends_segment;
};

// Pixels are taken in an order that keeps those with the same taps in the padding together: first the
// edge columns, top to bottom, then the rows between them. A tile then skips such taps altogether.
Run run_at(const ConvRows& r, int64_t index, int64_t limit) {
  const Conv2dSpec& s = *r.s;
  const int64_t pixels = s.p * s.q, image = index / pixels, edges = r.left + r.right;
  int64_t i = index % pixels;
  if (i < edges * s.p) {
    const int64_t column = i / s.p, p = i % s.p, count = std::min(limit, s.p - p);
    return {image, p, column < r.left ? column : s.q - edges + column, 1, 0, count, true};
  }
  i -= edges * s.p;
  const int64_t width = s.q - edges, p = i / width, q = i % width, count = std::min(limit, width - q);
  const bool row_done = q + count == width;
  const bool edge = p < r.top || p + 1 == s.p - r.bottom || p >= s.p - r.bottom || p + 1 == s.p;
  return {image, p, r.left + q, 0, 1, count, row_done && edge};
}

// The steps k of first + k * step that stay in 0 .. last_allowed, cut to begin .. end.
void inside_range(int64_t first, int64_t step, int64_t last_allowed, int64_t* begin, int64_t* end) {
  if (last_allowed < 0 || (step == 0 && (first < 0 || first > last_allowed))) *end = *begin;
  if (step == 0 || *end == *begin) return;
  if (first < 0) *begin = std::min(*end, std::max(*begin, (-first + step - 1) / step));
  const int64_t room = last_allowed - first;
  *end = room < 0 ? *begin : std::max(*begin, std::min(*end, room / step + 1));
}

// Pointers to the input values under each tap for a block of output pixels.
int64_t fill_conv(const void* context, int64_t first, int64_t count, const float** rows, float** out,
                  int64_t* ends) {
  const auto& r = *static_cast<const ConvRows*>(context);
  const Conv2dSpec& s = *r.s;
  int64_t segments = 0;
  for (int64_t done = 0; done < count;) {
    const Run run = run_at(r, first + done, count - done);
    float* to = r.y + ((run.image * s.p + run.p) * s.q + run.q) * s.ldy;
    const int64_t out_step = (run.dp * s.q + run.dq) * s.ldy;
    for (int64_t k = 0; k < run.count; ++k) out[done + k] = to + k * out_step;

    const float* base = r.x + run.image * s.h * s.w * s.ldx;
    const int64_t dy = run.dp * s.sh, dx = run.dq * s.sw;
    for (int64_t i = 0; i < s.kh; ++i) {
      const int64_t iy = run.p * s.sh - s.pt + i * s.dh;
      for (int64_t j = 0; j < s.kw; ++j) {
        const float** row = rows + (i * s.kw + j) * count + done;
        const int64_t ix = run.q * s.sw - s.pl + j * s.dw;
        // Steps begin .. end lie inside the picture, the others in the padding.
        int64_t begin = 0, end = run.count;
        inside_range(iy, dy, s.h - 1, &begin, &end);
        inside_range(ix, dx, s.w - 1, &begin, &end);
        for (int64_t k = 0; k < begin; ++k) row[k] = r.zero;
        for (int64_t k = begin; k < end; ++k) row[k] = base + ((iy + k * dy) * s.w + ix + k * dx) * s.ldx;
        for (int64_t k = end; k < run.count; ++k) row[k] = r.zero;
      }
    }
    done += run.count;
    if (run.ends_segment || done == count) ends[segments++] = done;
  }
  return segments;
}

// Output positions along one axis whose window begins before the picture, and ends after it.
void edge_counts(int64_t n, int64_t out, int64_t k, int64_t stride, int64_t dilation, int64_t pad,
                 int64_t* before, int64_t* after) {
  *before = std::min(out, (pad + stride - 1) / stride);
  *after = 0;
  while (*after < out - *before && (out - 1 - *after) * stride - pad + (k - 1) * dilation >= n) ++*after;
}

// Few channels: the windows of neighbouring output pixels lie evenly apart in a line of the picture x, copied
// with its padding where it has any. Lines p0 .. p1 of the result, from y on.
void kernel_rows_band(const Conv2dSpec& s, const LineGemm& gemm, const float* x, int64_t p0, int64_t p1,
                      float* y) {
  const int64_t width = ((s.q - 1) * s.sw + s.kw) * s.c, line = s.w * s.c, left = s.pl * s.c;
  const bool copied = left > 0 || width > line;
  const float* zero = zeros(static_cast<size_t>(width));
  const int64_t top = std::max<int64_t>(0, p0 * s.sh - s.pt);
  const int64_t bottom = std::min(s.h, (p1 - 1) * s.sh - s.pt + (s.kh - 1) * s.dh + 1);
  const int64_t count = std::max<int64_t>(0, bottom - top);
  const float* lines = x + top * line;
  if (copied) {
    auto* to = static_cast<float*>(
        thread_scratch(Slot::kImage, static_cast<size_t>(count * width + 1) * sizeof(float)));
    const int64_t inside = std::max<int64_t>(0, std::min(line, width - left));
    for (int64_t i = 0; i < count; ++i) {
      float* row = to + i * width;
      std::fill(row, row + std::min(left, width), 0.0f);
      if (inside > 0) std::memcpy(row + left, lines + i * line, static_cast<size_t>(inside) * sizeof(float));
      if (left + inside < width) std::fill(row + left + inside, row + width, 0.0f);
    }
    lines = to;
  }
  const int64_t stride = copied ? width : line;
  auto** taps = static_cast<const float**>(
      thread_scratch(Slot::kRows, static_cast<size_t>((p1 - p0) * s.kh) * sizeof(float*)));
  for (int64_t p = p0; p < p1; ++p)
    for (int64_t i = 0; i < s.kh; ++i) {
      const int64_t iy = p * s.sh - s.pt + i * s.dh;
      taps[(p - p0) * s.kh + i] = iy < 0 || iy >= s.h ? zero : lines + (iy - top) * stride;
    }
  run_lines(gemm, p1 - p0, taps, y, s.q * s.ldy);
}

LineGemm kernel_rows_gemm(const Conv2dSpec& s, const MatrixView& b, const Epilogue& epilogue, int64_t lines,
                          const float* out_base, int threads) {
  return {s.q, s.sw * s.c, s.ldy, s.kh, s.kw * s.c, b, out_base, lines * s.q, threads, epilogue};
}

void conv2d_by_kernel_rows(const Conv2dSpec& s, const float* x, const MatrixView& b, const Epilogue& epilogue,
                           float* y, int threads) {
  const LineGemm gemm = kernel_rows_gemm(s, b, epilogue, s.n * s.p, y, threads);
  const int64_t share = threads == 1 ? s.p : s.n * s.p / (4 * threads);
  const int64_t height = std::max<int64_t>(1, std::min(kLines, share));
  const int64_t bands = (s.p + height - 1) / height;
  parallel_for(s.n * bands, threads, [&](int64_t task) {
    const int64_t band = task % bands, image = task / bands;
    const int64_t p0 = band * s.p / bands, p1 = (band + 1) * s.p / bands;
    kernel_rows_band(s, gemm, x + image * s.h * s.w * s.c, p0, p1, y + (image * s.p + p0) * s.q * s.ldy);
  });
}

bool has_kernel_rows(const Conv2dSpec& s) {
  return s.groups == 1 && s.dw == 1 && s.kw > 1 && s.c <= 8 && s.ldx == s.c && s.kw * s.c <= kLineLength;
}

bool is_depthwise(const Conv2dSpec& s) { return s.groups == s.c && s.c > 1; }

bool is_few_channels(const Conv2dSpec& s) {
  const int64_t few = s.c / s.groups, vl = kernels().vl;
  return s.groups > 1 && s.c == s.o && (few == 2 || few == 4 || few == 8) && few <= vl && s.c >= vl &&
         s.kw == 3 && s.dw == 1 && s.sw <= 2;
}

// One list, in order; the first that accepts is taken.
enum class Algorithm { kDepthwise, kGroups, kPointwise, kDense, kPixels, kKernelRows, kImplicitGemm };
struct Choice {
  Algorithm algorithm;
  const char* name;
  bool (*accepts)(const Conv2dSpec&);
  const char* condition;
};
const Choice kChoices[] = {
    {Algorithm::kDepthwise, "depthwise", is_depthwise, "one input channel per group"},
    {Algorithm::kGroups, "groups across lanes", is_few_channels,
     "2, 4 or 8 channels in and out of every group, kernel width 3, stride 1 or 2 along rows"},
    {Algorithm::kPointwise, "pointwise GEMM",
     [](const Conv2dSpec& s) {
       return s.kh == 1 && s.kw == 1 && s.sh == 1 && s.sw == 1 && s.pt == 0 && s.pl == 0 && s.p == s.h &&
              s.q == s.w;
     },
     "1x1, stride 1, no padding"},
    {Algorithm::kDense, "dense layer",
     [](const Conv2dSpec& s) { return covers_picture(s) && s.ldx == s.c && s.ldy == s.o; },
     "the kernel covers the whole picture"},
    {Algorithm::kPixels, "pixels across lanes", pixels_across_lanes,
     "at most 8 channels in and 8 out, at most 768 products for a value"},
    {Algorithm::kKernelRows, "implicit GEMM over kernel rows", has_kernel_rows,
     "at most 8 channels, no dilation along rows: a kernel row is one contiguous run"},
    {Algorithm::kImplicitGemm, "implicit GEMM", [](const Conv2dSpec&) { return true; }, "anything"},
};

const Choice& choose(const Conv2dSpec& s) {
  for (const Choice& choice : kChoices) {
    if (choice.accepts(s)) {
      if (verbose()) say_choice("conv2d", choice.name, choice.condition);
      return choice;
    }
    if (verbose()) say_choice("conv2d", (std::string("not ") + choice.name).c_str(), choice.condition);
  }
  std::abort();  // the last entry accepts everything
}

}  // namespace

bool verbose() {
  static const bool on = [] {
    const char* text = std::getenv("CNNFAST_VERBOSE");
    return text && *text && std::strcmp(text, "0") != 0;
  }();
  return on;
}

void say_choice(const char* op, const char* chosen, const char* why) {
  std::fprintf(stderr, "cnnfast: %s: %s (%s)\n", op, chosen, why);
}

bool channels_across_lanes(const Conv2dSpec& s) { return is_depthwise(s) || is_few_channels(s); }

const char* conv2d_algorithm(const Conv2dSpec& s) {
  for (const Choice& choice : kChoices)
    if (choice.accepts(s)) return choice.name;
  return "";
}

PackedMatrix pack_conv2d(const float* w, int64_t kh, int64_t kw, int64_t c_per_group, int64_t o,
                         int64_t groups) {
  const int64_t depth = kh * kw * c_per_group, columns = o / groups;
  const double nanoseconds = static_cast<double>(depth * o) * 0.5;
  return PackedMatrix(&w, 1, depth, groups, columns, columns, o, 1, threads_for(nanoseconds), Life::kWeights);
}

void conv2d_lines(const Conv2dSpec& s, const float* x, const MatrixView& b, const Epilogue& epilogue,
                  int64_t p0, int64_t p1, float* y) {
  kernel_rows_band(s, kernel_rows_gemm(s, b, epilogue, p1 - p0, y, 1), x, p0, p1, y);
}

void conv2d(const Conv2dSpec& s, const float* x, const float* w, const PackedMatrix* packed,
            const Epilogue& epilogue, float* y) {
  if (s.n * s.p * s.q * s.o == 0) return;
  const Choice& choice = choose(s);
  if ((choice.algorithm == Algorithm::kDepthwise || choice.algorithm == Algorithm::kGroups) && w)
    return depthwise_conv2d(s, x, w, all_finite(w, s.depth() * s.o), epilogue, y);
  if (choice.algorithm == Algorithm::kPixels && w) return conv2d_by_pixels(s, nullptr, x, w, epilogue, y);
  const int threads = threads_for(gemm_nanoseconds(s.flops()));
  const int64_t rows = s.n * s.p * s.q;
  std::optional<CallWeights> own;
  // Lines are not swept over plain weights, as few rows are otherwise.
  const bool by_lines = has_kernel_rows(s);
  const int64_t packed_for = by_lines ? std::numeric_limits<int64_t>::max() : rows;
  if (!packed) own.emplace(w, packed_for, s.groups, s.depth(), s.o / s.groups, threads);
  const MatrixView b = packed ? packed->view() : own->view();

  if (choice.algorithm == Algorithm::kPointwise)
    return dense_gemm(x, s.ldx, rows, b, epilogue, y, s.ldy, threads);
  if (choice.algorithm == Algorithm::kDense)
    return dense_gemm(x, s.depth(), rows, b, epilogue, y, s.o, threads);

  if (by_lines) return conv2d_by_kernel_rows(s, x, b, epilogue, y, threads);

  ConvRows r{&s, x, s.c / s.groups, nullptr, y, 0, 0, 0, 0};
  r.zero = zeros(static_cast<size_t>(s.c));
  if (b.finite && r.len >= kSkipLength) {
    edge_counts(s.h, s.p, s.kh, s.sh, s.dh, s.pt, &r.top, &r.bottom);
    edge_counts(s.w, s.q, s.kw, s.sw, s.dw, s.pl, &r.left, &r.right);
  }
  const IndirectGemm gemm{fill_conv, &r, r.zero, rows, s.kh * s.kw, r.len, b, y, s.ldy, epilogue};
  run_gemms(&gemm, 1, threads);
}

}  // namespace cnnfast
