#include "cpu/strassen.h"

#include "cpu/bilinear.h"

namespace cnnfast {
namespace {

// Pictures beyond this, in bytes, are fetched ahead; of the result with what is added to it.
constexpr int64_t kFarPicture = 512 << 10;

// What BilinearRun asks for.
class StrassenTransforms {
 public:
  StrassenTransforms(const Conv2dSpec& s, const float* x, const float* packed, int levels,
                     const Epilogue& epilogue, float* y)
      : planes(strassen_planes(levels)),
        depth(s.c / strassen_side(levels)),
        columns(s.o / strassen_side(levels)),
        group(strassen_planes(levels - 1)),
        weights(packed),
        s_(s),
        x_(x),
        zero_(zeros(static_cast<size_t>(s.c))),
        levels_(levels),
        epilogue_(epilogue),
        y_(y) {
    tiles = s.n * of({0, 0}).per_image();
  }

  void input_ahead(const BilinearTiles& tiles, Aheads* aheads) const {
    if (s_.h * s_.w * s_.ldx * 4 <= kFarPicture) return;
    const int64_t line_stride = s_.sh * s_.w * s_.ldx, pixel_stride = s_.sw * s_.ldx;
    int64_t row = row_of(tiles.first);
    const int64_t end = row_of(tiles.first + tiles.count), in_image = s_.p * s_.q;
    for (int64_t next; row < end; row = next) {
      const int64_t r = row % in_image;
      next = std::min(end, row + s_.q - r % s_.q);
      aheads->add(
          {x_ + row / in_image * s_.h * s_.w * s_.ldx + r / s_.q * line_stride + r % s_.q * pixel_stride,
           s_.c, next - row, pixel_stride});
    }
  }
  void output_ahead(const BilinearTiles& tiles, int64_t column, int64_t count, Aheads* aheads) const {
    const int64_t pictures = epilogue_.residual ? 2 : 1;
    if (pictures * s_.p * s_.q * s_.ldy * 4 <= kFarPicture) return;
    const int64_t first = row_of(tiles.first), rows = row_of(tiles.first + tiles.count) - first;
    for (const float* picture : {epilogue_.residual, static_cast<const float*>(y_)})
      for (int64_t block = 0; picture && block < s_.o; block += columns)
        aheads->add({picture + first * s_.ldy + block + column, count, rows, s_.ldy});
  }

  void input(const BilinearTiles& tiles, int64_t k_first, int64_t k_last, float* v, int64_t v_row,
             int64_t v_plane) const {
    StrassenInput g{};
    g.tiles = of(tiles);
    g.x = x_, g.zero = zero_;
    g.line = s_.q;
    g.image_stride = s_.h * s_.w * s_.ldx;
    g.line_stride = s_.sh * s_.w * s_.ldx;
    g.pixel_stride = s_.sw * s_.ldx;
    g.block = depth;
    g.k_first = k_first, g.k_last = k_last;
    g.v = v;
    g.v_row = v_row, g.v_plane = v_plane;
    kernels().strassen.input(&g);
  }

  void output(const BilinearTiles& tiles, int64_t column, int64_t count, const float* m, int64_t m_row,
              int64_t m_plane) const {
    StrassenOutput g{};
    g.tiles = of(tiles);
    g.m = m;
    g.m_row = m_row, g.m_plane = m_plane;
    g.y = y_ + column;
    g.row_stride = s_.ldy;
    g.block = columns, g.columns = count;
    g.bias = epilogue_.bias ? epilogue_.bias + column : nullptr;
    g.residual = epilogue_.residual ? epilogue_.residual + column : nullptr;
    g.activation = epilogue_.activation;
    g.slope = epilogue_.slope;
    kernels().strassen.output(&g);
  }

  int64_t planes, tiles, depth, columns;
  static constexpr const int8_t* kOn = kStrassenOn;
  int64_t group;
  const float* weights;
  static constexpr bool kMayBePlain = false;

 private:
  StrassenTiles of(const BilinearTiles& tiles) const {
    return {levels_, s_.p * s_.q, tiles.first, tiles.count};
  }

  // The first pixel of a tile, counted over all images.
  int64_t row_of(int64_t tile) const {
    const int64_t per_image = of({0, 0}).per_image(), rows = s_.p * s_.q;
    return tile / per_image * rows + std::min(rows, tile % per_image * strassen_side(levels_));
  }

  const Conv2dSpec& s_;
  const float* x_;
  const float* zero_;
  int levels_;
  const Epilogue& epilogue_;
  float* y_;
};

// Sums and differences of blocks of weights, one value of each block: b side x side, planes in their order.
void split_weights(const double* b, int levels, double* planes) {
  if (levels == 0) {
    *planes = *b;
    return;
  }
  const int64_t side = strassen_side(levels), half = side / 2;
  const int64_t step = strassen_planes(levels - 1);
  double parts[7][4];  // of blocks of 2x2 values at most
  static_assert(kMostStrassenLevels == 2);
  for (int64_t r = 0; r < half; ++r)
    for (int64_t j = 0; j < half; ++j) {
      const double *upper = b + r * side + j, *lower = upper + half * side;
      const double b11 = upper[0], b12 = upper[half], b21 = lower[0], b22 = lower[half];
      const double t1 = b12 - b11, t2 = b22 - t1;
      const double values[7] = {b11, b21, t2, b22, b22 - b12, b21 - t2, t1};
      for (int64_t e = 0; e < 7; ++e) parts[e][r * half + j] = values[e];
    }
  for (int64_t e = 0; e < 7; ++e) split_weights(parts[e], levels - 1, planes + e * step);
}

}  // namespace

bool strassen_applies(const Conv2dSpec& s, int levels) {
  // Small products gain less than a further meeting of threads costs. Weights of two levels are three times
  // as large: that wants some rows.
  constexpr double kLeastFlops = 1.4e7;
  constexpr int64_t kTwoLevelRows = 96;
  if (levels > 1 && s.p * s.q < kTwoLevelRows) return false;
  if (s.kh != 1 || s.kw != 1 || s.groups != 1 || s.pt != 0 || s.pl != 0) return false;
  if ((s.p - 1) * s.sh >= s.h || (s.q - 1) * s.sw >= s.w) return false;  // padded below or to the right
  return s.flops() >= kLeastFlops * static_cast<double>(s.n) && s.c % strassen_unit(levels) == 0 &&
         s.o % strassen_unit(levels) == 0;
}

double strassen_nanoseconds(const Conv2dSpec& s, int threads, int levels, bool lean) {
  // Making a value of V takes about as long as some FLOPs of a product; so does storing one of M, which the
  // products wait for, and summing it up.
  constexpr double kInput = 9, kOutput = 4 + 6;
  // What has to be saved to be worth it: as much memory for a few per cent is no bargain in a lean plan.
  const double caution = lean ? (levels == 1 ? 0.98 : 0.918) : (levels == 1 ? 0.985 : 0.95);
  const int64_t side = strassen_side(levels), planes = strassen_planes(levels);
  const int64_t tiles = s.n * ((s.p * s.q + side - 1) / side);
  const double c = static_cast<double>(s.c / side), o = static_cast<double>(s.o / side);
  const double flops = static_cast<double>(planes * tiles) * (2 * c * o + kInput * c + kOutput * o);
  return flops / caution / kProductFlops / std::max(1, threads);
}

int64_t strassen_floats(int64_t c, int64_t o, int levels) {
  return bilinear_floats(strassen_planes(levels), c / strassen_side(levels), o / strassen_side(levels));
}

void pack_strassen(const float* w, int64_t c, int64_t o, int levels, float* packed, int threads) {
  const int64_t side = strassen_side(levels), planes = strassen_planes(levels);
  const int64_t depth = c / side, columns = o / side;
  pack_bilinear(planes, depth, columns, packed, threads,
                [&](int64_t k, int64_t column, int64_t count, float* u) {
                  for (int64_t i = 0; i < count; ++i) {
                    double b[16], split[49];
                    for (int64_t r = 0; r < side; ++r)
                      for (int64_t j = 0; j < side; ++j)
                        b[r * side + j] = w[(r * depth + k) * o + j * columns + column + i];
                    split_weights(b, levels, split);
                    for (int64_t e = 0; e < planes; ++e)
                      u[e * kBilinearStrip + i] = static_cast<float>(split[e]);
                  }
                });
}

void conv2d_strassen(const Conv2dSpec& s, const float* x, const float* packed, int levels,
                     const Epilogue& epilogue, float* y) {
  if (s.n * s.p * s.q * s.o == 0) return;
  const StrassenTransforms transforms(s, x, packed, levels, epilogue, y);
  BilinearRun<StrassenTransforms>{transforms}();
}

}  // namespace cnnfast
