// The driver of bilinear algorithms, Winograd's convolution and Strassen's product. A tile of the input is
// transformed to V, one row of `depth` values for each plane; every plane is multiplied by transformed
// weights U of its own; and the products M of a tile are transformed to its outputs, a block of columns at a
// time. Where U would be large and a picture has few tiles, weights are kept as they are, and every run
// transforms them a piece at a time, in the second-level cache.
#pragma once
#include <algorithm>
#include <cstdint>

#include "core/arena.h"
#include "core/threads.h"
#include "cpu/gemm.h"
#include "kernels/table.h"

namespace cnnfast {

// How the columns fall into blocks, whose M stays in the second-level cache. Where a panel is two vectors
// wide, pairs of vectors stay together: half a panel is bound by the loads of the other operand.
struct BilinearColumns {
  int64_t vl, vectors, blocks, unit;
  explicit BilinearColumns(int64_t columns)
      : vl(kernels().vl),
        vectors((columns + vl - 1) / vl),
        blocks((vectors + kernels().winograd.block_vectors - 1) / kernels().winograd.block_vectors),
        unit(kernels().winograd.max_vectors == 2 ? 2 : 1) {}
  // The first vector of share i of n.
  int64_t cut(int64_t i, int64_t n) const {
    return std::min(vectors, share(i, n, (vectors + unit - 1) / unit) * unit);
  }
  int64_t begin(int64_t block) const { return cut(block, blocks); }
  int64_t end(int64_t block) const { return cut(block + 1, blocks); }
};

inline int64_t bilinear_floats(int64_t planes, int64_t depth, int64_t columns) {
  const BilinearColumns c(columns);
  return planes * depth * c.vectors * c.vl;
}

// Weights U as the products read them: blocks of columns [plane][panel][k][column]. `strip` gives those of
// `count` columns from `column` on for one k, to u[plane * kBilinearStrip + i], 64 planes at most.
constexpr int64_t kBilinearStrip = 16;
template <class Strip>
void pack_bilinear(int64_t planes, int64_t depth, int64_t columns, float* out, int threads,
                   const Strip& strip) {
  const BilinearColumns c(columns);
  const int64_t vl = c.vl, widest = kernels().winograd.max_vectors;
  const int64_t pieces = std::min<int64_t>(depth, 64);
  parallel_for(pieces, threads, [&](int64_t piece) {
    float u[64 * kBilinearStrip] = {};
    for (int64_t k = share(piece, pieces, depth); k < share(piece + 1, pieces, depth); ++k)
      for (int64_t block = 0; block < c.blocks; ++block) {
        const int64_t begin = c.begin(block), vectors = c.end(block) - begin;
        const int64_t panels = (vectors + widest - 1) / widest;
        float* of_block = out + planes * depth * begin * vl;
        int64_t panel = 0;
        for (int64_t v = 0; v < vectors; ++v) {
          const int64_t column = (begin + v) * vl, in_strip = v * vl % kBilinearStrip;
          if (in_strip == 0) strip(k, column, std::min(kBilinearStrip, columns - column), u);
          while (v >= share(panel + 1, panels, vectors)) ++panel;
          const int64_t first = share(panel, panels, vectors);
          const int64_t width = (share(panel + 1, panels, vectors) - first) * vl;
          float* to = of_block + first * vl * depth + k * width + (v - first) * vl;
          for (int64_t e = 0; e < planes; ++e)
            std::copy_n(u + e * kBilinearStrip + in_strip, vl, to + e * depth * vectors * vl);
        }
      }
  });
}

// Weights that are kept as they are, `parts` of them for each k and column: blocks of columns
// [k][part][column]. row(k, part): those of all columns.
struct PlainColumns {
  int64_t width, blocks;  // of a block, a multiple of the vector; the last one may be narrower
  explicit PlainColumns(int64_t columns) : width(2 * kernels().vl), blocks((columns + width - 1) / width) {}
};

inline int64_t bilinear_plain_floats(int64_t parts, int64_t depth, int64_t columns) {
  return parts * depth * BilinearColumns(columns).vectors * kernels().vl;
}

template <class Row>
void pack_bilinear_plain(int64_t parts, int64_t depth, int64_t columns, float* out, const Row& row) {
  const PlainColumns c(columns);
  for (int64_t block = 0; block < c.blocks; ++block) {
    const int64_t column = block * c.width, count = std::min(c.width, columns - column);
    const int64_t padded = (count + kernels().vl - 1) / kernels().vl * kernels().vl;
    for (int64_t k = 0; k < depth; ++k)
      for (int64_t part = 0; part < parts; ++part) {
        std::copy_n(row(k, part) + column, count, out);
        std::fill(out + count, out + padded, 0.0f);
        out += padded;
      }
  }
}

// Where weights are kept as they are: the tiles that one transformation of them serves.
inline int64_t bilinear_plain_tiles(int64_t planes, int64_t depth) {
  // V, which all threads share, in the last-level cache; M of a block of columns in the second-level one.
  constexpr int64_t kSharedBytes = 8 << 20, kProductBytes = 512 << 10;
  return std::max<int64_t>(
      1, std::min(kSharedBytes / (planes * depth * 4), kProductBytes / (planes * PlainColumns(1).width * 4)));
}

// Memory that is wanted soon.
struct Aheads {
  static constexpr int64_t kMost = 64;
  WinogradAhead runs[kMost];
  int64_t count = 0;

  void add(const WinogradAhead& run) {
    if (count < kMost && run.rows > 0) runs[count++] = run;
  }
};

// Tiles first .. first + count; m holds columns column .. column + columns.
struct BilinearTiles {
  int64_t first, count;
};

/* `Transforms` has:
   - planes, tiles, depth, columns: sizes; weights: U
   - kOn: WinogradProducts::on; group
   - kMayBePlain: whether it also has the next three
   - plain: whether weights are kept as they are; parts: of them for each k and column
   - void transform_weights(int64_t rows, int64_t columns, const float* from,
                            float* u, int64_t u_plane) const
     rows of a block of them to U[plane][k][column]
   - void input(BilinearTiles, int64_t k_first, int64_t k_last,
                float* v, int64_t v_row, int64_t v_plane) const
   - void output(BilinearTiles, int64_t column, int64_t columns,
                 const float* m, int64_t m_row, int64_t m_plane) const
   - void input_ahead(BilinearTiles, Aheads*) const
     what the transform of these tiles reads, where it is far away
   - void output_ahead(BilinearTiles, int64_t column, int64_t columns, Aheads*) const
     what the output transform reads and writes beside M, likewise */
template <class Transforms>
class BilinearRun {
 public:
  explicit BilinearRun(const Transforms& t) : t_(t), columns_(t.columns) {
    v_row_ = spread(round_up(t.depth, columns_.vl));
    m_row_ = std::min<int64_t>(columns_.vectors, kernels().winograd.block_vectors) * columns_.vl;
    u_bytes_ = bilinear_floats(t.planes, t.depth, t.columns) * 4;
    const double flops =
        2.0 * static_cast<double>(t.planes * t.tiles) * static_cast<double>(t.depth * t.columns);
    threads_ = threads_for(gemm_nanoseconds(flops));
  }

  void operator()() const {
    // Bytes of V and M per tile.
    const int64_t v_tile = t_.planes * v_row_ * 4, m_tile = t_.planes * m_row_ * 4;
    const int64_t block = std::clamp(kBlockBytes / (v_tile + m_tile), kLeastTiles, kMostTiles);
    if constexpr (Transforms::kMayBePlain)
      if (t_.plain) return from_plain();
    if (u_bytes_ <= kFarBytes &&
        t_.tiles >= threads_ * (u_bytes_ <= kNearBytes ? kLeastTiles / 2 : kLeastTiles))
      each_alone(block);
    else
      together(std::max<int64_t>(kMostTiles, kSharedBytes / v_tile), block);
  }

  // Weights beyond this do not stay in the last-level cache: they are read for as many tiles at once as
  // kSharedBytes allows.
  static constexpr int64_t kFarBytes = 20 << 20;

 private:
  // V and M of a block of tiles, for one thread: about what the second-level cache holds.
  static constexpr int64_t kBlockBytes = 768 << 10;
  // V that all threads share, in the last-level cache.
  static constexpr int64_t kSharedBytes = 8 << 20;
  // A piece of U, of weights that are kept as they are.
  static constexpr int64_t kPieceBytes = 512 << 10;
  // Weights that few tiles are enough for.
  static constexpr int64_t kNearBytes = 5 << 20;
  // A block of fewer tiles reads the weights too often, one of more leaves the cache.
  static constexpr int64_t kLeastTiles = 24, kMostTiles = 48;

  static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
  static int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
  // From tile to tile: no multiple of 2048 bytes, or their lines would share a few sets of the cache. From
  // plane to plane: an odd number of lines, as the transforms go through all planes at once.
  static int64_t spread(int64_t floats) { return floats % 512 == 0 ? floats + 16 : floats; }
  static int64_t spread_planes(int64_t floats) { return (ceil_div(floats, 16) | 1) * 16; }

  // Every thread takes runs of blocks of tiles through all three stages.
  void each_alone(int64_t block) const {
    int64_t blocks = ceil_div(t_.tiles, block);
    const int64_t runs = round_up(std::min(blocks, int64_t{8} * threads_), threads_);
    blocks = round_up(blocks, runs);
    const int64_t most = ceil_div(t_.tiles, blocks);
    const int64_t v_plane = spread_planes(most * v_row_), m_plane = spread_planes(most * m_row_);
    parallel_for(runs, threads_, [&](int64_t run) {
      auto* v = static_cast<float*>(
          thread_scratch(Slot::kTile, static_cast<size_t>(t_.planes * (v_plane + m_plane)) * sizeof(float)));
      const int64_t last = share(run + 1, runs, blocks);
      for (int64_t i = share(run, runs, blocks); i < last; ++i) {
        const int64_t first = share(i, blocks, t_.tiles), end = share(i + 1, blocks, t_.tiles);
        t_.input({first, end - first}, 0, t_.depth, v, v_row_, v_plane);
        for (int64_t b = 0; b < columns_.blocks; ++b) {
          Aheads aheads;
          if (b + 1 == columns_.blocks && i + 1 < last)
            t_.input_ahead({end, share(i + 2, blocks, t_.tiles) - end}, &aheads);
          output({first, end - first}, b, columns_.begin(b), columns_.end(b), v, v_plane,
                 v + t_.planes * v_plane, m_plane, &aheads);
        }
      }
    });
  }

  // The threads share V of many tiles, and each takes its part of the columns.
  void together(int64_t most, int64_t block) const {
    const int64_t passes = ceil_div(t_.tiles, most);
    most = ceil_div(t_.tiles, passes);
    const int64_t v_plane = spread_planes(most * v_row_);
    const Buffer v(static_cast<size_t>(t_.planes * v_plane) * sizeof(float));
    for (int64_t pass = 0; pass < passes; ++pass) {
      const int64_t begin = share(pass, passes, t_.tiles), end = share(pass + 1, passes, t_.tiles);
      transform(begin, end - begin, v.floats(), v_plane);
      multiply(begin, end - begin, block, v.floats(), v_plane);
    }
  }

  void transform(int64_t begin, int64_t tiles, float* v, int64_t v_plane) const {
    // Few tiles are cut along the depth as well.
    const int64_t vectors = ceil_div(t_.depth, columns_.vl);
    const int64_t rows = std::min(tiles, int64_t{8} * threads_);
    const int64_t cuts = std::min(vectors, ceil_div(int64_t{8} * threads_, rows));
    parallel_for(rows * cuts, threads_, [&](int64_t task) {
      const int64_t row = task / cuts, cut = task % cuts;
      const int64_t first = share(row, rows, tiles), count = share(row + 1, rows, tiles) - first;
      t_.input({begin + first, count}, share(cut, cuts, vectors) * columns_.vl,
               std::min(t_.depth, share(cut + 1, cuts, vectors) * columns_.vl), v + first * v_row_, v_row_,
               v_plane);
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
    const int64_t m_plane = spread_planes(ceil_div(tiles, rows) * m_row_);
    parallel_for(rows * parts, threads_, [&](int64_t task) {
      const int64_t part = task / rows, row = task % rows;
      const int64_t first = share(row, rows, tiles), count = share(row + 1, rows, tiles) - first;
      auto* m = static_cast<float*>(
          thread_scratch(Slot::kTile, static_cast<size_t>(t_.planes * m_plane) * sizeof(float)));
      const int64_t v0 = columns_.cut(part, parts), v1 = columns_.cut(part + 1, parts);
      for (int64_t b = 0; b < columns_.blocks; ++b) {
        const int64_t from = std::max(v0, columns_.begin(b)), to = std::min(v1, columns_.end(b));
        if (from >= to) continue;
        Aheads aheads;
        output({begin + first, count}, b, from, to, v + first * v_row_, v_plane, m, m_plane, &aheads);
      }
    });
  }

  // The same with weights that are transformed on the way, once for every pass.
  void from_plain() const {
    const PlainColumns columns(t_.columns);
    const int64_t passes = ceil_div(t_.tiles, bilinear_plain_tiles(t_.planes, t_.depth));
    const int64_t most = ceil_div(t_.tiles, passes);
    const int64_t v_plane = spread_planes(most * v_row_);
    const Buffer v(static_cast<size_t>(t_.planes * v_plane) * sizeof(float));
    // Few columns: several threads take the same ones, for tiles of their own.
    const int64_t rows = std::clamp<int64_t>(threads_ / columns.blocks, 1, ceil_div(most, kLeastTiles / 2));
    for (int64_t pass = 0; pass < passes; ++pass) {
      const int64_t begin = share(pass, passes, t_.tiles), end = share(pass + 1, passes, t_.tiles);
      transform(begin, end - begin, v.floats(), v_plane);
      parallel_for(columns.blocks * rows, threads_, [&](int64_t task) {
        const int64_t block = task / rows, row = task % rows, tiles = end - begin;
        const int64_t first = share(row, rows, tiles), count = share(row + 1, rows, tiles) - first;
        plain_block({begin + first, count}, columns, block, v.floats() + first * v_row_, v_plane);
      });
    }
  }

  // One block of columns. As many rows of U at a time as stay in the second-level cache.
  void plain_block(const BilinearTiles& tiles, const PlainColumns& columns, int64_t block, const float* v,
                   int64_t v_plane) const {
    const int64_t column = block * columns.width, count = std::min(columns.width, t_.columns - column);
    const int64_t vl = columns_.vl, width = round_up(count, vl);
    const int64_t most = std::min(t_.depth, kPieceBytes / (t_.planes * columns.width * 4) / 8 * 8);
    const int64_t pieces = ceil_div(t_.depth, most);
    const int64_t u_plane = spread_planes(ceil_div(t_.depth, pieces) * width);
    const int64_t m_plane = spread_planes(tiles.count * width);
    auto* u = static_cast<float*>(
        thread_scratch(Slot::kTile, static_cast<size_t>(t_.planes * (u_plane + m_plane)) * sizeof(float)));
    float* m = u + t_.planes * u_plane;
    const float* plain = t_.weights + t_.parts * t_.depth * column;
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const int64_t k = share(piece, pieces, t_.depth), rows = share(piece + 1, pieces, t_.depth) - k;
      const float* from = plain + k * t_.parts * width;
      t_.transform_weights(rows, width, from, u, u_plane);
      // The products leave the memory idle: they fetch what is transformed next.
      const WinogradAhead ahead{from + rows * t_.parts * width, rows * t_.parts * width, 1, 0};
      WinogradProducts products{};
      products.planes = t_.planes, products.rows = tiles.count, products.depth = rows;
      products.v = v + k;
      products.v_row = v_row_, products.v_plane = v_plane;
      products.u = u;
      products.u_plane = u_plane;
      products.block_vectors = products.vector_last = width / vl;
      products.m = m;
      products.m_row = width, products.m_plane = m_plane;
      products.add = piece > 0;
      products.aheads = &ahead;
      products.ahead_count = piece + 1 < pieces || column + width < t_.columns;
      kernels().winograd.products(&products);
    }
    t_.output(tiles, column, count, m, width, m_plane);
  }

  // Products and output transform of vectors v0 .. v1 of the columns, which lie in one block. The products
  // leave the memory idle: they fetch what the transform needs beside M, and `aheads`.
  void output(const BilinearTiles& tiles, int64_t block, int64_t v0, int64_t v1, const float* v,
              int64_t v_plane, float* m, int64_t m_plane, Aheads* aheads) const {
    const int64_t begin = columns_.begin(block), vl = columns_.vl, column = v0 * vl;
    const int64_t count = std::min(t_.columns, v1 * vl) - column;
    t_.output_ahead(tiles, column, count, aheads);
    WinogradProducts products{};
    products.planes = t_.planes, products.rows = tiles.count, products.depth = t_.depth;
    products.v = v;
    products.v_row = v_row_, products.v_plane = v_plane;
    products.u = t_.weights + t_.planes * t_.depth * begin * vl;
    products.block_vectors = columns_.end(block) - begin;
    products.u_plane = t_.depth * products.block_vectors * vl;
    products.vector_first = v0 - begin, products.vector_last = v1 - begin;
    products.m = m;
    products.m_row = m_row_, products.m_plane = m_plane;
    products.far = true;
    products.on = Transforms::kOn, products.group = t_.group;
    products.aheads = aheads->runs, products.ahead_count = aheads->count;
    kernels().winograd.products(&products);
    t_.output(tiles, column, count, m, m_row_, m_plane);
  }

  const Transforms& t_;
  BilinearColumns columns_;
  int64_t v_row_, m_row_, u_bytes_;
  int threads_;
};

}  // namespace cnnfast
