// Winograd: transforms and products, alone, on tiles inside the picture and over its border.
#include <algorithm>

#include "harness.h"

CNNFAST_EXPECT_KERNELS(WinogradKernels, int block_vectors; int max_vectors; void (*input)();
                       void (*products)(); void (*output)(); void (*weights)(); void (*gradient)();
                       void (*weight_gradient)();)

namespace compare {
namespace {

// Largest sum of |coefficients| of one output of B^T x B, A^T M A (or A g A^T) and G^T u G, rounded up.
constexpr double kInputGain = 150, kOutputGain = 10000, kWeightGain = 40;

int64_t round_up(int64_t n, int64_t vl) { return (n + vl - 1) / vl * vl; }

void compare_input(const KernelTable& base, const KernelTable& level, cnnfast::WinogradForm form, int64_t c,
                   int64_t gap, bool gradient, Guard guard, Random& random, Report& report) {
  const int64_t n = 2, h = 9, w = 15, pixel = c + gap, row = w * pixel, th = 3, tw = 3,
                planes = form.planes();
  const Floats x = random.floats(n * h * row - gap, guard);
  const int64_t tiles = n * th * tw;
  std::vector<float> made[2];
  const KernelTable* tables[2] = {&base, &level};
  for (int k = 0; k < 2; ++k) {
    const int64_t vl = tables[k]->vl, v_row = round_up(c, vl), v_plane = tiles * v_row;
    Floats v = filled(planes * v_plane, guard, NAN);
    // In two pieces of tiles and of channels.
    const int64_t middle = (c / vl + 1) / 2 * vl;
    for (int64_t first : {int64_t{0}, int64_t{5}})
      for (int part = 0; part < 2; ++part) {
        const cnnfast::WinogradInput g{{form, th, tw, first, first ? tiles - 5 : 5},
                                       x.data(),
                                       h,
                                       w,
                                       h * row,
                                       row,
                                       pixel,
                                       gradient ? 0 : 1,
                                       gradient ? 0 : 2,
                                       part ? middle : 0,
                                       part ? c : middle,
                                       v.data() + first * v_row,
                                       v_row,
                                       v_plane};
        (gradient ? tables[k]->winograd.gradient : tables[k]->winograd.input)(&g);
      }
    made[k].assign(static_cast<size_t>(planes * tiles * c), 0);
    for (int64_t i = 0; i < planes * tiles; ++i) std::copy_n(v.data() + i * v_row, c, made[k].data() + i * c);
  }
  const std::vector<double> bounds(made[0].size(), 16 * kUnit * (gradient ? kOutputGain : kInputGain));
  report.same(gradient ? "gradient" : "input", made[0].data(), made[1].data(),
              static_cast<int64_t>(made[0].size()), &bounds);
}

void compare_products(const KernelTable& base, const KernelTable& level, int64_t rows, int64_t depth,
                      int64_t n, bool far, bool add, bool sums, Guard guard, Random& random, Report& report) {
  constexpr int8_t kOn[] = {-1, 0, 0};  // of `sums`
  const int64_t planes = 3, v_row = depth + 2, v_plane = rows * v_row + 5;
  const Floats v = random.floats(planes * v_plane, guard), u = random.floats(planes * depth * n, guard);
  std::vector<float> made[2];
  const KernelTable* tables[2] = {&base, &level};
  for (int k = 0; k < 2; ++k) {
    const KernelTable& table = *tables[k];
    const int64_t vectors = round_up(n, table.vl) / table.vl, width = vectors * table.vl;
    const int64_t panels = (vectors + table.winograd.max_vectors - 1) / table.winograd.max_vectors;
    Floats packed(planes * depth * width, guard);
    float* to = packed.data();
    for (int64_t e = 0; e < planes; ++e)
      for (int64_t p = 0; p < panels; ++p)
        for (int64_t i = 0; i < depth; ++i)
          for (int64_t j = cnnfast::share(p, panels, vectors) * table.vl;
               j < cnnfast::share(p + 1, panels, vectors) * table.vl; ++j)
            *to++ = j < n ? u[(e * depth + i) * n + j] : 0.0f;
    Floats m = filled(planes * rows * width, guard, add ? 1.5f : NAN);
    // In two pieces of columns, as threads share them.
    const int64_t cut = vectors / 2;
    for (int part = 0; part < 2; ++part) {
      const cnnfast::WinogradProducts g{planes,
                                        rows,
                                        depth,
                                        v.data(),
                                        v_row,
                                        v_plane,
                                        packed.data(),
                                        depth * width,
                                        vectors,
                                        part ? cut : 0,
                                        part ? vectors : cut,
                                        m.data() + (part ? cut * table.vl : 0),
                                        width,
                                        rows * width,
                                        add,
                                        far,
                                        nullptr,
                                        0,
                                        sums ? kOn : nullptr,
                                        1};
      table.winograd.products(&g);
    }
    for (int64_t i = 0; i < planes * rows; ++i)
      made[k].insert(made[k].end(), m.data() + i * width, m.data() + i * width + n);
  }
  const std::vector<double> bounds(made[0].size(), (sums ? 4.0 : 2.0) * static_cast<double>(depth + 4) *
                                                       kUnit * static_cast<double>(depth + 2));
  report.same("products", made[0].data(), made[1].data(), static_cast<int64_t>(made[0].size()), &bounds);
}

void compare_output(const KernelTable& base, const KernelTable& level, cnnfast::WinogradForm form,
                    int64_t columns, int variant, Guard guard, Random& random, Report& report) {
  const int64_t n = 2, p = 7, q = 14, pixel = columns + variant % 3, row = q * pixel;
  const int64_t th = (p + form.tile - 1) / form.tile, tw = (q + form.tile - 1) / form.tile,
                tiles = n * th * tw;
  const int64_t planes = form.planes(), width = round_up(columns, 16),
                floats = n * p * row - (pixel - columns);
  const Floats m = random.floats(planes * tiles * width, guard), bias = random.floats(columns, guard);
  const Floats residual = random.floats(floats, guard);
  Floats made[2] = {filled(floats, guard, 7.0f), filled(floats, guard, 7.0f)};
  const KernelTable* tables[2] = {&base, &level};
  for (int k = 0; k < 2; ++k) {
    const cnnfast::WinogradOutput g{{form, th, tw, 0, tiles},
                                    m.data(),
                                    width,
                                    tiles * width,
                                    made[k].data(),
                                    p,
                                    q,
                                    p * row,
                                    row,
                                    pixel,
                                    columns,
                                    variant & 1 ? bias.data() : nullptr,
                                    variant & 2 ? residual.data() : nullptr,
                                    variant % 8,
                                    0.125f};
    tables[k]->winograd.output(&g);
  }
  const std::vector<double> bounds(static_cast<size_t>(floats), 24 * kUnit * kOutputGain);
  char what[64];
  std::snprintf(what, sizeof what, "output F(%d,%d) columns %d variant %d", form.tile, form.taps,
                static_cast<int>(columns), variant);
  report.same(what, made[0].data(), made[1].data(), floats, &bounds);
}

// Exact ones to the last place: in double, and rounded once.
void compare_weights(const KernelTable& base, const KernelTable& level, cnnfast::WinogradForm form,
                     bool exact, int64_t columns, Guard guard, Random& random, Report& report) {
  const int64_t planes = form.planes(), rows = 3, w_row = columns + 2, w_plane = rows * w_row;
  const Floats w = random.floats(form.taps * form.taps * w_plane - 2, guard);
  std::vector<float> made[2];
  const KernelTable* tables[2] = {&base, &level};
  for (int k = 0; k < 2; ++k) {
    const int64_t width = round_up(columns, tables[k]->vl);
    Floats u = filled(planes * rows * width, guard, NAN);
    const cnnfast::WinogradWeights g{form,  exact,   rows,     columns, w.data(),
                                     w_row, w_plane, u.data(), width,   rows * width};
    tables[k]->winograd.weights(&g);
    for (int64_t e = 0; e < planes * rows; ++e) {
      made[k].insert(made[k].end(), u.data() + e * width, u.data() + e * width + columns);
      for (int64_t j = columns; j < width; ++j)
        if (u.data()[e * width + j] != 0.0f) made[k].back() = NAN;
    }
  }
  const std::vector<double> bounds(made[0].size(), (exact ? 2 : 16) * kUnit * kWeightGain);
  report.same("weights", made[0].data(), made[1].data(), static_cast<int64_t>(made[0].size()), &bounds);
}

void compare_weight_gradient(const KernelTable& base, const KernelTable& level, cnnfast::WinogradForm form,
                             int64_t count, Guard guard, Random& random, Report& report) {
  const int64_t plane = count + 3, floats = form.taps * form.taps * count;
  const Floats u = random.floats(form.planes() * plane - 3, guard);
  Floats made[2] = {filled(floats, guard, 7.0f), filled(floats, guard, 7.0f)};
  const KernelTable* tables[2] = {&base, &level};
  for (int k = 0; k < 2; ++k) {
    const cnnfast::WinogradWeightGradient g{form, count, u.data(), plane, made[k].data(), count};
    tables[k]->winograd.weight_gradient(&g);
  }
  const std::vector<double> bounds(static_cast<size_t>(floats), 24 * kUnit * kWeightGain);
  report.same("weight gradient", made[0].data(), made[1].data(), floats, &bounds);
}

// Gradients of weights know tiles that read an even number of pixels.
bool in_gradients(cnnfast::WinogradForm form) { return form.stride == 1 && form.side() % 2 == 0; }

}  // namespace

void compare_winograd(const KernelTable& base, const KernelTable& level, Guard guard, Report& report) {
  Random random(9);
  for (const cnnfast::WinogradForm form :
       {cnnfast::WinogradForm{2, 3}, {2, 3, 2}, {2, 5}, {3, 5}, {4, 3}, {5, 3}, {6, 3}})
    for (int64_t c : {1, 3, 4, 7, 8, 16, 17, 31, 32, 64, 67}) {
      for (int64_t gap : {0, 5})
        for (bool gradient : {false, true})
          if (!gradient || in_gradients(form))
            compare_input(base, level, form, c, gap, gradient, guard, random, report);
      for (bool exact : {true, false}) compare_weights(base, level, form, exact, c, guard, random, report);
      if (in_gradients(form)) compare_weight_gradient(base, level, form, c, guard, random, report);
      for (int variant = 0; variant < 32; ++variant)
        compare_output(base, level, form, c, variant, guard, random, report);
    }
  for (int64_t rows = 1; rows <= 14; ++rows)
    for (int64_t n : {1, 7, 16, 24, 32, 40, 64})
      compare_products(base, level, rows, rows == 5 || rows == 7 ? 600 : 9, n, n % 3 == 1, rows % 4 == 1,
                       rows % 4 == 3, guard, random, report);
}

}  // namespace compare
