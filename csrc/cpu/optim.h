// Steps of optimisers over whole arrays, in place; see kernels/optim.h for the numbers.
#pragma once
#include <vector>

#include "kernels/optim.h"

namespace cnnfast {

// A parameter, its gradient, and its velocity or null; n values each.
struct SgdArrays {
  float* p;
  const float* g;
  float* velocity;
  int64_t n;
};
// All parameters in one go: many are too small for more than one thread.
void sgd(const SgdStep& step, const std::vector<SgdArrays>& all);
void rmsprop(const RmspropStep& step, int64_t n, float* p, const float* g, float* square, float* mean,
             float* velocity);
void adam(const AdamStep& step, int64_t n, float* p, const float* g, float* mean, float* square,
          float* largest);
// y += share (x - y); y += factor x.
void approach(float share, int64_t n, float* y, const float* x);
void add_scaled(float factor, int64_t n, float* y, const float* x);
// The same bits for any number of threads: blocks of one size, added in their order.
double dot(int64_t n, const float* a, const float* b);

}  // namespace cnnfast
