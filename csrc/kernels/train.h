#pragma once
#include <cstdint>

namespace cnnfast {

// Rows of n values under vectors of n values: sums of the differences x - mean, and of their squares.
struct MomentRows {
  const float* x;
  const float* mean;
  float *sums, *squares;  // n each
  int64_t rows, n;
};

// Rows of n values: what batch normalisation does with a gradient. With an activation (kRelu, kRelu6) g
// counts only where (x - mean) * factor + shift is not where its slope is zero.
struct NormGradRows {
  const float *x, *g;
  const float *mean, *factor, *shift;
  float *sums, *products;  // of g, and of g * (x - mean)
  float* dx;               // factor * (g - level - (x - mean) * slope)
  const float *level, *slope;
  int64_t rows, n;
  int activation;
};

// Cross-entropy of the sigmoid of x with a target t, w t softplus(-x) + (1 - t) softplus(x), and its
// gradients.
enum class SigmoidLoss : int { kLoss, kByScore, kByTarget };
struct SigmoidRun {
  const float *g, *x, *t;  // g: of the loss, for gradients
  float* y;
  int64_t n;
  float weight;
};

struct TrainKernels {
  void (*moments)(const MomentRows*);
  void (*norm_sums)(const NormGradRows*);
  void (*norm_grad)(const NormGradRows*);
  // y = g * derivative of an activation at v: its result for relu, relu6, sigmoid and tanh, its argument for
  // the others.
  void (*activation_grad)(int kind, float slope, const float* g, const float* v, float* y, int64_t n);
  void (*sigmoid_cross_entropy)(SigmoidLoss what, const SigmoidRun*);
};

}  // namespace cnnfast
