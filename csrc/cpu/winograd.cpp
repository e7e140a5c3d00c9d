#include "cpu/winograd.h"

#include <algorithm>
#include <cmath>

#include "core/threads.h"
#include "cpu/gemm.h"
#include "kernels/table.h"

namespace cnnfast {
namespace {

// V and M of a block of tiles, for one thread: about what the second-level cache holds.
constexpr int64_t kBlockBytes = 768 << 10;
// V that all threads share, in the last-level cache.
constexpr int64_t kSharedBytes = 8 << 20;
// Weights beyond this do not stay in the last-level cache: they are read for as many tiles at once as
// kSharedBytes allows.
constexpr int64_t kFarBytes = 20 << 20;
// Weights that few tiles are enough for.
constexpr int64_t kNearBytes = 5 << 20;
// Pictures beyond this are fetched ahead.
constexpr int64_t kFarPicture = 1 << 20;
// A block of fewer tiles reads the weights too often, one of more leaves the cache.
constexpr int64_t kLeastTiles = 24, kMostTiles = 48;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// How the columns fall into blocks.
struct Columns {
  int64_t vl, vectors, blocks;
  explicit Columns(int64_t o)
      : vl(kernels().vl),
        vectors(ceil_div(o, vl)),
        blocks(ceil_div(vectors, kernels().winograd.block_vectors)) {}
  int64_t begin(int64_t block) const { return share(block, blocks, vectors); }
  int64_t end(int64_t block) const { return share(block + 1, blocks, vectors); }
};

// From tile to tile and from plane to plane: no multiple of 4096 bytes, or the lines of a tile would share
// a few sets of the cache.
int64_t spread(int64_t floats) { return floats % 512 == 0 ? floats + 16 : floats; }

class Run {
 public:
  Run(const Conv2dSpec& s, const float* x, const WinogradView& w, const Epilogue& epilogue, float* y)
      : s_(s), x_(x), w_(w), epilogue_(epilogue), y_(y), columns_(s.o) {
    side_ = winograd_side(w.tile);
    planes_ = side_ * side_;
    th_ = ceil_div(s.p, w.tile);
    tw_ = ceil_div(s.q, w.tile);
    tiles_ = s.n * th_ * tw_;
    v_row_ = spread(round_up(s.c, columns_.vl));
    m_row_ = std::min<int64_t>(columns_.vectors, kernels().winograd.block_vectors) * columns_.vl;
    u_bytes_ = static_cast<int64_t>(winograd_bytes(s.c, s.o, w.tile));
    const double flops = 2.0 * static_cast<double>(planes_ * tiles_) * static_cast<double>(s.c * s.o);
    threads_ = threads_for(gemm_nanoseconds(flops));
  }

  void operator()() const {
    // Bytes of V and M per tile.
    const int64_t v_tile = planes_ * v_row_ * 4, m_tile = planes_ * m_row_ * 4;
    const int64_t block = std::clamp(kBlockBytes / (v_tile + m_tile), kLeastTiles, kMostTiles);
    if (u_bytes_ <= kFarBytes &&
        tiles_ >= threads_ * (u_bytes_ <= kNearBytes ? kLeastTiles / 2 : kLeastTiles))
      each_alone(block);
    else
      together(std::max<int64_t>(kMostTiles, kSharedBytes / v_tile), block);
  }

 private:
  // Every thread takes runs of blocks of tiles through all three stages.
  void each_alone(int64_t block) const {
    int64_t blocks = ceil_div(tiles_, block);
    const int64_t runs = round_up(std::min(blocks, int64_t{8} * threads_), threads_);
    blocks = round_up(blocks, runs);
    const int64_t most = ceil_div(tiles_, blocks);
    const int64_t v_plane = spread(most * v_row_), m_plane = spread(most * m_row_);
    parallel_for(runs, threads_, [&](int64_t run) {
      auto* v = static_cast<float*>(
          thread_scratch(Slot::kTile, static_cast<size_t>(planes_ * (v_plane + m_plane)) * sizeof(float)));
      const int64_t last = share(run + 1, runs, blocks);
      for (int64_t i = share(run, runs, blocks); i < last; ++i) {
        const int64_t first = share(i, blocks, tiles_), end = share(i + 1, blocks, tiles_);
        // The products leave the memory idle: they fetch what this block writes and the next one reads.
        Aheads aheads;
        output_ahead(first, end, &aheads);
        if (i + 1 < last) input_ahead(end, share(i + 2, blocks, tiles_), &aheads);
        input(first, end - first, 0, s_.c, v, v_plane);
        for (int64_t b = 0; b < columns_.blocks; ++b) {
          output(first, end - first, b, columns_.begin(b), columns_.end(b), v, v_plane, v + planes_ * v_plane,
                 m_plane, aheads.count == 0, aheads);
          aheads.count = 0;
        }
      }
    });
  }

  // The threads share V of many tiles, and each takes its part of the columns.
  void together(int64_t most, int64_t block) const {
    const int64_t passes = ceil_div(tiles_, most);
    most = ceil_div(tiles_, passes);
    const int64_t v_plane = spread(most * v_row_);
    const Buffer v(static_cast<size_t>(planes_ * v_plane) * sizeof(float));
    for (int64_t pass = 0; pass < passes; ++pass) {
      const int64_t begin = share(pass, passes, tiles_), end = share(pass + 1, passes, tiles_);
      transform(begin, end - begin, v.floats(), v_plane);
      multiply(begin, end - begin, block, v.floats(), v_plane);
    }
  }

  void transform(int64_t begin, int64_t tiles, float* v, int64_t v_plane) const {
    // Few tiles are cut by channels as well.
    const int64_t vectors = ceil_div(s_.c, columns_.vl);
    const int64_t rows = std::min(tiles, int64_t{8} * threads_);
    const int64_t cuts = std::min(vectors, ceil_div(int64_t{8} * threads_, rows));
    parallel_for(rows * cuts, threads_, [&](int64_t task) {
      const int64_t row = task / cuts, cut = task % cuts;
      const int64_t first = share(row, rows, tiles), count = share(row + 1, rows, tiles) - first;
      input(begin + first, count, share(cut, cuts, vectors) * columns_.vl,
            std::min(s_.c, share(cut + 1, cuts, vectors) * columns_.vl), v + first * v_row_, v_plane);
    });
  }

  void multiply(int64_t begin, int64_t tiles, int64_t block, const float* v, int64_t v_plane) const {
    int64_t rows = ceil_div(tiles, block), parts = columns_.blocks;
    if (rows * parts % threads_ && rows * parts < 8 * threads_) {
      // Even shares: by tiles where there are enough, else by columns.
      if (tiles >= 12 * threads_)
        rows = round_up(rows, threads_);
      else
        parts = std::min<int64_t>(columns_.vectors, threads_);
    }
    const int64_t m_plane = spread(ceil_div(tiles, rows) * m_row_);
    parallel_for(rows * parts, threads_, [&](int64_t task) {
      const int64_t part = task / rows, row = task % rows;
      const int64_t first = share(row, rows, tiles), count = share(row + 1, rows, tiles) - first;
      auto* m = static_cast<float*>(
          thread_scratch(Slot::kTile, static_cast<size_t>(planes_ * m_plane) * sizeof(float)));
      const int64_t v0 = share(part, parts, columns_.vectors), v1 = share(part + 1, parts, columns_.vectors);
      for (int64_t b = 0; b < columns_.blocks; ++b) {
        const int64_t from = std::max(v0, columns_.begin(b)), to = std::min(v1, columns_.end(b));
        if (from < to)
          output(begin + first, count, b, from, to, v + first * v_row_, v_plane, m, m_plane, true, Aheads{});
      }
    });
  }

  struct Aheads {
    static constexpr int64_t kMost = 64;
    WinogradAhead runs[kMost];
    int64_t count = 0;
  };

  // Pixels rows y .. y_end, columns x .. x_end of one picture.
  static void add_ahead(const float* image, int64_t w, int64_t pixel, int64_t y, int64_t y_end, int64_t x,
                        int64_t x_end, Aheads* aheads) {
    for (; y < y_end && aheads->count < Aheads::kMost; ++y)
      aheads->runs[aheads->count++] = {image + (y * w + x) * pixel, (x_end - x) * pixel};
  }

  void input_ahead(int64_t first, int64_t end, Aheads* aheads) const {
    const int64_t picture = s_.h * s_.w * s_.ldx;
    if (picture * 4 <= kFarPicture) return;
    for (int64_t next; first < end; first = next) {
      const int64_t line = first / tw_, begin = line * tw_;
      next = std::min(end, begin + tw_);
      const int64_t y = line % th_ * w_.tile - s_.pt, x = -s_.pl;
      // The first rows belong to the tiles above as well.
      const int64_t shared = side_ - w_.tile;
      add_ahead(x_ + line / th_ * picture, s_.w, s_.ldx, std::max<int64_t>(0, y + shared),
                std::min(s_.h, y + side_), std::max<int64_t>(0, x + (first - begin) * w_.tile),
                std::min(s_.w, x + (next - begin) * w_.tile + shared), aheads);
    }
  }

  void output_ahead(int64_t first, int64_t end, Aheads* aheads) const {
    const int64_t picture = s_.p * s_.q * s_.ldy;
    if (picture * 4 <= kFarPicture) return;
    for (int64_t next; first < end; first = next) {
      const int64_t line = first / tw_, begin = line * tw_;
      next = std::min(end, begin + tw_);
      const int64_t y = line % th_ * w_.tile;
      add_ahead(y_ + line / th_ * picture, s_.q, s_.ldy, y, std::min(s_.p, y + w_.tile),
                (first - begin) * w_.tile, std::min(s_.q, (next - begin) * w_.tile), aheads);
    }
  }

  WinogradTiles tiles(int64_t first, int64_t count) const { return {w_.tile, th_, tw_, first, count}; }

  void input(int64_t first, int64_t count, int64_t c_first, int64_t c_last, float* v, int64_t v_plane) const {
    WinogradInput g{};
    g.tiles = tiles(first, count);
    g.x = x_;
    g.h = s_.h, g.w = s_.w;
    g.pixel_stride = s_.ldx;
    g.row_stride = s_.w * g.pixel_stride;
    g.image_stride = s_.h * g.row_stride;
    g.pt = s_.pt, g.pl = s_.pl;
    g.c_first = c_first, g.c_last = c_last;
    g.v = v;
    g.v_row = v_row_, g.v_plane = v_plane;
    kernels().winograd.input(&g);
  }

  // Products and output transform of vectors v0 .. v1 of the columns, which lie in one block.
  void output(int64_t first, int64_t count, int64_t block, int64_t v0, int64_t v1, const float* v,
              int64_t v_plane, float* m, int64_t m_plane, bool far, const Aheads& aheads) const {
    const int64_t begin = columns_.begin(block), vl = columns_.vl, column = v0 * vl;
    WinogradProducts products{};
    products.planes = planes_, products.rows = count, products.depth = s_.c;
    products.v = v;
    products.v_row = v_row_, products.v_plane = v_plane;
    products.u = w_.data + planes_ * s_.c * begin * vl;
    products.block_vectors = columns_.end(block) - begin;
    products.vector_first = v0 - begin, products.vector_last = v1 - begin;
    products.m = m;
    products.m_row = m_row_, products.m_plane = m_plane;
    products.far = far;
    products.aheads = aheads.runs, products.ahead_count = aheads.count;
    kernels().winograd.products(&products);

    WinogradOutput g{};
    g.tiles = tiles(first, count);
    g.m = m;
    g.m_row = m_row_, g.m_plane = m_plane;
    g.y = y_ + column;
    g.p = s_.p, g.q = s_.q;
    g.pixel_stride = s_.ldy;
    g.row_stride = s_.q * g.pixel_stride;
    g.image_stride = s_.p * g.row_stride;
    g.columns = std::min(s_.o, v1 * vl) - column;
    g.bias = epilogue_.bias ? epilogue_.bias + column : nullptr;
    g.residual = epilogue_.residual ? epilogue_.residual + column : nullptr;
    g.activation = epilogue_.activation;
    g.slope = epilogue_.slope;
    kernels().winograd.output(&g);
  }

  const Conv2dSpec& s_;
  const float* x_;
  const WinogradView& w_;
  const Epilogue& epilogue_;
  float* y_;
  Columns columns_;
  int64_t side_, planes_, th_, tw_, tiles_, v_row_, m_row_, u_bytes_;
  int threads_;
};

// The polynomial of a row of weights at every point, divided by the product of the distances to the others.
constexpr int kMostTaps = 5;
struct WeightTransform {
  int size, taps;
  double g[8][kMostTaps] = {};
  explicit WeightTransform(int tile) : size(winograd_side(tile)), taps(winograd_taps(tile)) {
    double points[7] = {0};
    for (int k = 0; k < size / 2 - 1; ++k) {
      const double a = size == 6 ? kWinogradPoints6[k] : kWinogradPoints8[k];
      points[2 * k + 1] = a;
      points[2 * k + 2] = -a;
    }
    for (int i = 0; i + 1 < size; ++i) {
      double distances = 1;
      for (int j = 0; j + 1 < size; ++j)
        if (j != i) distances *= points[i] - points[j];
      for (int j = 0; j < taps; ++j) g[i][j] = std::pow(points[i], j) / distances;
    }
    g[size - 1][taps - 1] = 1;
  }
};

// U of kStrip columns of one channel, in double and rounded once: out[e][column].
constexpr int64_t kStrip = 16;
void transform_weights(const WeightTransform& t, const float* w, int64_t tap, int64_t count, float* out) {
  double half[8][kMostTaps][kStrip] = {};
  for (int i = 0; i < t.size; ++i)
    for (int r = 0; r < t.taps; ++r)
      for (int j = 0; j < t.taps; ++j)
        for (int64_t k = 0; k < count; ++k) half[i][j][k] += t.g[i][r] * w[(r * t.taps + j) * tap + k];
  for (int i = 0; i < t.size; ++i)
    for (int j = 0; j < t.size; ++j)
      for (int64_t k = 0; k < kStrip; ++k) {
        double sum = 0;
        for (int r = 0; r < t.taps; ++r) sum += t.g[j][r] * half[i][r][k];
        out[(i * t.size + j) * kStrip + k] = static_cast<float>(sum);
      }
}

}  // namespace

PackedWinograd::PackedWinograd(const float* w, int64_t c, int64_t o, int tile, int threads)
    : c_(c), o_(o), tile_(tile), bytes_(winograd_bytes(c, o, tile)), data_(bytes_), packed_(data_.floats()) {
  const WeightTransform transform(tile);
  const Columns columns(o);
  const int64_t planes = winograd_side(tile) * winograd_side(tile), vl = columns.vl;
  const int64_t pieces = std::min<int64_t>(c, 64);
  parallel_for(pieces, threads, [&](int64_t piece) {
    float u[64 * kStrip];
    for (int64_t k = share(piece, pieces, c); k < share(piece + 1, pieces, c); ++k)
      for (int64_t block = 0; block < columns.blocks; ++block) {
        const int64_t begin = columns.begin(block), vectors = columns.end(block) - begin;
        const int64_t panels = ceil_div(vectors, kernels().winograd.max_vectors);
        float* of_block = data_.floats() + planes * c * begin * vl;
        int64_t panel = 0;
        for (int64_t v = 0; v < vectors; ++v) {
          const int64_t column = (begin + v) * vl, in_strip = v * vl % kStrip;
          if (in_strip == 0)
            transform_weights(transform, w + k * o + column, c * o, std::min(kStrip, o - column), u);
          while (v >= share(panel + 1, panels, vectors)) ++panel;
          const int64_t first = share(panel, panels, vectors);
          const int64_t width = (share(panel + 1, panels, vectors) - first) * vl;
          float* to = of_block + first * vl * c + k * width + (v - first) * vl;
          for (int64_t e = 0; e < planes; ++e)
            std::copy_n(u + e * kStrip + in_strip, vl, to + e * c * vectors * vl);
        }
      }
  });
}

PackedWinograd::PackedWinograd(int64_t c, int64_t o, int tile, const float* packed,
                               std::shared_ptr<const void> owner)
    : c_(c),
      o_(o),
      tile_(tile),
      bytes_(winograd_bytes(c, o, tile)),
      packed_(packed),
      owner_(std::move(owner)) {}

size_t winograd_bytes(int64_t c, int64_t o, int tile) {
  const Columns columns(o);
  return static_cast<size_t>(winograd_side(tile) * winograd_side(tile) * c * columns.vectors * columns.vl) *
         sizeof(float);
}

int winograd_tile(const Conv2dSpec& s, int threads, int largest, bool once) {
  if (s.kh != s.kw || s.sh != 1 || s.sw != 1 || s.dh != 1 || s.dw != 1 || s.groups != 1) return 0;
  if (s.pt >= s.kh || s.pl >= s.kw) return 0;
  // Pictures: kernel rows of few channels are contiguous runs, and direct arithmetic is as quick.
  if (s.c < 8) return 0;
  // Weights that do not stay in the caches are read once per call at the speed of memory.
  constexpr double kFlops = 105, kMemory = 20;  // a nanosecond, one thread
  constexpr double kPacking = 75;               // nanoseconds for the transform of one kernel
  const double c = static_cast<double>(s.c), o = static_cast<double>(round_up(s.o, kernels().vl));
  const double share = 1.0 / std::max(1, threads);
  double best = s.flops() / kFlops * share;
  int choice = 0;
  for (int tile : {2, 4, 6}) {
    if (tile > largest) break;
    if (winograd_taps(tile) != s.kh) continue;
    const double planes = winograd_side(tile) * winograd_side(tile);
    const double tiles = static_cast<double>(s.n * ceil_div(s.p, tile) * ceil_div(s.q, tile));
    const double products = 2 * planes * tiles * c * o / kFlops;
    // Loading, transforming and storing a value of V or M takes about as long as some FLOPs of a product.
    const double transforms =
        planes * tiles * (static_cast<double>(round_up(s.c, kernels().vl)) + o) * 12 / kFlops;
    const double bytes = static_cast<double>(winograd_bytes(s.c, s.o, tile));
    const double weights = bytes > kFarBytes ? bytes / kMemory : 0;
    const double packing = once ? kPacking * c * o : 0;
    const double time = std::max((products + transforms + packing) * share, weights);
    if (time < best) best = time, choice = tile;
  }
  return choice;
}

void conv2d_winograd(const Conv2dSpec& s, const float* x, const WinogradView& w, const Epilogue& epilogue,
                     float* y) {
  if (s.n * s.p * s.q * s.o == 0) return;
  Run(s, x, w, epilogue, y)();
}

}  // namespace cnnfast
