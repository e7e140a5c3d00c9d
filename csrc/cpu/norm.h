// Batch normalisation in its inference form, local response normalisation, softmax; gradients of the latter
// two.
#pragma once
#include <cstdint>

namespace cnnfast {

// y = (x - mean) / sqrt(var + eps) * scale + shift over rows of c channels; scale and shift may be null.
void batch_norm(int64_t rows, int64_t c, const float* x, const float* mean, const float* var,
                const float* scale, const float* shift, double eps, float* y);

// y = x / (k + alpha * sum of squares over the channels c - before .. c + after)^beta.
struct LocalResponse {
  int64_t rows, c, before, after;
  double k, alpha, beta;
};
void local_response_norm(const LocalResponse& s, const float* x, float* y);
// dx from x and the gradient g of y.
void local_response_norm_grad(const LocalResponse& s, const float* x, const float* g, float* dx);

// Over the middle axis of outer x k x inner values.
void softmax(int64_t outer, int64_t k, int64_t inner, bool log, const float* x, float* y);
// dx from the result y and its gradient g.
void softmax_grad(int64_t outer, int64_t k, int64_t inner, bool log, const float* g, const float* y,
                  float* dx);

}  // namespace cnnfast
