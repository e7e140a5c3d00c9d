#include "cpu/strassen.h"

#include "cpu/bilinear.h"

namespace cnnfast {
namespace {

// Pictures beyond this are fetched ahead.
constexpr int64_t kFarPicture = 1 << 20;

// What BilinearRun asks for; its tiles are pairs of pixels.
class StrassenTransforms {
 public:
  StrassenTransforms(const Conv2dSpec& s, const float* x, const float* packed, const Epilogue& epilogue,
                     float* y)
      : depth(s.c / 2), columns(s.o / 2), weights(packed), s_(s), x_(x), epilogue_(epilogue), y_(y) {
    tiles = s.n * pairs({0, 0}).per_image();
  }

  void input_ahead(int64_t first, int64_t end, Aheads* aheads) const {
    if (s_.h * s_.w * s_.ldx * 4 > kFarPicture && s_.sh == 1 && s_.sw == 1)
      add(x_, s_.ldx, first, end, aheads);
  }
  void output_ahead(int64_t first, int64_t end, Aheads* aheads) const {
    if (s_.p * s_.q * s_.ldy * 4 > kFarPicture) add(y_, s_.ldy, first, end, aheads);
  }

  void input(const BilinearTiles& tiles, int64_t k_first, int64_t k_last, float* v, int64_t v_row,
             int64_t v_plane) const {
    const int64_t line = s_.w * s_.ldx;
    const StrassenInput g{pairs(tiles), x_,      s_.q,   s_.h * line, s_.sh * line, s_.sw * s_.ldx,
                          depth,        k_first, k_last, v,           v_row,        v_plane};
    kernels().strassen.input(&g);
  }

  void output(const BilinearTiles& tiles, int64_t column, int64_t count, const float* m, int64_t m_row,
              int64_t m_plane) const {
    const StrassenOutput g{pairs(tiles),
                           m,
                           m_row,
                           m_plane,
                           y_ + column,
                           s_.ldy,
                           columns,
                           count,
                           epilogue_.bias ? epilogue_.bias + column : nullptr,
                           epilogue_.residual ? epilogue_.residual + column : nullptr,
                           epilogue_.activation,
                           epilogue_.slope};
    kernels().strassen.output(&g);
  }

  static constexpr int64_t planes = kStrassenPlanes;
  int64_t tiles, depth, columns;
  const float* weights;

 private:
  StrassenPairs pairs(const BilinearTiles& tiles) const { return {s_.p * s_.q, tiles.first, tiles.count}; }

  // The pixels of pairs first .. end lie one after the other, but for those of the last image at most.
  void add(const float* pixels, int64_t ld, int64_t first, int64_t end, Aheads* aheads) const {
    const int64_t rows = s_.p * s_.q, per_image = (rows + 1) / 2;
    const int64_t image = first / per_image, r = first % per_image * 2;
    const int64_t count = std::min(2 * (end - first), rows - r);
    if (aheads->count < Aheads::kMost)
      aheads->runs[aheads->count++] = {pixels + (image * rows + r) * ld, count * ld};
  }

  const Conv2dSpec& s_;
  const float* x_;
  const Epilogue& epilogue_;
  float* y_;
};

}  // namespace

bool strassen_pays(const Conv2dSpec& s) {
  if (s.kh != 1 || s.kw != 1 || s.groups != 1 || s.pt != 0 || s.pl != 0) return false;
  if ((s.p - 1) * s.sh >= s.h || (s.q - 1) * s.sw >= s.w) return false;  // padded below or to the right
  if (s.c % kStrassenUnit || s.o % kStrassenUnit) return false;
  // Loading, transforming and storing a value of V or M takes about as long as some FLOPs of a product. Small
  // products gain less than a further meeting of threads costs.
  constexpr double kTransform = 6, kGain = 0.95, kLeastFlops = 4e7;
  Conv2dSpec image = s;
  image.n = 1;
  const double pairs = static_cast<double>((s.p * s.q + 1) / 2);
  const double c = static_cast<double>(s.c / 2), o = static_cast<double>(s.o / 2);
  const double work = kStrassenPlanes * pairs * (2 * c * o + kTransform * (c + o));
  return image.flops() >= kLeastFlops && work < kGain * image.flops();
}

int64_t strassen_floats(int64_t c, int64_t o) { return bilinear_floats(kStrassenPlanes, c / 2, o / 2); }

void pack_strassen(const float* w, int64_t c, int64_t o, float* packed, int threads) {
  const int64_t depth = c / 2, columns = o / 2;
  pack_bilinear(kStrassenPlanes, depth, columns, packed, threads,
                [&](int64_t k, int64_t column, int64_t count, float* u) {
                  const float *upper = w + k * o + column, *lower = upper + depth * o;
                  for (int64_t i = 0; i < count; ++i) {
                    const double b11 = upper[i], b12 = upper[columns + i];
                    const double b21 = lower[i], b22 = lower[columns + i];
                    const double t1 = b12 - b11, t2 = b22 - t1;
                    const double planes[kStrassenPlanes] = {b11, b21, b22, t2 - b21, t1, t2, b22 - b12};
                    for (int64_t e = 0; e < kStrassenPlanes; ++e)
                      u[e * kBilinearStrip + i] = static_cast<float>(planes[e]);
                  }
                });
}

void conv2d_strassen(const Conv2dSpec& s, const float* x, const float* packed, const Epilogue& epilogue,
                     float* y) {
  if (s.n * s.p * s.q * s.o == 0) return;
  const StrassenTransforms transforms(s, x, packed, epilogue, y);
  BilinearRun<StrassenTransforms>{transforms}();
}

}  // namespace cnnfast
