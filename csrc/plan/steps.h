// What a plan can be made of: one function per kind of step, each a call of csrc/cpu with everything but
// the memory settled.
#pragma once
#include "cpu/conv2d.h"
#include "cpu/depthwise_block.h"
#include "cpu/gated_conv2d.h"
#include "cpu/norm.h"
#include "cpu/pointwise.h"
#include "cpu/pool.h"
#include "cpu/reduce.h"
#include "cpu/resample.h"
#include "cpu/roi.h"
#include "plan/conv_weights.h"
#include "plan/plan.h"

namespace cnnfast {

struct Finish {  // the epilogue of a step
  Place bias, residual;
  int activation = kNone;
  float slope = 0.0f;
};

void add_conv2d(Plan& plan, const Conv2dSpec& spec, std::shared_ptr<const ConvWeights> weights,
                const Place& x, const Finish& finish, const Place& y);
// The convolutions before and after the depthwise one may be missing; `ld` as in BlockConv.
struct BlockStage {
  Conv2dSpec spec{};
  std::shared_ptr<const ConvWeights> weights;
  Finish finish;
  int64_t ld = 0;
};
void add_depthwise_block(Plan& plan, const BlockStage& expand, const BlockStage& filter,
                         const BlockStage& project, const Place& x, const Place& y);
// Of weights of kind kDirect.
void add_gated_conv2d(Plan& plan, const Conv2dSpec& spec, std::shared_ptr<const ConvWeights> weights,
                      const Place& x, const Place& gates, const Finish& finish, const Place& y);
// The maximum pooling of its results too: pools_sums accepts the two. Weights of kind kPixels.
void add_pooled_conv2d(Plan& plan, const Conv2dSpec& spec, const PoolSpec& pool,
                       std::shared_ptr<const ConvWeights> weights, const Place& x, const Finish& finish,
                       const Place& y);
// Weights that are known only in the run.
void add_conv2d_plain(Plan& plan, const Conv2dSpec& spec, const Place& w, const Place& x,
                      const Finish& finish, const Place& y);
void add_conv2d_transpose(Plan& plan, const ConvTransposeSpec& spec, const Place& plain,
                          std::shared_ptr<const PackedTranspose> weights, const Place& x,
                          const Finish& finish, const Place& y);
struct LinearSpec {
  int64_t rows, in, out;
};
// `w` where nothing is packed.
void add_linear(Plan& plan, const LinearSpec& spec, const Place& w,
                std::shared_ptr<const PackedMatrix> weights, const Place& x, const Finish& finish,
                const Place& y);
void add_matmul(Plan& plan, const MatmulSpec& spec, const Place& a, const Place& b, const Place& y);
void add_gram_matrix(Plan& plan, int64_t n, int64_t rows, int64_t c, const Place& x, const Place& y);

void add_pool2d(Plan& plan, const PoolSpec& spec, bool average, const Place& x, const Place& y);
void add_l2_pool2d(Plan& plan, const PoolSpec& spec, int64_t size, const Place& x, const Place& y);
struct GlobalPoolSpec {
  int64_t n, pixels, c, ldx;
};
void add_global_pool2d(Plan& plan, const GlobalPoolSpec& spec, bool average, const Place& x, const Place& y);

void add_activation(Plan& plan, int64_t count, int kind, float slope, const Place& x, const Place& y);
void add_unary(Plan& plan, Unary function, float p, float q, int64_t count, const Place& x, const Place& y);
void add_binary(Plan& plan, Binary op, const Broadcast& spec, bool alike, const Place& a, const Place& b,
                int activation, float slope, const Place& y);

struct BatchNormSpec {
  int64_t rows, c;
  double eps;
};
void add_batch_norm(Plan& plan, const BatchNormSpec& spec, const Place& x, const Place& mean,
                    const Place& var, const Place& scale, const Place& shift, const Place& y);
void add_local_response_norm(Plan& plan, const LocalResponse& spec, const Place& x, const Place& y);
void add_reduce(Plan& plan, Reduce kind, const ReduceAxes& spec, const Place& x, const Place& y);
struct L2NormalizeSpec {
  int64_t outer, k, inner;
  double eps;
};
void add_l2_normalize(Plan& plan, const L2NormalizeSpec& spec, const Place& x, const Place& y);
struct InstanceNormSpec {
  int64_t n, pixels, c;
  double eps;
};
void add_instance_norm(Plan& plan, const InstanceNormSpec& spec, const Place& x, const Place& scale,
                       const Place& shift, const Place& y);
struct SoftmaxSpec {
  int64_t outer, k, inner;
  bool log;
};
void add_softmax(Plan& plan, const SoftmaxSpec& spec, const Place& x, const Place& y);

void add_pad2d(Plan& plan, const Pad2dSpec& spec, const Place& x, const Place& y);
struct ResizeSpec {
  int64_t n, c;
  ResizeAxis vertical, horizontal;
  bool columns_first;
};
void add_resize(Plan& plan, ResizeSpec spec, const Place& x, const Place& y);
// Parts as matrices of `rows` rows and that many columns, side by side.
void add_concat(Plan& plan, int64_t rows, const std::vector<Place>& parts,
                const std::vector<int64_t>& columns, const Place& y);
void add_copy(Plan& plan, const std::vector<int64_t>& sizes, const std::vector<int64_t>& x_steps,
              const std::vector<int64_t>& y_steps, const Place& x, const Place& y);

void add_roi_pool(Plan& plan, const RoiSpec& spec, const Place& x, const Place& boxes, const Place& y);
void add_roi_align(Plan& plan, const RoiSpec& spec, int64_t samples, bool aligned, const Place& x,
                   const Place& boxes, const Place& y);

}  // namespace cnnfast
