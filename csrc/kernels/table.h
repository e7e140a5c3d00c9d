// Every kernel of one instruction level as C function pointers. Only C types cross this border.
#pragma once
#include "kernels/gemm.h"
#include "kernels/depthwise.h"
#include "kernels/pixel_lanes.h"
#include "kernels/pool.h"
#include "kernels/pointwise.h"
#include "kernels/norm.h"
#include "kernels/reduce.h"
#include "kernels/resample.h"
#include "kernels/boxes.h"
#include "kernels/roi.h"
#include "kernels/winograd.h"
#include "kernels/row_winograd.h"
#include "kernels/strassen.h"
#include "kernels/outer.h"
#include "kernels/depthwise_grad.h"
#include "kernels/pool_grad.h"
#include "kernels/train.h"
#include "kernels/optim.h"

namespace cnnfast {

struct KernelTable {
  const char* level;
  int vl;  // floats per vector
  GemmKernels gemm;
  DepthwiseKernels depthwise;
  PixelKernels pixels;
  PoolKernels pool;
  PointwiseKernels pointwise;
  NormKernels norm;
  ReduceKernels reduce;
  ResampleKernels resample;
  BoxKernels boxes;
  RoiKernels roi;
  WinogradKernels winograd;
  RowWinogradKernels row_winograd;
  StrassenKernels strassen;
  OuterKernels outer;
  DepthwiseGradKernels depthwise_grad;
  PoolGradKernels pool_grad;
  TrainKernels train;
  OptimKernels optim;
  // Runs `steps` dependent rounds of independent FMAs and returns the FLOPs done: the peak of a core.
  double (*spin_fma)(int64_t steps);
};

// The table in use: the best level this CPU has, or the one that CNNFAST_ISA names.
const KernelTable& kernels();

}  // namespace cnnfast
