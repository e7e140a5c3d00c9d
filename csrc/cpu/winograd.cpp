#include "cpu/winograd.h"

#include <algorithm>

#include "cpu/bilinear.h"

namespace cnnfast {
namespace {

// Pictures beyond this, in bytes, are fetched ahead; of the result with what is added to it.
constexpr int64_t kFarPicture = 1 << 20;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// What BilinearRun asks for: tiles are counted row by row, image after image.
class Transforms {
 public:
  Transforms(const Conv2dSpec& s, const float* x, const WinogradView& w, const Epilogue& epilogue, float* y)
      : planes(w.form.planes()),
        depth(s.c),
        columns(s.o),
        weights(w.data),
        plain(w.plain),
        parts(w.form.taps * w.form.taps),
        s_(s),
        x_(x),
        form_(w.form),
        epilogue_(epilogue),
        y_(y),
        th_(ceil_div(s.p, form_.tile)),
        tw_(ceil_div(s.q, form_.tile)) {
    tiles = s.n * th_ * tw_;
  }

  void input_ahead(const BilinearTiles& of, Aheads* aheads) const {
    const int64_t picture = s_.h * s_.w * s_.ldx;
    if (picture * 4 <= kFarPicture) return;
    const int64_t end = of.first + of.count;
    for (int64_t first = of.first, next; first < end; first = next) {
      const int64_t line = first / tw_, begin = line * tw_;
      next = std::min(end, begin + tw_);
      const int64_t step = form_.tile * form_.stride, y = line % th_ * step - s_.pt, x = -s_.pl;
      // The first rows belong to the tiles above as well.
      const int64_t shared = form_.side() - step;
      add_ahead(x_ + line / th_ * picture, s_.w, s_.ldx, s_.c, std::max<int64_t>(0, y + shared),
                std::min(s_.h, y + form_.side()), std::max<int64_t>(0, x + (first - begin) * step),
                std::min(s_.w, x + (next - begin) * step + shared), aheads);
    }
  }

  void output_ahead(const BilinearTiles& of, int64_t column, int64_t count, Aheads* aheads) const {
    const int64_t picture = s_.p * s_.q * s_.ldy, end = of.first + of.count;
    if ((epilogue_.residual ? 2 : 1) * picture * 4 <= kFarPicture) return;
    for (const float* to : {epilogue_.residual, static_cast<const float*>(y_)})
      for (int64_t first = of.first, next; to && first < end; first = next) {
        const int64_t line = first / tw_, begin = line * tw_;
        next = std::min(end, begin + tw_);
        const int64_t y = line % th_ * form_.tile;
        add_ahead(to + line / th_ * picture + column, s_.q, s_.ldy, count, y, std::min(s_.p, y + form_.tile),
                  (first - begin) * form_.tile, std::min(s_.q, (next - begin) * form_.tile), aheads);
      }
  }

  void input(const BilinearTiles& tiles, int64_t c_first, int64_t c_last, float* v, int64_t v_row,
             int64_t v_plane) const {
    WinogradInput g{};
    g.tiles = {form_, th_, tw_, tiles.first, tiles.count};
    g.x = x_;
    g.h = s_.h, g.w = s_.w;
    g.pixel_stride = s_.ldx;
    g.row_stride = s_.w * g.pixel_stride;
    g.image_stride = s_.h * g.row_stride;
    g.pt = s_.pt, g.pl = s_.pl;
    g.c_first = c_first, g.c_last = c_last;
    g.v = v;
    g.v_row = v_row, g.v_plane = v_plane;
    kernels().winograd.input(&g);
  }

  void output(const BilinearTiles& tiles, int64_t column, int64_t count, const float* m, int64_t m_row,
              int64_t m_plane) const {
    WinogradOutput g{};
    g.tiles = {form_, th_, tw_, tiles.first, tiles.count};
    g.m = m;
    g.m_row = m_row, g.m_plane = m_plane;
    g.y = y_ + column;
    g.p = s_.p, g.q = s_.q;
    g.pixel_stride = s_.ldy;
    g.row_stride = s_.q * g.pixel_stride;
    g.image_stride = s_.p * g.row_stride;
    g.columns = count;
    g.bias = epilogue_.bias ? epilogue_.bias + column : nullptr;
    g.residual = epilogue_.residual ? epilogue_.residual + column : nullptr;
    g.activation = epilogue_.activation;
    g.slope = epilogue_.slope;
    kernels().winograd.output(&g);
  }

  void transform_weights(int64_t rows, int64_t columns, const float* from, float* u, int64_t u_plane) const {
    const WinogradWeights g{form_, false, rows, columns, from, parts * columns, columns, u, columns, u_plane};
    kernels().winograd.weights(&g);
  }

  int64_t planes, tiles, depth, columns;
  const float* weights;
  static constexpr const int8_t* kOn = nullptr;
  static constexpr int64_t group = 1;
  static constexpr bool kMayBePlain = true;
  bool plain;
  int64_t parts;

 private:
  // `floats` of the pixels in rows y .. y_end, columns x .. x_end of one picture.
  static void add_ahead(const float* image, int64_t w, int64_t pixel, int64_t floats, int64_t y,
                        int64_t y_end, int64_t x, int64_t x_end, Aheads* aheads) {
    for (; y < y_end; ++y) aheads->add({image + (y * w + x) * pixel, floats, x_end - x, pixel});
  }

  const Conv2dSpec& s_;
  const float* x_;
  WinogradForm form_;
  const Epilogue& epilogue_;
  float* y_;
  int64_t th_, tw_;
};

}  // namespace

PackedWinograd::PackedWinograd(const float* w, int64_t c, int64_t o, WinogradForm form, bool plain,
                               int threads, Life life)
    : c_(c),
      o_(o),
      form_(form),
      plain_(plain),
      bytes_(winograd_bytes(c, o, form, plain)),
      data_(bytes_, life),
      packed_(data_.floats()) {
  if (plain)
    pack_bilinear_plain(form.taps * form.taps, c, o, data_.floats(),
                        [&](int64_t k, int64_t tap) { return w + (tap * c + k) * o; });
  else
    pack_bilinear(form.planes(), c, o, data_.floats(), threads,
                  [&](int64_t k, int64_t column, int64_t count, float* u) {
                    const WinogradWeights g{form, true,  1, count, w + k * o + column,
                                            0,    c * o, u, 0,     kBilinearStrip};
                    kernels().winograd.weights(&g);
                  });
}

PackedWinograd::PackedWinograd(int64_t c, int64_t o, WinogradForm form, bool plain, const float* packed,
                               std::shared_ptr<const void> owner)
    : c_(c),
      o_(o),
      form_(form),
      plain_(plain),
      bytes_(winograd_bytes(c, o, form, plain)),
      packed_(packed),
      owner_(std::move(owner)) {}

size_t winograd_bytes(int64_t c, int64_t o, WinogradForm form, bool plain) {
  return static_cast<size_t>(plain ? bilinear_plain_floats(form.taps * form.taps, c, o)
                                   : bilinear_floats(form.planes(), c, o)) *
         sizeof(float);
}

bool winograd_applies(const Conv2dSpec& s, bool strided) {
  if (s.kh != s.kw || (s.kh != 3 && s.kh != 5) || s.dh != 1 || s.dw != 1 || s.groups != 1) return false;
  if (s.sh != s.sw || (s.sh != 1 && !(strided && s.sh == 2))) return false;
  // Pictures: kernel rows of few channels are contiguous runs, and direct arithmetic is as quick.
  return s.pt < s.kh && s.pl < s.kw && s.c >= 8;
}

bool winograd_allows(const Conv2dSpec& s, WinogradForm form, int largest) {
  // A sum of few products at a corner bears the error of its whole tile.
  constexpr int64_t kLeastChannels = 64;
  if (form.tile == 5 && s.c < kLeastChannels) return false;
  return is_known(form) && form.taps == s.kh && form.stride == s.sh && form.tile <= largest;
}

double winograd_nanoseconds(const Conv2dSpec& s, int threads, WinogradForm form, bool plain) {
  // Weights that do not stay in the caches are read once per call at the speed of memory.
  constexpr double kMemory = 27;  // bytes a nanosecond
  const double c = static_cast<double>(s.c), o = static_cast<double>(round_up(s.o, kernels().vl));
  const double planes = form.planes();
  const int64_t tiles = s.n * ceil_div(s.p, form.tile) * ceil_div(s.q, form.tile);
  constexpr double kExchanged = 40;  // FLOPs of a product in the time that a value takes from core to core
  // Loading, transforming and storing a value of V, M or U takes about as long as some FLOPs of a product.
  const double value = form.side() > 6 ? 16 : 12;
  const double values = static_cast<double>(tiles) * (static_cast<double>(round_up(s.c, kernels().vl)) + o);
  double flops = planes * (2 * static_cast<double>(tiles) * c * o + value * values);
  if (plain) {
    const int64_t passes = ceil_div(tiles, bilinear_plain_tiles(form.planes(), s.c));
    flops += planes * static_cast<double>(passes) * 7 * c * o;
    // Threads read what others have written of V.
    if (threads > 1) flops += planes * static_cast<double>(tiles) * kExchanged * c;
  }
  const double bytes = static_cast<double>(winograd_bytes(s.c, s.o, form, plain));
  const double weights = bytes > BilinearRun<Transforms>::kFarBytes ? bytes / kMemory : 0;
  // With a stride of 2 there is less to be gained: it must be sure.
  const double caution = form.stride == 1 ? 1.0 : 0.9;
  return std::max(flops / kProductFlops / std::max(1, threads), weights) / caution;
}

int winograd_tile(const Conv2dSpec& s, int threads, int largest, bool once) {
  if (!winograd_applies(s, true)) return 0;
  constexpr double kPacking = 35;  // nanoseconds to turn and transform one kernel
  const double packing = once ? kPacking * static_cast<double>(s.c * s.o) : 0;
  double best = s.flops() / kProductFlops / std::max(1, threads);
  int choice = 0;
  for (int tile = 2; tile <= largest; ++tile) {
    const WinogradForm form{tile, static_cast<int>(s.kh), static_cast<int>(s.sh)};
    if (!winograd_allows(s, form, largest)) continue;
    const double time = winograd_nanoseconds(s, threads, form) + packing / std::max(1, threads);
    if (time < best) best = time, choice = tile;
  }
  return choice;
}

void conv2d_winograd(const Conv2dSpec& s, const float* x, const WinogradView& w, const Epilogue& epilogue,
                     float* y) {
  if (s.n * s.p * s.q * s.o == 0) return;
  const Transforms transforms(s, x, w, epilogue, y);
  BilinearRun<Transforms>{transforms}();
}

}  // namespace cnnfast
