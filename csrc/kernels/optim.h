#pragma once
#include <cstdint>

namespace cnnfast {

// Numbers of a step that are the same for all values; `sign` is -1 to go uphill. All arrays have n values
// and do not overlap.

struct SgdStep {
  float lr, momentum, gain, decay, sign;  // velocity = momentum * velocity + gain * gradient
  bool nesterov, first;                   // the first velocity is the gradient itself
};

struct RmspropStep {
  float lr, alpha, rest, eps, decay, momentum, sign;  // square = alpha * square + rest * gradient^2
};

struct AdamStep {
  float size;                 // lr / (1 - beta1^t)
  float rest1, beta2, rest2;  // 1 - beta1, beta2, 1 - beta2
  float root, eps;            // sqrt(1 - beta2^t)
  float decay, keep, sign;    // decay joins the gradient; keep = 1 - lr * decay multiplies the parameter
};

struct OptimKernels {
  void (*sgd)(const SgdStep*, float* p, const float* g, float* velocity, int64_t n);  // velocity: null
  void (*rmsprop)(const RmspropStep*, float* p, const float* g, float* square, float* mean, float* velocity,
                  int64_t n);  // mean, velocity: null where not centred, without momentum
  void (*adam)(const AdamStep*, float* p, const float* g, float* mean, float* square, float* largest,
               int64_t n);                                                // largest: null
  void (*approach)(float share, float* y, const float* x, int64_t n);     // y += share (x - y)
  void (*add_scaled)(float factor, float* y, const float* x, int64_t n);  // y += factor x
  double (*dot)(const float* a, const float* b, int64_t n);               // at most 4096 values
};

}  // namespace cnnfast
