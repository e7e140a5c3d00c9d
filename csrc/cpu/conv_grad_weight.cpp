// The gradient of a convolution's weight: sums over output pixels of outer products, (what a tap saw) x
// (gradient). The pixels are taken in blocks whose gradients, packed in panels, stay in the second-level
// cache while tiles of input channels pass; taps are runs of pixels, so padding costs nothing. Blocks add up
// in groups of kGroup, whose sums are joined pairwise: how the pixels are divided follows from the shape
// alone, so the bits do not depend on the number of threads, and no chain of additions is long.
#include <algorithm>
#include <cstring>
#include <vector>

#include "core/arena.h"
#include "core/threads.h"
#include "cpu/conv_grad.h"
#include "cpu/gemm.h"
#include "cpu/winograd.h"
#include "kernels/table.h"

namespace cnnfast {
namespace {

// Products summed in one go, floats of packed gradients of a block, and blocks that share their sums.
constexpr int64_t kSums = 512, kBlockFloats = int64_t{1} << 17, kGroup = 16;
// Sums of all groups at most.
constexpr int64_t kMostFloats = int64_t{1} << 25;
// Up to so many channels a row of the kernel is taken as one run of values.
constexpr int64_t kFewChannels = 8;
// Up to so many values a window is copied whole, for less than a panel of outputs: the rows of a kernel alone
// are too few sums to hide the latency of one.
constexpr int64_t kFewValues = 32, kMostCopied = 14;
// Up to so many tiles per panel, taps counted, are quicker without a packed gradient.
constexpr int64_t kFewTiles = 4;
// Fewer tiles than kShares are no work for many threads: the pixels are shared instead, at least kLeastShare
// each. So they are where every share of up to kTilesPerPack tiles would pack the same gradient; sums of
// their own cost more there, so the shares are larger.
constexpr int64_t kShares = 8, kLeastShare = 128, kTilesPerPack = 64, kLeastPackedShare = 384;
// Up to so many panels an input without taps is read where it lies, fetched so many pixels ahead.
constexpr int64_t kFewPanels = 4, kAhead = 24;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A 1x1 convolution of neighbouring pixels sees the pictures as one line.
Conv2dSpec as_line(const Conv2dSpec& s) {
  Conv2dSpec line = s;
  const bool same = s.kh * s.kw * s.sh * s.sw == 1 && s.pt == 0 && s.pl == 0 && s.p == s.h && s.q == s.w;
  if (same) line.n = line.h = line.p = 1, line.w = line.q = s.n * s.h * s.w;
  return line;
}

bool is_line(const Conv2dSpec& s) {
  return s.n * s.h * s.p * s.kh * s.kw * s.sw == 1 && s.pl == 0 && s.q == s.w;
}

// The call as sums over pixels. A unit is a stretch of an output line.
struct Shape {
  explicit Shape(const Conv2dSpec& spec)
      : s(spec),
        by_rows(spec.groups == 1 && spec.dw == 1 && spec.kw > 1 && spec.c <= kFewChannels),
        by_windows(by_rows && spec.kw * spec.c <= kMostCopied && spec.kh * spec.kw * spec.c <= kFewValues &&
                   spec.o <= kernels().vl),
        columns(by_windows ? spec.kh * spec.kw * spec.c
                : by_rows  ? spec.kw * spec.c
                           : spec.c / spec.groups),
        taps_y(by_windows ? 1 : spec.kh),
        taps_x(by_rows ? 1 : spec.kw),
        outputs(spec.o / spec.groups) {
    const OuterKernels& k = kernels().outer;
    const int64_t vl = kernels().vl, vectors = ceil_div(outputs, vl);
    panels = ceil_div(vectors, k.widest / vl);
    in_place = is_line(s) && panels <= kFewPanels;
    for (int64_t p = 0; p <= panels; ++p)
      panel_starts.push_back(std::min(outputs, p * vectors / panels * vl));
    rows = columns;
    for (int64_t p = 0; p < panels; ++p) rows = std::min(rows, k.rows(panel_starts[p + 1] - panel_starts[p]));
    tiles = ceil_div(columns, rows);
    const int64_t all_tiles = tiles * taps_y * taps_x * s.groups;
    const int64_t least = tiles * s.groups < kShares                        ? kLeastShare
                          : all_tiles <= kTilesPerPack && !packed_already() ? kLeastPackedShare
                                                                            : s.n * s.p * s.q;
    const int64_t shares = std::clamp<int64_t>(s.n * s.p * s.q / least, 1, kShares);
    pieces = ceil_div(s.q, kSums);
    if (s.n * s.p == 1) pieces = std::min(s.q, ceil_div(pieces, shares) * shares);
    units = s.n * s.p * pieces;
    // Pixels whose gradients, and whose input where that is not packed, stay in the second-level cache.
    const int64_t pixels = std::clamp<int64_t>(kBlockFloats / (s.o + (in_place ? s.c : 0)), 128, 2048);
    block_units = std::max<int64_t>(1, pixels / ceil_div(s.q, pieces));
    block_units = std::min(block_units, ceil_div(units, shares));
    blocks = ceil_div(units, block_units);
    group_blocks = std::min(kGroup, std::max<int64_t>(1, blocks / shares));
    while (ceil_div(blocks, group_blocks) * weights() > kMostFloats && group_blocks < blocks)
      group_blocks *= 2;
    sums = ceil_div(blocks, group_blocks);
  }
  int64_t weights() const { return s.kh * s.kw * (s.c / s.groups) * s.o; }
  int64_t panel_width(int64_t p) const {  // packed
    const int64_t vl = kernels().vl;
    return ceil_div(panel_starts[p + 1] - panel_starts[p], vl) * vl;
  }
  // Whole vectors are read where they lie if there is one panel, or if few tiles would repay a copy.
  bool few_tiles() const { return tiles * taps_y * taps_x <= kFewTiles; }
  bool packed_already() const {
    return s.groups == 1 && s.o % kernels().vl == 0 && (panels == 1 || few_tiles());
  }

  const Conv2dSpec& s;
  bool by_rows, by_windows, in_place;  // in_place: the input is not packed
  int64_t columns;  // of the input side: channels of a group, or values of a kernel row or of a window
  int64_t taps_y, taps_x, outputs;
  int64_t pieces, units, block_units, blocks, group_blocks, sums;
  int64_t panels, rows, tiles;
  std::vector<int64_t> panel_starts;
};

// Pixels of one block under every tap, as runs in the packed arrays.
class Block {
 public:
  Block(const Shape& shape, int64_t index) : shape_(shape), s_(shape.s) {
    first_ = index * shape.block_units;
    last_ = std::min(shape.units, first_ + shape.block_units);
    if (shape.by_windows) {
      add_windows();
      return;
    }
    number_lines();
    for (int64_t i = 0; i < s_.kh; ++i)
      for (int64_t j = 0; j < shape.taps_x; ++j) add_tap(i, j);
  }
  int64_t first_pixel() const {
    return first_ / shape_.pieces * s_.q + first_ % shape_.pieces * s_.q / shape_.pieces;
  }
  int64_t pixels() const { return pixels_; }
  // Few tiles read part of a vector together with the pixels that follow, which no sum takes; the last pixels
  // of the array have none.
  bool gradient_packed_already() const {
    if (shape_.packed_already()) return true;
    if (s_.groups > 1 || shape_.panels > 1 || !shape_.few_tiles()) return false;
    const int64_t behind = s_.n * s_.p * s_.q - first_pixel() - pixels_;
    return (behind + 1) * s_.o >= shape_.panel_width(0);
  }
  // The first pixel of the input.
  const float* input(const float* x) const { return x + (lines_[0] * s_.w + left_) * s_.c; }
  int64_t line_count() const { return static_cast<int64_t>(lines_.size()); }
  // Values of the packed input, of `rows` channels where these are packed.
  int64_t packed_floats(int64_t rows) const {
    return shape_.by_windows ? pixels_ * shape_.columns : line_count() * line_floats(rows);
  }
  // Values of one line of it.
  int64_t line_floats(int64_t rows) const {
    return shape_.by_rows ? ((to_ - from_ - 1) * s_.sw + s_.kw) * s_.c : width_ * rows;
  }
  // Channels c0 .. c0 + rows of the input lines, pixel by pixel.
  void pack_channels(const float* x, int64_t c0, int64_t rows, float* to) const;
  // Windows with their padding, pixel by pixel.
  void pack_windows(const float* x, float* to) const;
  // Whole lines with their padding.
  void pack_lines(const float* x, float* to) const;
  void pack_gradient(const float* g, int64_t column, int64_t count, int64_t width, float* to) const;

  struct Chunk {
    int64_t first, count;  // runs
  };
  const std::vector<Chunk>& chunks(int64_t tap) const { return taps_[static_cast<size_t>(tap)]; }
  const OuterRun* run(int64_t i) const { return runs_.data() + i; }

 private:
  struct Unit {
    int64_t line, image, p, q0, q1;
  };
  Unit unit(int64_t u) const {
    const int64_t line = u / shape_.pieces, piece = u % shape_.pieces;
    return {line, line / s_.p, line % s_.p, piece * s_.q / shape_.pieces, (piece + 1) * s_.q / shape_.pieces};
  }
  int64_t input_row(const Unit& u, int64_t i) const { return u.p * s_.sh - s_.pt + i * s_.dh; }

  // Which lines of the input are needed, in which order they are packed, and which columns of them.
  void number_lines() {
    from_ = s_.q, to_ = 0;
    // Later units begin no higher.
    const Unit top = unit(first_);
    low_ = top.image * s_.h + std::clamp<int64_t>(input_row(top, 0), 0, s_.h);
    for (int64_t u = first_; u < last_; ++u) {
      const Unit at = unit(u);
      from_ = std::min(from_, at.q0), to_ = std::max(to_, at.q1);
      for (int64_t i = 0; i < s_.kh; ++i) {
        const int64_t row = input_row(at, i);
        if (row < 0 || row >= s_.h) continue;
        const int64_t line = at.image * s_.h + row;
        if (line - low_ >= static_cast<int64_t>(slots_.size())) slots_.resize(line - low_ + 1, -1);
        slots_[line - low_] = 0;
      }
    }
    for (size_t i = 0; i < slots_.size(); ++i)
      if (slots_[i] == 0) {
        slots_[i] = static_cast<int64_t>(lines_.size());
        lines_.push_back(low_ + static_cast<int64_t>(i));
      }
    left_ = std::clamp<int64_t>(from_ * s_.sw - s_.pl, 0, s_.w);
    const int64_t right =
        std::clamp<int64_t>((to_ - 1) * s_.sw - s_.pl + (s_.kw - 1) * s_.dw + 1, left_, s_.w);
    width_ = right - left_;
  }

  void add_tap(int64_t i, int64_t j) {
    const int64_t line = shape_.by_rows ? line_floats(0) : width_,
                  step = shape_.by_rows ? s_.sw * s_.c : s_.sw;
    std::vector<OuterRun> found;
    int64_t pixel = 0, total = 0;
    for (int64_t u = first_; u < last_; ++u) {
      const Unit at = unit(u);
      const int64_t row = input_row(at, i), count = at.q1 - at.q0;
      int64_t q0 = at.q0, q1 = at.q1;
      if (!shape_.by_rows) {  // columns inside the picture
        const int64_t shift = s_.pl - j * s_.dw;
        if (shift > 0) q0 = std::max(q0, ceil_div(shift, s_.sw));
        q1 = s_.w - 1 + shift < 0 ? q0 : std::min(q1, (s_.w - 1 + shift) / s_.sw + 1);
      }
      if (row >= 0 && row < s_.h && q0 < q1) {
        const int64_t a = shape_.by_rows ? (q0 - from_) * step : q0 * s_.sw - s_.pl + j * s_.dw - left_;
        const OuterRun run{slots_[at.image * s_.h + row - low_] * line + a, pixel + q0 - at.q0, q1 - q0};
        OuterRun* before = found.empty() ? nullptr : &found.back();
        if (before && before->a + before->count * step == run.a && before->b + before->count == run.b)
          before->count += run.count;
        else
          found.push_back(run);
        total += run.count;
      }
      pixel += count;
    }
    pixels_ = pixel;
    add_chunks(found, total, step);
  }

  void add_windows() {
    for (int64_t u = first_; u < last_; ++u) pixels_ += unit(u).q1 - unit(u).q0;
    std::vector<OuterRun> all{{0, 0, pixels_}};
    add_chunks(all, pixels_, shape_.columns);
  }

  // Chunks of nearly equal length; a tap that sees nothing has one that is empty.
  void add_chunks(std::vector<OuterRun>& found, int64_t total, int64_t step) {
    taps_.emplace_back();
    const int64_t count = std::max<int64_t>(1, ceil_div(total, kSums));
    size_t at = 0;
    for (int64_t c = 0; c < count; ++c) {
      int64_t left = (c + 1) * total / count - c * total / count;
      Chunk chunk{static_cast<int64_t>(runs_.size()), 0};
      while (left > 0) {
        OuterRun& run = found[at];
        const int64_t taken = std::min(left, run.count);
        runs_.push_back({run.a, run.b, taken});
        run.a += taken * step, run.b += taken, run.count -= taken;
        if (run.count == 0) ++at;
        left -= taken;
        ++chunk.count;
      }
      taps_.back().push_back(chunk);
    }
  }

  const Shape& shape_;
  const Conv2dSpec& s_;
  int64_t first_, last_, from_, to_, low_ = 0, left_ = 0, width_ = 0, pixels_ = 0;
  std::vector<int64_t> slots_, lines_;
  std::vector<OuterRun> runs_;
  std::vector<std::vector<Chunk>> taps_;
};

template <int M>
void copy_values(const float* from, int64_t step, int64_t pixels, float* to, int64_t to_step) {
  for (int64_t i = 0; i < pixels; ++i) std::memcpy(to + i * to_step, from + i * step, M * sizeof(float));
}
// Heights of tiles and lengths of kernel rows, which are copied with the number known.
constexpr void (*kCopies[])(const float*, int64_t, int64_t, float*, int64_t) = {
    nullptr,         copy_values<1>,  copy_values<2>,  copy_values<3>,  copy_values<4>,
    copy_values<5>,  copy_values<6>,  copy_values<7>,  copy_values<8>,  copy_values<9>,
    copy_values<10>, copy_values<11>, copy_values<12>, copy_values<13>, copy_values<14>};

void Block::pack_channels(const float* x, int64_t c0, int64_t rows, float* to) const {
  for (const int64_t line : lines_) {
    kCopies[rows](x + (line * s_.w + left_) * s_.c + c0, s_.c, width_, to, rows);
    to += width_ * rows;
  }
}

void Block::pack_windows(const float* x, float* to) const {
  const int64_t row = s_.kw * s_.c, line = s_.w * s_.c;
  for (int64_t u = first_; u < last_; ++u) {
    const Unit at = unit(u);
    // Windows inside the picture: their values of a line follow each other.
    const int64_t in0 = std::clamp(ceil_div(s_.pl, s_.sw), at.q0, at.q1);
    const int64_t in1 =
        s_.w + s_.pl < s_.kw ? in0 : std::clamp((s_.w + s_.pl - s_.kw) / s_.sw + 1, in0, at.q1);
    for (int64_t i = 0; i < s_.kh; ++i) {
      const int64_t y = input_row(at, i);
      const bool inside = y >= 0 && y < s_.h;
      const float* from = x + (at.image * s_.h + (inside ? y : 0)) * line;
      const auto window = [&](int64_t q) { return to + (q - at.q0) * shape_.columns + i * row; };
      const auto copy_padded = [&](int64_t q, int64_t end) {
        for (; q < end; ++q)
          for (int64_t k = 0; k < row; ++k) {
            const int64_t value = (q * s_.sw - s_.pl) * s_.c + k;
            window(q)[k] = inside && value >= 0 && value < line ? from[value] : 0.0f;
          }
      };
      copy_padded(at.q0, inside ? in0 : at.q1);
      if (!inside) continue;
      kCopies[row](from + (in0 * s_.sw - s_.pl) * s_.c, s_.sw * s_.c, in1 - in0, window(in0), shape_.columns);
      copy_padded(in1, at.q1);
    }
    to += (at.q1 - at.q0) * shape_.columns;
  }
}

void Block::pack_lines(const float* x, float* to) const {
  const int64_t count = line_floats(0), start = (from_ * s_.sw - s_.pl) * s_.c, end = s_.w * s_.c;
  for (const int64_t line : lines_) {
    const int64_t before = std::clamp<int64_t>(-start, 0, count);
    const int64_t inside = std::clamp<int64_t>(end - start, before, count);
    std::fill(to, to + before, 0.0f);
    std::copy(x + line * end + start + before, x + line * end + start + inside, to + before);
    std::fill(to + inside, to + count, 0.0f);
    to += count;
  }
}

void Block::pack_gradient(const float* g, int64_t column, int64_t count, int64_t width, float* to) const {
  const float* from = g + first_pixel() * s_.o + column;
  for (int64_t i = 0; i < pixels_; ++i, from += s_.o, to += width) {
    std::memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
    std::fill(to + count, to + width, 0.0f);
  }
}

// Tiles first .. last of the sums of one block, added to y.
void run_block(const Shape& shape, const Block& block, const float* x, const float* g, int64_t first,
               int64_t last, bool overwrite, float* y) {
  const Conv2dSpec& s = shape.s;
  const OuterKernels& kernel = kernels().outer;
  const float* panels = nullptr;
  const bool direct = block.gradient_packed_already();
  if (direct) {
    panels = g + block.first_pixel() * s.o;
  } else {
    int64_t floats = 0;
    for (int64_t p = 0; p < shape.panels; ++p) floats += shape.panel_width(p) * block.pixels();
    panels = static_cast<float*>(thread_scratch(Slot::kPanel, static_cast<size_t>(floats) * sizeof(float)));
  }
  const int64_t line_rows = shape.by_rows ? 1 : shape.rows;
  const int64_t packed_floats = shape.in_place ? 0 : block.packed_floats(line_rows);
  auto* packed = static_cast<float*>(
      thread_scratch(Slot::kTile, static_cast<size_t>(packed_floats + 1) * sizeof(float)));
  if (shape.by_windows)
    block.pack_windows(x, packed);
  else if (shape.by_rows)
    block.pack_lines(x, packed);
  OuterBlock t{};
  t.ldy = s.o;
  int64_t group_packed = -1;
  for (int64_t tile = first; tile < last; ++tile) {
    const int64_t group = tile / shape.tiles, index = tile % shape.tiles;
    const int64_t m0 = index * shape.columns / shape.tiles, m1 = (index + 1) * shape.columns / shape.tiles;
    if (!direct && group != group_packed) {
      float* to = const_cast<float*>(panels);
      for (int64_t p = 0; p < shape.panels; ++p) {
        const int64_t start = shape.panel_starts[p], count = shape.panel_starts[p + 1] - start;
        block.pack_gradient(g, group * shape.outputs + start, count, shape.panel_width(p), to);
        to += shape.panel_width(p) * block.pixels();
      }
      group_packed = group;
    }
    t.m = m1 - m0;
    if (shape.by_rows) {
      t.a = packed + m0;
      t.a_unit = 1;
      t.a_step = shape.by_windows ? shape.columns : s.sw * s.c;
    } else if (shape.in_place) {
      t.a = block.input(x) + group * shape.columns + m0;
      t.a_unit = t.a_step = s.c;
      t.ahead = kAhead * s.c;
    } else {
      block.pack_channels(x, group * shape.columns + m0, t.m, packed);
      t.a = packed;
      t.a_unit = t.m;
      t.a_step = s.sw * t.m;
    }
    t.b = panels;
    for (int64_t p = 0; p < shape.panels; ++p) {
      const int64_t start = shape.panel_starts[p];
      t.n = shape.panel_starts[p + 1] - start;
      t.b_step = direct ? s.o : shape.panel_width(p);
      if (direct) t.b = panels + start;
      for (int64_t tap = 0; tap < shape.taps_y * shape.taps_x; ++tap) {
        t.y = y + (tap * shape.columns + m0) * s.o + group * shape.outputs + start;
        t.first = overwrite;
        for (const Block::Chunk& chunk : block.chunks(tap)) {
          if (chunk.count == 0 && !t.first) continue;
          t.runs = block.run(chunk.first);
          t.run_count = chunk.count;
          kernel.block(&t);
          t.first = false;
        }
      }
      if (!direct) t.b += t.b_step * block.pixels();
    }
  }
}

}  // namespace

void add_pairwise(float* parts, int64_t count, int64_t size, float* y, int threads) {
  constexpr int64_t kStretch = 4096;
  parallel_for(ceil_div(size, kStretch), threads, [&](int64_t task) {
    const int64_t begin = task * kStretch, end = std::min(size, begin + kStretch);
    for (int64_t apart = 1; apart < count; apart *= 2)
      for (int64_t i = 0; i + apart < count; i += 2 * apart) {
        float *to = parts + i * size, *from = parts + (i + apart) * size;
        for (int64_t k = begin; k < end; ++k) to[k] += from[k];
      }
    std::copy(parts + begin, parts + end, y + begin);
  });
}

void conv2d_grad_weight(const Conv2dSpec& spec, const float* x, const float* g, bool winograd, float* dw) {
  if (spec.n * spec.p * spec.q == 0) {
    std::fill_n(dw, spec.depth() * spec.o, 0.0f);
    return;
  }
  if (covers_picture(spec) && spec.h * spec.w > 1)
    return linear_grad_weight(spec.n, spec.depth(), spec.o, x, g, dw);
  if (spec.groups == spec.c && spec.o == spec.c && spec.c > 1) return depthwise_grad_weight(spec, x, g, dw);
  if (const auto form = winograd_grad_form(spec); winograd && form)
    return conv2d_grad_weight_winograd(spec, x, g, *form, dw);
  const Conv2dSpec line = as_line(spec);
  const Shape shape(line);
  const int threads = threads_for(gemm_nanoseconds(spec.flops()));
  Buffer partial;
  if (shape.sums > 1) partial = Buffer(static_cast<size_t>(shape.sums * shape.weights()) * sizeof(float));
  float* sums = shape.sums > 1 ? partial.floats() : dw;
  const int64_t tiles = shape.tiles * spec.groups;
  int64_t ranges = 1;
  if (threads > 1 && shape.sums < 4 * threads) ranges = std::min(tiles, ceil_div(4 * threads, shape.sums));
  parallel_for(shape.sums * ranges, threads, [&](int64_t task) {
    const int64_t sum = task / ranges, range = task % ranges;
    const int64_t first = sum * shape.group_blocks, last = std::min(shape.blocks, first + shape.group_blocks);
    for (int64_t b = first; b < last; ++b)
      run_block(shape, Block(shape, b), x, g, range * tiles / ranges, (range + 1) * tiles / ranges,
                b == first, sums + sum * shape.weights());
  });
  if (shape.sums > 1) add_pairwise(sums, shape.sums, shape.weights(), dw, threads);
}

}  // namespace cnnfast
