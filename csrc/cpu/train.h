// Batch normalisation by the statistics of the batch, gradients of activations and pooling, cross-entropy.
#pragma once
#include <cstdint>

#include "cpu/pool.h"
#include "kernels/train.h"

namespace cnnfast {

// Rows of c values: y = act((x - mean) * scale / sqrt(var + eps) + shift), with mean and variance of each
// column; scale and shift may be null. `activation`: kNone, kRelu or kRelu6.
void batch_norm_train(int64_t rows, int64_t c, const float* x, const float* scale, const float* shift,
                      double eps, int activation, float* y, float* mean, float* var);
void batch_norm_train_grad(int64_t rows, int64_t c, const float* g, const float* x, const float* mean,
                           const float* var, const float* scale, const float* shift, double eps,
                           int activation, float* dx, float* dscale, float* dshift);

// Sums over rows of c values of g, and of g * (x - mean), in double precision: what the gradient by given
// statistics is made of.
void batch_norm_grad_sums(int64_t rows, int64_t c, const float* g, const float* x, const float* mean,
                          double* sums, double* products);

// See TrainKernels::activation_grad.
void activation_grad(int kind, float slope, const float* g, const float* v, float* y, int64_t n);

// dx n x h x w x c. Of equal values in a window the first gets the gradient.
void max_pool2d_grad(const PoolSpec& s, const float* g, const float* x, float* dx);
void avg_pool2d_grad(const PoolSpec& s, const float* g, float* dx);

// loss[r] and gradient r x k of the cross-entropy of softmax(x[r]); labels that are `ignored`, or not in
// 0 .. k, give zeros.
void softmax_cross_entropy(int64_t rows, int64_t k, const float* x, const int64_t* labels, double smoothing,
                           int64_t ignored, float* loss, float* gradient);

// See TrainKernels::sigmoid_cross_entropy.
void sigmoid_cross_entropy(SigmoidLoss what, const SigmoidRun& all);

}  // namespace cnnfast
