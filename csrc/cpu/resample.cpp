// Padding, joining and resizing: rows of the output over threads.
#include "cpu/resample.h"

#include <algorithm>

#include "core/arena.h"
#include "core/epilogue.h"
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

// A resize under way: one picture's rows, and how many floats lie from each to the end of the array.
struct Resizing {
  const ResizeAxis& vertical;
  const ResizeAxis& horizontal;
  int64_t c;
  const float* end;

  int64_t line_in() const { return horizontal.size * c; }
  int64_t line_out() const { return horizontal.outputs() * c; }

  void along_row(float* y, const float* x, int64_t readable) const {
    const ResampleKernels& k = kernels().resample;
    const ResizeAxis& h = horizontal;
    const ResampleTable table{h.start.data(), h.count.data(), h.weights.data(), h.taps};
    if (h.identity)
      k.copy_runs(y, 0, x, 0, line_out(), 1);
    else if (h.picks)
      k.pick_pixels(y, x, readable, h.start.data(), c, h.outputs());
    else
      k.blend_pixels(y, x, readable, &table, c, h.outputs());
  }

  // Rows p0..p1-1 of y from a picture: each is blended down the columns, then along the row.
  void rows_then_columns(const float* x, float* y, int64_t p0, int64_t p1) const {
    const ResampleKernels& k = kernels().resample;
    auto** rows = static_cast<const float**>(
        thread_scratch(Slot::kRows, static_cast<size_t>(vertical.taps) * sizeof(float*)));
    auto* blended = static_cast<float*>(
        thread_scratch(Slot::kTile, static_cast<size_t>(line_in() + kernels().vl) * sizeof(float)));
    for (int64_t p = p0; p < p1; ++p) {
      float* to = y + p * line_out();
      const float* from = x + vertical.start[p] * line_in();
      if (vertical.picks) {
        if (p > p0 && vertical.start[p] == vertical.start[p - 1])
          k.copy_runs(to, 0, to - line_out(), 0, line_out(), 1);
        else
          along_row(to, from, end - from);
        continue;
      }
      for (int32_t i = 0; i < vertical.count[p]; ++i) rows[i] = from + i * line_in();
      k.blend_rows(horizontal.identity ? to : blended, rows, vertical.weights.data() + p * vertical.taps,
                   vertical.count[p], line_in());
      if (!horizontal.identity) along_row(to, blended, line_in() + kernels().vl);
    }
  }

  // The other order: each input row is blended along the row once and kept in a ring, as long as the
  // rows of y, whose first input row never goes back, need it.
  void columns_then_rows(const float* x, float* y, int64_t p0, int64_t p1) const {
    const ResampleKernels& k = kernels().resample;
    const int64_t slots = vertical.taps;
    auto** rows =
        static_cast<const float**>(thread_scratch(Slot::kRows, static_cast<size_t>(slots) * sizeof(float*)));
    auto* ring = static_cast<float*>(
        thread_scratch(Slot::kTile, static_cast<size_t>(slots * line_out()) * sizeof(float)));
    int64_t next = 0;
    for (int64_t p = p0; p < p1; ++p) {
      const int64_t first = vertical.start[p], last = first + vertical.count[p];
      for (next = std::max(next, first); next < last; ++next) {
        const float* from = x + next * line_in();
        along_row(ring + next % slots * line_out(), from, end - from);
      }
      for (int64_t i = first; i < last; ++i) rows[i - first] = ring + i % slots * line_out();
      k.blend_rows(y + p * line_out(), rows, vertical.weights.data() + p * vertical.taps, vertical.count[p],
                   line_out());
    }
  }
};

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

void pad2d_grad(const Pad2dSpec& s, const float* g, float* dx) {
  const int64_t height = s.top + s.h + s.bottom, width = s.left + s.w + s.right;
  const int64_t row = s.w * s.c, line = width * s.c, rows = s.n * s.h;
  if (rows * row == 0) return;
  // Lines of the padding that are copies of each row.
  std::vector<std::vector<int64_t>> copies(static_cast<size_t>(s.h));
  for (int64_t i = 0; i < height; ++i) {
    const int64_t from = pad_source(s.mode, i - s.top, s.h);
    if (from >= 0 && i != from + s.top) copies[static_cast<size_t>(from)].push_back(i);
  }
  const auto add = [](const float* more, float* to, int64_t count) {
    const BinaryRows t{to, more, to, 1, count, 0, 0, 0, false, kNone, 0.0f};
    kernels().pointwise.binary(Binary::kAdd, &t);
  };
  const int threads = threads_for(static_cast<double>(rows) * (static_cast<double>(row) * kMove + 10));
  const int64_t band = std::max<int64_t>(1, std::min<int64_t>(rows / (4 * threads), 65536 / row));
  parallel_for((rows + band - 1) / band, threads, [&](int64_t task) {
    auto* sums = static_cast<float*>(thread_scratch(Slot::kTile, static_cast<size_t>(line) * sizeof(float)));
    for (int64_t r = task * band; r < std::min(rows, (task + 1) * band); ++r) {
      const float* picture = g + r / s.h * height * line;
      const float* whole = picture + (r % s.h + s.top) * line;
      const auto& others = copies[static_cast<size_t>(r % s.h)];
      if (!others.empty()) {
        std::copy_n(whole, line, sums);
        for (int64_t other : others) add(picture + other * line, sums, line);
        whole = sums;
      }
      float* to = dx + r * row;
      std::copy_n(whole + s.left * s.c, row, to);
      for (int64_t j = 0; j < width; ++j) {
        if (j == s.left) j += s.w;
        const int64_t from = j < width ? pad_source(s.mode, j - s.left, s.w) : -1;
        if (from >= 0) add(whole + j * s.c, to + from * s.c, s.c);
      }
    }
  });
}

void concat(const std::vector<ConcatPart>& parts, int64_t rows, float* y) {
  int64_t line = 0;
  for (const ConcatPart& part : parts) line += part.columns;
  if (rows * line == 0) return;
  const double pieces = static_cast<double>(rows) * static_cast<double>(parts.size());
  const int threads = threads_for(static_cast<double>(rows * line) * kMove + pieces * 2);
  const auto copy = kernels().resample.copy_runs;
  // Rows of this length are written one after the other, which memory likes better; shorter ones part by
  // part, which saves calls.
  constexpr int64_t kSequential = 64;
  constexpr int64_t kPastCache = int64_t{3} << 20;  // floats
  const bool past_cache = rows * line >= kPastCache;
  // Many short rows are shared out whole, a few long ones in pieces.
  if (rows >= 8 * threads) {
    const int64_t band = std::max<int64_t>(1, std::min<int64_t>(rows / (4 * threads), 65536 / line));
    parallel_for((rows + band - 1) / band, threads, [&](int64_t task) {
      const int64_t first = task * band, count = std::min(band, rows - first);
      float* to = y + first * line;
      if (line >= kSequential) {
        std::vector<ConcatPart> mine(parts);
        for (ConcatPart& part : mine) part.x += first * part.columns;
        kernels().resample.join_rows(to, mine.data(), static_cast<int64_t>(mine.size()), count, past_cache);
        return;
      }
      for (const ConcatPart& part : parts) {
        copy(to, line, part.x + first * part.columns, part.columns, part.columns, count);
        to += part.columns;
      }
    });
    return;
  }
  constexpr int64_t kPiece = 32768;
  const int64_t tasks_per_row = (line + kPiece - 1) / kPiece;
  parallel_for(rows * tasks_per_row, threads, [&](int64_t task) {
    const int64_t row = task / tasks_per_row, begin = task % tasks_per_row * kPiece;
    const int64_t end = std::min(line, begin + kPiece);
    int64_t at = 0;
    for (const ConcatPart& part : parts) {
      const int64_t from = std::max(at, begin), to = std::min(at + part.columns, end);
      if (from < to) copy(y + row * line + from, 0, part.x + row * part.columns + from - at, 0, to - from, 1);
      at += part.columns;
      if (at >= end) break;
    }
  });
}

void resize(int64_t n, int64_t c, const ResizeAxis& vertical, const ResizeAxis& horizontal,
            bool columns_first, const float* x, float* y) {
  const int64_t p = vertical.outputs(), q = horizontal.outputs();
  if (n * c * p * q == 0) return;
  const int64_t picture_in = vertical.size * horizontal.size * c, picture_out = p * q * c;
  const Resizing job{vertical, horizontal, c, x + n * picture_in};
  const bool narrow = c < kernels().vl;
  const double along =
      static_cast<double>(q * horizontal.taps) * (narrow ? 1.0 : static_cast<double>(c) / kernels().vl);
  const double down = static_cast<double>(horizontal.size * vertical.taps * c) / kernels().vl;
  const int threads = threads_for(static_cast<double>(n * p) * (along * 0.5 + down * 0.4 + 20));
  // Bands must be high enough that few input rows are blended twice.
  const int64_t least = columns_first ? 16 : 1;
  const int64_t share = (n * p + 4 * threads - 1) / (4 * threads);
  const int64_t band = std::min(p, std::max(least, std::min<int64_t>(share, 32)));
  const int64_t bands = (p + band - 1) / band;
  parallel_for(n * bands, threads, [&](int64_t task) {
    const int64_t image = task / bands, p0 = task % bands * band, p1 = std::min(p, p0 + band);
    const float* from = x + image * picture_in;
    float* to = y + image * picture_out;
    if (columns_first && !vertical.picks)
      job.columns_then_rows(from, to, p0, p1);
    else
      job.rows_then_columns(from, to, p0, p1);
  });
}

}  // namespace cnnfast
