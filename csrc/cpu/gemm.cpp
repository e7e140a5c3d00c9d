#include "cpu/gemm.h"

#include <algorithm>
#include <atomic>

#include "core/threads.h"
#include "kernels/table.h"

namespace cnnfast {
namespace {

// Values summed in one go; bounds both the rounding error of a long sum and the panel in cache. A kernel of
// 3x3 is one sum for 64 channels, three for 256.
constexpr int64_t kChunk = kLineLength;
// Rows of one block: their slice of A stays in the second-level cache while all panels pass. Short sums take
// more, until their slice has so many values: each block costs as much as some tiles of theirs.
constexpr int64_t kBlockRows = 96, kMostBlockRows = 384, kBlockFloats = 12288;

// Pointers of one block: kernels of very many taps take fewer rows at once.
constexpr int64_t kBlockPointers = 1 << 20;

// Up to this many output rows plain weights are not worth packing for one call.
constexpr int64_t kPlainRows = 96;

// Results of so many values are written past the caches; of twice as many where each thread sums fewer than
// kPastDepth products for a value, as memory does not take them that fast.
constexpr int64_t kPastCache = int64_t{3} << 20, kPastDepth = 8;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Taps of `len` values that are summed in one go, about as many each time: a chunk costs the same around its
// sums whether it is short or long.
int64_t even_chunk(int64_t taps, int64_t len) {
  const int64_t most = std::max<int64_t>(1, kChunk / len);
  return ceil_div(taps, ceil_div(taps, most));
}

// What is the same for all blocks of a product with rows `out_step` floats apart. `total`: values of all
// products that are written together, by `threads`.
GemmBlock block_of(const MatrixView& b, const Epilogue& epilogue, const float* out_base, int64_t out_step,
                   int64_t total, int threads) {
  const int64_t vl = kernels().vl;
  GemmBlock block{};
  block.b = b.data;
  block.b_tail = b.tail;
  block.ldb = b.row_stride;
  block.depth = b.depth;
  block.n = b.columns;
  block.bias = epilogue.bias;
  block.has_residual = epilogue.residual != nullptr;
  if (block.has_residual)
    block.residual_delta =
        (reinterpret_cast<intptr_t>(epilogue.residual) - reinterpret_cast<intptr_t>(out_base)) /
        static_cast<intptr_t>(sizeof(float));
  block.activation = epilogue.activation;
  block.slope = epilogue.slope;
  const bool whole_vectors = b.columns % vl == 0 && out_step % vl == 0 &&
                             reinterpret_cast<uintptr_t>(out_base) % (vl * sizeof(float)) == 0;
  const int64_t past = b.depth < kPastDepth * threads ? 2 * kPastCache : kPastCache;
  block.past_cache = total >= past && b.depth <= kChunk && whole_vectors && block.activation <= kRelu6;
  return block;
}

struct PlainRows {
  const float* a;
  int64_t a_stride;
  float* out;
  int64_t out_stride;
};

int64_t fill_plain(const void* context, int64_t first, int64_t count, const float** rows, float** out,
                   int64_t* ends) {
  const auto& plain = *static_cast<const PlainRows*>(context);
  for (int64_t i = 0; i < count; ++i) {
    rows[i] = plain.a + (first + i) * plain.a_stride;
    out[i] = plain.out + (first + i) * plain.out_stride;
  }
  ends[0] = count;
  return 1;
}

void run_block(const IndirectGemm& gemm, int64_t first, int64_t count, int64_t unit_first, int64_t unit_last,
               int64_t panels, int64_t total, int threads) {
  const KernelTable& k = kernels();
  const size_t pointers = static_cast<size_t>(count * (gemm.taps + 2));  // rows, out, ends
  auto** rows = static_cast<const float**>(thread_scratch(Slot::kRows, pointers * sizeof(float*)));
  auto** out = const_cast<float**>(rows + count * gemm.taps);
  auto* ends = reinterpret_cast<int64_t*>(out + count);

  GemmBlock block = block_of(gemm.b, gemm.epilogue, gemm.out_base, gemm.out_step, total, threads);
  block.segments = gemm.fill(gemm.context, first, count, rows, out, ends);
  block.zero = gemm.b.finite ? gemm.zero : nullptr;
  block.rows = rows;
  block.ends = ends;
  block.row_stride = count;
  block.m = count;
  block.out = out;
  block.fetch_step = gemm.fetch_step;

  const int64_t parts = ceil_div(gemm.len, kChunk);  // of one tap
  const int64_t taps_at_once = even_chunk(gemm.taps, gemm.len);
  int64_t shifted = 0;
  for (int64_t unit = unit_first; unit < unit_last;) {
    const int64_t group = unit / panels;
    block.panel_first = unit % panels;
    block.panel_last = std::min(panels, block.panel_first + unit_last - unit);
    unit += block.panel_last - block.panel_first;
    const int64_t shift = group * gemm.b.columns;
    for (int64_t i = 0; i < count; ++i) out[i] += shift - shifted;
    shifted = shift;
    block.b = gemm.b.data + group * gemm.b.group_stride;
    block.b_tail = gemm.b.tail + group * gemm.b.tail_stride;
    block.bias = gemm.epilogue.bias ? gemm.epilogue.bias + shift : nullptr;
    for (int64_t tap = 0; tap < gemm.taps; tap += taps_at_once) {
      block.rows = rows + tap * count;
      block.taps = std::min(taps_at_once, gemm.taps - tap);
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t c0 = part * gemm.len / parts, c1 = (part + 1) * gemm.len / parts;
        block.len = c1 - c0;
        block.offset = group * gemm.len + c0;
        block.k0 = tap * gemm.len + c0;
        block.first = tap == 0 && part == 0;
        block.last = tap + taps_at_once >= gemm.taps && part + 1 == parts;
        k.gemm.block(&block);
      }
    }
  }
}

// The blocks of a product: so many of its rows times so many of its units (panels of all groups).
struct Split {
  int64_t rows, units;
  bool units_first;  // a thread's tasks, which are neighbours, share units rather than rows
};

// Enough blocks that the threads end together, and as many for each, but none so small that B is read for
// few rows.
Split split_of(int64_t rows, int64_t taps, int64_t depth, int64_t units, bool plain, int threads) {
  const KernelTable& k = kernels();
  const int64_t together =
      std::min(kMostBlockRows, std::max(kBlockRows, kBlockFloats / std::max<int64_t>(1, depth)));
  const int64_t least = ceil_div(rows, std::min(together, std::max<int64_t>(1, kBlockPointers / (taps + 2))));
  if (threads == 1) return {least, 1, false};
  if (plain && rows <= k.gemm.sweep_rows) return {1, std::min<int64_t>(units, threads), false};  // long runs
  const int64_t enough = 4 * threads;
  // Pixels at the edges have fewer taps, so that rows are not all alike: threads get units of their own.
  const bool by_units = least < (taps > 1 ? enough : threads);
  if (by_units && units % threads == 0) {
    int64_t share = 1;
    while (share < units / threads && (units / threads % share || least * threads * share < enough)) ++share;
    return {least, threads * share, true};
  }
  // Where that leaves some over, each of them is shared.
  const bool over = by_units && taps > 1 && units > threads;
  const int64_t most = ceil_div(rows, 2 * k.gemm.tile_rows);
  int64_t blocks = std::max(least, std::min(over ? ceil_div(enough, units) : enough, most));
  if (blocks > threads) blocks = ceil_div(blocks, threads) * threads;
  if (over) return {blocks, units, true};
  return {blocks, blocks < enough ? std::min(units, ceil_div(enough, blocks)) : 1, false};
}

}  // namespace

PackedMatrix::PackedMatrix(const float* const* sources, int64_t slices, int64_t slice_rows, int64_t groups,
                           int64_t columns, int64_t group_stride, int64_t row_stride, int64_t column_stride,
                           int threads, Life life)
    : groups_(groups), depth_(slices * slice_rows), columns_(columns) {
  const KernelTable& k = kernels();
  group_floats_ = packed_floats(depth_, columns, k.vl);
  data_ = Buffer(static_cast<size_t>(groups * group_floats_) * sizeof(float), life);
  packed_ = data_.floats();
  const int64_t panels = panel_count(columns, k.vl, k.gemm.max_vectors, false);
  // Pieces of a few hundred rows: neighbouring panels then read the same pages of the source.
  const int64_t alike = threads == 1 ? 1 : ceil_div(2 * threads, groups * slices);
  const int64_t pieces = std::max(ceil_div(slice_rows, 256), std::min(alike, ceil_div(slice_rows, 64)));
  std::atomic<bool> finite{true};
  parallel_for(groups * slices * pieces, threads, [&](int64_t task) {
    const int64_t group = task / (slices * pieces), slice = task / pieces % slices, piece = task % pieces;
    const int64_t k0 = piece * slice_rows / pieces, k1 = (piece + 1) * slice_rows / pieces;
    const float* from = sources[slice] + group * group_stride + k0 * row_stride;
    for (int64_t panel = 0; panel < panels; ++panel)
      if (!k.gemm.pack(from, row_stride, column_stride, k1 - k0, slice * slice_rows + k0, depth_, columns,
                       panel, data_.floats() + group * group_floats_))
        finite.store(false, std::memory_order_relaxed);
  });
  finite_ = finite.load();
}

PackedMatrix::PackedMatrix(int64_t groups, int64_t depth, int64_t columns, bool finite, const float* packed,
                           std::shared_ptr<const void> owner)
    : groups_(groups),
      depth_(depth),
      columns_(columns),
      group_floats_(packed_floats(depth, columns, kernels().vl)),
      finite_(finite),
      packed_(packed),
      owner_(std::move(owner)) {}

int64_t PackedMatrix::floats(int64_t groups, int64_t depth, int64_t columns) {
  return groups * packed_floats(depth, columns, kernels().vl);
}

CallWeights::CallWeights(const float* w, int64_t rows, int64_t groups, int64_t depth, int64_t columns,
                         int threads) {
  const KernelTable& k = kernels();
  const int64_t tail = columns % k.vl;
  // A single whole panel lies in memory as if packed; of several, few rows do not repay packing.
  const bool single = columns * groups <= k.vl * k.gemm.max_vectors && tail == 0;
  if (!single && rows > kPlainRows) {
    packed_.emplace(&w, 1, depth, groups, columns, columns, columns * groups, 1, threads);
    view_ = packed_->view();
    return;
  }
  view_ = {w, nullptr, columns, columns * groups, 0, groups, depth, columns, false};
  if (tail && rows > k.gemm.sweep_rows) {
    view_.tail_stride = depth * k.vl;
    tail_ = Buffer(static_cast<size_t>(groups * view_.tail_stride) * sizeof(float));
    for (int64_t g = 0; g < groups; ++g)
      k.gemm.pack(w + g * columns + columns - tail, columns * groups, 1, depth, 0, depth, tail, 0,
                  tail_.floats() + g * view_.tail_stride);
    view_.tail = tail_.floats();
  }
}

void run_gemms(const IndirectGemm* gemms, int64_t count, int threads) {
  const KernelTable& k = kernels();
  const MatrixView& b = gemms[0].b;  // all have the same groups and columns
  const int64_t panels = panel_count(b.columns, k.vl, k.gemm.max_vectors, b.row_stride != 0);
  const int64_t units = panels * b.groups;
  int64_t rows = 0, taps = 0, total = 0;
  for (int64_t i = 0; i < count; ++i) {
    rows = std::max(rows, gemms[i].rows);
    taps = std::max(taps, gemms[i].taps);
    total += gemms[i].rows * b.groups * b.columns;
  }
  if (rows == 0 || units == 0) return;
  const Split split = split_of(rows, taps, b.depth, units, b.row_stride != 0, threads);
  parallel_for(split.rows * split.units, threads, [&](int64_t task) {
    const int64_t row_block = split.units_first ? task % split.rows : task / split.units;
    const int64_t unit_block = split.units_first ? task / split.rows : task % split.units;
    for (int64_t i = 0; i < count; ++i) {
      // Blocks of nearly equal size.
      const int64_t first = row_block * gemms[i].rows / split.rows;
      const int64_t last = (row_block + 1) * gemms[i].rows / split.rows;
      if (last > first)
        run_block(gemms[i], first, last - first, unit_block * units / split.units,
                  (unit_block + 1) * units / split.units, panels, total, threads);
    }
  });
}

void run_lines(const LineGemm& gemm, int64_t lines, const float* const* taps, float* out, int64_t line_step) {
  const KernelTable& k = kernels();
  GemmBlock block =
      block_of(gemm.b, gemm.epilogue, gemm.out_base, gemm.out_step, gemm.rows * gemm.b.columns, gemm.threads);
  block.ends = &gemm.m;
  block.segments = 1;
  block.row_stride = 1;
  block.row_step = gemm.row_step;
  block.out_step = gemm.out_step;
  block.m = gemm.m;
  block.out = &out;
  block.len = gemm.len;
  block.panel_last = panel_count(gemm.b.columns, k.vl, k.gemm.max_vectors, gemm.b.row_stride != 0);
  const int64_t at_once = even_chunk(gemm.taps, gemm.len);
  for (int64_t line = 0; line < lines; ++line, taps += gemm.taps, out += line_step)
    for (int64_t tap = 0; tap < gemm.taps; tap += at_once) {
      block.rows = taps + tap;
      block.taps = std::min(at_once, gemm.taps - tap);
      block.k0 = tap * gemm.len;
      block.first = tap == 0;
      block.last = tap + at_once >= gemm.taps;
      k.gemm.block(&block);
    }
}

namespace {

// Fewer columns than this leave most lanes of a tile idle.
constexpr int64_t kThinColumns = 4;
// Matrices of up to so many values are taken to be in the second-level cache; rows of fewer values follow
// each other closely enough for the processor's prefetchers.
constexpr int64_t kNearFloats = int64_t{1} << 17, kFetchedRow = 64;

void thin_gemm(const float* a, int64_t lda, int64_t rows, const MatrixView& b, const Epilogue& e, float* out,
               int64_t ldc, int threads) {
  const KernelTable& k = kernels();
  // Column by column: packed columns lie a panel apart.
  const int64_t step = b.row_stride ? b.row_stride : k.vl;
  Buffer columns(static_cast<size_t>(b.columns * b.depth) * sizeof(float));
  for (int64_t j = 0; j < b.columns; ++j) {
    for (int64_t i = 0; i < b.depth; ++i) columns.floats()[j * b.depth + i] = b.data[i * step + j];
  }
  const int64_t block = std::max<int64_t>(16, 4096 / b.depth / 16 * 16);
  parallel_for(ceil_div(rows, block), threads, [&](int64_t task) {
    const int64_t first = task * block, count = std::min(block, rows - first);
    float* y = out + first * ldc;
    for (int64_t j = 0; j < b.columns; ++j)
      k.gemm.dots(a + first * lda, lda, count, columns.floats() + j * b.depth, b.depth,
                  e.bias ? e.bias[j] : 0.0f, y + j, ldc);
    // Rows in one piece where nothing lies between them.
    const bool dense = ldc == b.columns;
    const int64_t pieces = dense ? 1 : count, length = dense ? count * b.columns : b.columns;
    for (int64_t piece = 0; piece < pieces; ++piece, y += ldc) {
      const int64_t at = (first + piece) * ldc;
      for (int64_t i = 0; i < length && e.residual; ++i) y[i] += e.residual[at + i];
      if (e.activation) k.pointwise.activate(e.activation, e.slope, y, y, length);
    }
  });
}

}  // namespace

void dense_gemm(const float* a, int64_t lda, int64_t rows, const MatrixView& b, const Epilogue& epilogue,
                float* out, int64_t ldc, int threads) {
  if (b.groups == 1 && b.columns < kThinColumns && b.depth >= 2 * kernels().vl)
    return thin_gemm(a, lda, rows, b, epilogue, out, ldc, threads);
  const PlainRows plain{a, lda, out, ldc};
  const int64_t fetch_step = rows * lda > kNearFloats && lda >= kFetchedRow ? lda : 0;
  const IndirectGemm gemm{fill_plain, &plain, nullptr, rows, 1, b.depth, b, out, ldc, epilogue, fetch_step};
  run_gemms(&gemm, 1, threads);
}

}  // namespace cnnfast
