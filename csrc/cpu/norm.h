// Batch normalisation in its inference form, local response normalisation, softmax.
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

// Over the middle axis of outer x k x inner values.
void softmax(int64_t outer, int64_t k, int64_t inner, bool log, const float* x, float* y);

}  // namespace cnnfast
