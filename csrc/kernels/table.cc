// Compiled once per instruction level with CNNFAST_LEVEL_* and CNNFAST_TABLE set; exports that one
// symbol and nothing else.
#include "kernels/table.h"
#include "kernels/simd.h"
#include "kernels/activation.inl"
#include "kernels/gemm.inl"
#include "kernels/depthwise.inl"
#include "kernels/pixel_lanes.inl"
#include "kernels/pool.inl"
#include "kernels/pointwise.inl"
#include "kernels/norm.inl"
#include "kernels/reduce.inl"
#include "kernels/resample.inl"
#include "kernels/boxes.inl"
#include "kernels/roi.inl"
#include "kernels/winograd.inl"
#include "kernels/winograd_weights.inl"
#include "kernels/row_winograd.inl"
#include "kernels/strassen.inl"
#include "kernels/outer.inl"
#include "kernels/depthwise_grad.inl"
#include "kernels/pool_grad.inl"
#include "kernels/train.inl"
#include "kernels/optim.inl"

#define CNNFAST_STRING_(x) #x
#define CNNFAST_STRING(x) CNNFAST_STRING_(x)

namespace {

static double spin_fma(int64_t steps) {
  constexpr int kChains = VL == 8 || VL == 4 ? 12 : 24;
  vf acc[kChains];
  CNNFAST_UNROLL
  for (int i = 0; i < kChains; ++i) acc[i] = splat(1.0f + i);
  vf scale = splat(0.5f), shift = splat(0.25f);
  for (int64_t s = 0; s < steps; ++s) {
    CNNFAST_UNROLL
    for (int i = 0; i < kChains; ++i) acc[i] = fma(acc[i], scale, shift);
    asm volatile("" ::: "memory");
  }
  vf total = {};
  CNNFAST_UNROLL
  for (int i = 0; i < kChains; ++i) total += acc[i];
  // The sum is finite, so nothing is lost, and the compiler must keep the loop.
  return 2.0 * VL * kChains * static_cast<double>(steps) + 0.0 * sum_lanes(total);
}

}  // namespace

extern "C" {
extern const cnnfast::KernelTable CNNFAST_TABLE;
const cnnfast::KernelTable CNNFAST_TABLE = {
    CNNFAST_STRING(CNNFAST_LEVEL),
    VL,
    gemm_kernels(),
    depthwise_kernels(),
    pixel_kernels(),
    pool_kernels(),
    pointwise_kernels(),
    norm_kernels(),
    reduce_kernels(),
    resample_kernels(),
    box_kernels(),
    roi_kernels(),
    winograd_kernels(),
    row_winograd_kernels(),
    strassen_kernels(),
    outer_kernels(),
    depthwise_grad_kernels(),
    pool_grad_kernels(),
    train_kernels(),
    optim_kernels(),
    spin_fma,
};
}
