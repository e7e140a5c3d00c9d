// Convolution of few input channels by Winograd's algorithm along rows.
#pragma once
#include "core/epilogue.h"
#include "core/spec.h"

namespace cnnfast {

// Taps that a row of the kernel has for the pixels of one remainder modulo the stride.
inline int64_t row_winograd_taps(const Conv2dSpec& s) { return (s.kw + s.sw - 1) / s.sw; }
// Three to five such taps, and too few channels for tiles in two dimensions.
bool row_winograd_applies(const Conv2dSpec& spec);
double row_winograd_nanoseconds(const Conv2dSpec& spec, int threads);
// Of packed weights; w HWIO.
int64_t row_winograd_floats(const Conv2dSpec& spec);
void pack_row_winograd(const Conv2dSpec& spec, const float* w, float* packed);
void conv2d_row_winograd(const Conv2dSpec& spec, const float* x, const float* packed,
                         const Epilogue& epilogue, float* y);

}  // namespace cnnfast
