#include "cpu/conv2d.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>

#include "core/threads.h"
#include "kernels/table.h"

namespace cnnfast {
namespace {

struct ConvRows {
  const Conv2dSpec* s;
  const float* x;     // first value of the image that `h`, `w` measure
  int64_t h, w;       // of x, which may be a padded copy
  int64_t pt, pl;     // padding still to be done by pointers
  int64_t kw;         // taps per kernel row: 1 when a whole kernel row is one run
  const float* zero;
  float* y;
};

// Pointers to the input values under each tap for a run of output pixels.
void fill_conv(const void* context, int64_t first, int64_t count, const float** rows, float** out) {
  const auto& r = *static_cast<const ConvRows*>(context);
  const Conv2dSpec& s = *r.s;
  for (int64_t i = 0; i < count; ++i) out[i] = r.y + (first + i) * s.o;
  for (int64_t done = 0; done < count;) {
    const int64_t index = first + done, line = index / s.q, q = index % s.q;
    const int64_t run = std::min(count - done, s.q - q);
    const int64_t image = line / s.p, p = line % s.p;
    const float* base = r.x + image * r.h * r.w * s.c;
    for (int64_t i = 0; i < s.kh; ++i) {
      const int64_t iy = p * s.sh - r.pt + i * s.dh;
      for (int64_t j = 0; j < r.kw; ++j) {
        const float** row = rows + (i * r.kw + j) * count + done;
        if (iy < 0 || iy >= r.h) {
          for (int64_t k = 0; k < run; ++k) row[k] = r.zero;
          continue;
        }
        const float* line_base = base + iy * r.w * s.c;
        int64_t ix = q * s.sw - r.pl + j * s.dw;
        if (ix >= 0 && ix + (run - 1) * s.sw < r.w) {
          const float* at = line_base + ix * s.c;
          for (int64_t k = 0; k < run; ++k, at += s.sw * s.c) row[k] = at;
        } else {
          for (int64_t k = 0; k < run; ++k, ix += s.sw)
            row[k] = ix >= 0 && ix < r.w ? line_base + ix * s.c : r.zero;
        }
      }
    }
    done += run;
  }
}

// One list, in order; the first that accepts is taken.
enum class Algorithm { kDepthwise, kPointwise, kKernelRows, kImplicitGemm };
struct Choice {
  Algorithm algorithm;
  const char* name;
  bool (*accepts)(const Conv2dSpec&);
  const char* condition;
};
const Choice kChoices[] = {
    {Algorithm::kDepthwise, "depthwise", [](const Conv2dSpec& s) { return s.groups == s.c && s.c > 1; },
     "one input channel per group"},
    {Algorithm::kPointwise, "pointwise GEMM",
     [](const Conv2dSpec& s) {
       return s.kh == 1 && s.kw == 1 && s.sh == 1 && s.sw == 1 && s.pt == 0 && s.pl == 0 && s.p == s.h && s.q == s.w;
     },
     "1x1, stride 1, no padding"},
    {Algorithm::kKernelRows, "implicit GEMM over kernel rows",
     [](const Conv2dSpec& s) { return s.groups == 1 && s.dw == 1 && s.kw > 1 && s.c <= 8; },
     "at most 8 channels, no dilation: a kernel row is one contiguous run"},
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

// Copy of x with its padding written out, so that kernel rows can be read as runs.
Buffer padded_copy(const Conv2dSpec& s, const float* x, int64_t rows, int64_t columns, int threads) {
  Buffer copy(static_cast<size_t>(s.n * rows * columns * s.c) * sizeof(float));
  const int64_t width = columns * s.c, used = std::min(s.w, columns - s.pl) * s.c;
  const int64_t band = std::max<int64_t>(1, 16384 / std::max<int64_t>(width, 1));
  const int64_t bands = (rows + band - 1) / band;
  parallel_for(s.n * bands, threads, [&](int64_t task) {
    const int64_t image = task / bands, begin = task % bands * band;
    for (int64_t r = begin; r < std::min(rows, begin + band); ++r) {
      float* to = copy.floats() + (image * rows + r) * width;
      const int64_t iy = r - s.pt;
      if (iy < 0 || iy >= s.h) {
        std::memset(to, 0, static_cast<size_t>(width) * sizeof(float));
        continue;
      }
      std::memset(to, 0, static_cast<size_t>(s.pl * s.c) * sizeof(float));
      std::memcpy(to + s.pl * s.c, x + (image * s.h + iy) * s.w * s.c, static_cast<size_t>(used) * sizeof(float));
      const int64_t end = s.pl * s.c + used;
      std::memset(to + end, 0, static_cast<size_t>(width - end) * sizeof(float));
    }
  });
  return copy;
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

PackedMatrix pack_conv2d(const float* w, int64_t kh, int64_t kw, int64_t c_per_group, int64_t o, int64_t groups) {
  const int64_t depth = kh * kw * c_per_group, columns = o / groups;
  const double nanoseconds = static_cast<double>(depth * o) * 0.5;
  return PackedMatrix(&w, 1, depth, groups, columns, columns, o, 1, threads_for(nanoseconds));
}

void conv2d(const Conv2dSpec& s, const float* x, const float* w, const PackedMatrix* packed,
            const Epilogue& epilogue, float* y) {
  if (s.n * s.p * s.q * s.o == 0) return;
  const Choice& choice = choose(s);
  if (choice.algorithm == Algorithm::kDepthwise && w) return depthwise_conv2d(s, x, w, epilogue, y);
  const int threads = threads_for(gemm_nanoseconds(s.flops()));
  const int64_t rows = s.n * s.p * s.q;
  std::optional<CallWeights> own;
  if (!packed) own.emplace(w, rows, s.groups, s.depth(), s.o / s.groups, threads);
  const MatrixView b = packed ? packed->view() : own->view();

  if (choice.algorithm == Algorithm::kPointwise) return dense_gemm(x, rows, b, epilogue, y, threads);

  ConvRows r{&s, x, s.h, s.w, s.pt, s.pl, s.kw, zeros(static_cast<size_t>(s.c)), y};
  int64_t taps = s.kh * s.kw, len = s.c / s.groups;
  Buffer copy;
  if (choice.algorithm == Algorithm::kKernelRows) {
    const int64_t need_h = (s.p - 1) * s.sh + (s.kh - 1) * s.dh + 1, need_w = (s.q - 1) * s.sw + s.kw;
    if (s.pt > 0 || s.pl > 0 || need_h > s.h || need_w > s.w) {
      copy = padded_copy(s, x, need_h, need_w, threads);
      r.x = copy.floats();
      r.h = need_h;
      r.w = need_w;
      r.pt = r.pl = 0;
    }
    r.kw = 1;
    taps = s.kh;
    len = s.kw * s.c;
  }
  const IndirectGemm gemm{fill_conv, &r, rows, taps, len, b, y, epilogue};
  run_gemms(&gemm, 1, threads);
}

}  // namespace cnnfast
