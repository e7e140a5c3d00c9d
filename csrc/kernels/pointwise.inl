#pragma once
#include "kernels/pointwise.h"
#include "kernels/simd.h"

namespace {

constexpr cnnfast::PointwiseKernels pointwise_kernels() { return {0}; }

}  // namespace
