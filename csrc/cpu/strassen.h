// 1x1 convolutions by Strassen's product, one or two levels of it: 7 instead of 8 products of blocks of
// pixels by blocks of channels. An error is relative to all the values of a tile of 2 or 4 neighbouring
// pixels, and a NaN or an infinity spreads over it: used in compiled plans only, where it can be switched
// off.
#pragma once
#include <cstdint>

#include "core/epilogue.h"
#include "core/spec.h"
#include "kernels/strassen.h"

namespace cnnfast {

// Blocks of channels, in and out, are whole vectors of any level of instructions.
constexpr int64_t strassen_unit(int levels) { return 16 * strassen_side(levels); }

// 1x1 convolutions of enough channels, in whole units, and enough work to gain from so many levels.
bool strassen_applies(const Conv2dSpec& spec, int levels);
// Nanoseconds that they are expected to take on `threads` threads, by a cautious estimate; more so for lean
// plans.
double strassen_nanoseconds(const Conv2dSpec& spec, int threads, int levels, bool lean);

int64_t strassen_floats(int64_t c, int64_t o, int levels);
// w c x o -> the form that the products read, strassen_floats of it.
void pack_strassen(const float* w, int64_t c, int64_t o, int levels, float* packed, int threads);

void conv2d_strassen(const Conv2dSpec& spec, const float* x, const float* packed, int levels,
                     const Epilogue& epilogue, float* y);

}  // namespace cnnfast
