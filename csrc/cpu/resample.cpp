// Padding, joining and resizing: rows of the output over threads.
#include "cpu/resample.h"

#include <algorithm>

#include "core/arena.h"
#include "core/threads.h"
#include "kernels/table.h"

namespace cnnfast {
namespace {

// Nanoseconds one thread takes to move a float from memory to memory.
constexpr double kMove = 0.5;

// Position in 0..size-1 that stands at i, or -1 for the constant.
int64_t pad_source(int mode, int64_t i, int64_t size) {
  if (i >= 0 && i < size) return i;
  switch (mode) {
    case kPadReflect:
      return i < 0 ? -i : 2 * (size - 1) - i;
    case kPadReplicate:
      return i < 0 ? 0 : size - 1;
    case kPadCircular:
      return i < 0 ? i + size : i - size;
    default:
      return -1;
  }
}

void pad_row(const Pad2dSpec& s, const float* x, float* y) {
  const ResampleKernels& k = kernels().resample;
  // `count` padding pixels that begin at column i of the picture.
  auto outside = [&](float* to, int64_t i, int64_t count) {
    if (count == 0) return;
    const int64_t from = pad_source(s.mode, i, s.w);
    if (from < 0)
      k.fill(to, s.value, count * s.c);
    else if (s.mode == kPadCircular)
      k.copy_runs(to, 0, x + from * s.c, 0, count * s.c, 1);
    else
      k.copy_pixels(to, x + from * s.c, s.mode == kPadReflect ? -s.c : 0, s.c, count);
  };
  outside(y, -s.left, s.left);
  k.copy_runs(y + s.left * s.c, 0, x, 0, s.w * s.c, 1);
  outside(y + (s.left + s.w) * s.c, s.w, s.right);
}

}  // namespace

void pad2d(const Pad2dSpec& s, const float* x, float* y) {
  const int64_t height = s.top + s.h + s.bottom, line = (s.left + s.w + s.right) * s.c;
  const int64_t lines = s.n * height;
  if (lines == 0 || line == 0) return;
  const int threads = threads_for(static_cast<double>(lines) * (static_cast<double>(line) * kMove + 10));
  const int64_t band = std::max<int64_t>(1, std::min<int64_t>(lines / (4 * threads), 65536 / line));
  parallel_for((lines + band - 1) / band, threads, [&](int64_t task) {
    for (int64_t l = task * band; l < std::min(lines, (task + 1) * band); ++l) {
      const int64_t row = pad_source(s.mode, l % height - s.top, s.h);
      if (row < 0)
        kernels().resample.fill(y + l * line, s.value, line);
      else
        pad_row(s, x + (l / height * s.h + row) * s.w * s.c, y + l * line);
    }
  });
}

}  // namespace cnnfast
