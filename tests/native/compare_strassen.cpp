// Strassen: the transforms of pairs of pixels, odd numbers of them and strided ones too.
#include <algorithm>

#include "harness.h"

CNNFAST_EXPECT_KERNELS(StrassenKernels, void (*input)(); void (*output)();)

namespace compare {
namespace {

void compare_input(const KernelTable& base, const KernelTable& level, int64_t rows, int64_t half, int64_t gap,
                   Guard guard, Random& random, Report& report) {
  const int64_t n = 2, line = 3, pixel = 2 * half + gap, between = pixel * (line + 1);
  const int64_t lines = (rows + line - 1) / line, image = lines * between;
  const Floats x = random.floats(n * image, guard);
  const int64_t pairs = n * ((rows + 1) / 2), v_row = half + 3, v_plane = pairs * v_row;
  Floats made[2] = {filled(cnnfast::kStrassenPlanes * v_plane, guard, 7.0f),
                    filled(cnnfast::kStrassenPlanes * v_plane, guard, 7.0f)};
  const KernelTable* tables[2] = {&base, &level};
  for (int k = 0; k < 2; ++k)
    // In two pieces of pairs and of channels.
    for (int part = 0; part < 4; ++part) {
      const int64_t first = part & 1 ? 1 : 0, middle = half / 32 * 16;
      const cnnfast::StrassenInput g{{rows, first, first ? pairs - 1 : 1},
                                     x.data(),
                                     line,
                                     image,
                                     between,
                                     pixel,
                                     half,
                                     part & 2 ? middle : 0,
                                     part & 2 ? half : middle,
                                     made[k].data() + first * v_row,
                                     v_row,
                                     v_plane};
      tables[k]->strassen.input(&g);
    }
  const int64_t count = cnnfast::kStrassenPlanes * v_plane;
  const std::vector<double> bounds(static_cast<size_t>(count), 0.0);
  report.same("input", made[0].data(), made[1].data(), count, &bounds);
}

void compare_output(const KernelTable& base, const KernelTable& level, int64_t rows, int64_t columns,
                    int variant, Guard guard, Random& random, Report& report) {
  const int64_t n = 2, half = columns + 16, stride = half + columns + variant % 3;
  const int64_t pairs = n * ((rows + 1) / 2), m_row = columns + 5, m_plane = pairs * m_row;
  const int64_t floats = (n * rows - 1) * stride + half + columns;
  const Floats m = random.floats(cnnfast::kStrassenPlanes * m_plane, guard);
  const Floats bias = random.floats(half + columns, guard), residual = random.floats(floats, guard);
  Floats made[2] = {filled(floats, guard, 7.0f), filled(floats, guard, 7.0f)};
  const KernelTable* tables[2] = {&base, &level};
  for (int k = 0; k < 2; ++k) {
    const cnnfast::StrassenOutput g{{rows, 0, pairs},
                                    m.data(),
                                    m_row,
                                    m_plane,
                                    made[k].data(),
                                    stride,
                                    half,
                                    columns,
                                    variant & 1 ? bias.data() : nullptr,
                                    variant & 2 ? residual.data() : nullptr,
                                    variant % 8,
                                    0.125f};
    tables[k]->strassen.output(&g);
  }
  const std::vector<double> bounds(static_cast<size_t>(floats), 64 * kUnit);
  report.same("output", made[0].data(), made[1].data(), floats, &bounds);
}

}  // namespace

void compare_strassen(const KernelTable& base, const KernelTable& level, Guard guard, Report& report) {
  Random random(10);
  for (int64_t rows : {1, 2, 5, 6, 9})
    for (int64_t columns : {16, 48, 64}) {
      for (int64_t gap : {0, 5}) compare_input(base, level, rows, columns, gap, guard, random, report);
      for (int variant = 0; variant < 32; ++variant)
        compare_output(base, level, rows, columns, variant, guard, random, report);
    }
}

}  // namespace compare
