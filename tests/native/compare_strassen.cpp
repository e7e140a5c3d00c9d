// Strassen: the transforms of tiles of pixels, incomplete ones and strided pixels too.
#include <algorithm>

#include "harness.h"

CNNFAST_EXPECT_KERNELS(StrassenKernels, void (*input)(); void (*output)();)

namespace compare {
namespace {

void compare_input(const KernelTable& base, const KernelTable& level, int levels, int64_t rows, int64_t block,
                   int64_t gap, Guard guard, Random& random, Report& report) {
  const int64_t side = cnnfast::strassen_side(levels), planes = cnnfast::strassen_planes(levels);
  const int64_t n = 2, line = 3, pixel = side * block + gap, line_stride = pixel * (line + 1);
  const int64_t image = (rows + line - 1) / line * line_stride;
  const Floats x = random.floats(n * image, guard), zero = filled(side * block, guard, 0.0f);
  const int64_t tiles = n * cnnfast::StrassenTiles{levels, rows, 0, 0}.per_image();
  const int64_t v_row = block + 3, v_plane = tiles * v_row, count = planes * v_plane;
  Floats made[2] = {filled(count, guard, 7.0f), filled(count, guard, 7.0f)};
  const KernelTable* tables[2] = {&base, &level};
  for (int k = 0; k < 2; ++k)
    // In two pieces of tiles and of channels.
    for (int part = 0; part < 4; ++part) {
      const int64_t first = part & 1 ? 1 : 0, middle = block / 32 * 16;
      const cnnfast::StrassenInput g{{levels, rows, first, first ? tiles - 1 : 1},
                                     x.data(),
                                     zero.data(),
                                     line,
                                     image,
                                     line_stride,
                                     pixel,
                                     block,
                                     part & 2 ? middle : 0,
                                     part & 2 ? block : middle,
                                     made[k].data() + first * v_row,
                                     v_row,
                                     v_plane};
      tables[k]->strassen.input(&g);
    }
  const std::vector<double> bounds(static_cast<size_t>(count), 0.0);  // additions alone: the same bits
  report.same("input", made[0].data(), made[1].data(), count, &bounds);
}

void compare_output(const KernelTable& base, const KernelTable& level, int levels, int64_t rows,
                    int64_t columns, int variant, Guard guard, Random& random, Report& report) {
  const int64_t side = cnnfast::strassen_side(levels), planes = cnnfast::strassen_planes(levels);
  const int64_t n = 2, block = columns + 16, width = (side - 1) * block + columns,
                stride = width + variant % 3;
  const int64_t tiles = n * cnnfast::StrassenTiles{levels, rows, 0, 0}.per_image();
  const int64_t m_row = columns + 5, m_plane = tiles * m_row, floats = (n * rows - 1) * stride + width;
  const Floats m = random.floats(planes * m_plane, guard);
  const Floats bias = random.floats(width, guard), residual = random.floats(floats, guard);
  Floats made[2] = {filled(floats, guard, 7.0f), filled(floats, guard, 7.0f)};
  const KernelTable* tables[2] = {&base, &level};
  for (int k = 0; k < 2; ++k) {
    const cnnfast::StrassenOutput g{{levels, rows, 0, tiles},
                                    m.data(),
                                    m_row,
                                    m_plane,
                                    made[k].data(),
                                    stride,
                                    block,
                                    columns,
                                    variant & 1 ? bias.data() : nullptr,
                                    variant & 2 ? residual.data() : nullptr,
                                    variant % 8,
                                    0.125f};
    tables[k]->strassen.output(&g);
  }
  const std::vector<double> bounds(static_cast<size_t>(floats), 256 * kUnit);
  report.same("output", made[0].data(), made[1].data(), floats, &bounds);
}

}  // namespace

void compare_strassen(const KernelTable& base, const KernelTable& level, Guard guard, Report& report) {
  Random random(10);
  for (int levels = 1; levels <= cnnfast::kMostStrassenLevels; ++levels)
    for (int64_t rows : {1, 2, 5, 6, 9})
      for (int64_t columns : {16, 48, 64}) {
        for (int64_t gap : {0, 5})
          compare_input(base, level, levels, rows, columns, gap, guard, random, report);
        for (int variant = 0; variant < 32; ++variant)
          compare_output(base, level, levels, rows, columns, variant, guard, random, report);
      }
}

}  // namespace compare
