// 1x1 convolutions by Strassen's product, one level of it: 7 instead of 8 products of blocks of pixel pairs
// by halves of the channels. An error is relative to all the values of a pair of pixels, and a NaN or an
// infinity spreads over the pair: used in compiled plans only, where it can be switched off.
#pragma once
#include <cstdint>

#include "core/epilogue.h"
#include "core/spec.h"

namespace cnnfast {

// Channels in and out come in multiples of this: blocks are whole vectors of any level.
constexpr int64_t kStrassenUnit = 32;

// Whether it applies, and is expected to be quicker by enough. The same for every batch.
bool strassen_pays(const Conv2dSpec& spec);

int64_t strassen_floats(int64_t c, int64_t o);
// w c x o -> the form that the products read, strassen_floats of it.
void pack_strassen(const float* w, int64_t c, int64_t o, float* packed, int threads);

void conv2d_strassen(const Conv2dSpec& spec, const float* x, const float* packed, const Epilogue& epilogue,
                     float* y);

}  // namespace cnnfast
