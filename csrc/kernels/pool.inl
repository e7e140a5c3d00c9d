#pragma once
#include "kernels/pool.h"
#include "kernels/simd.h"

namespace {

constexpr cnnfast::PoolKernels pool_kernels() { return {0}; }

}  // namespace
