// Normalisations: by given statistics, by those of a batch or of each picture, by neighbours and by length.
#pragma once
#include <cstdint>

#include "cuda/check.h"
#include "cuda/element.h"

namespace cnnfast::cuda {

// x is groups x rows x channels; statistics are one per group and channel, scale and shift one per channel,
// or null. All of them are float32.
struct NormShape {
  int64_t groups, rows, channels;
};

// y = act((x - mean) * scale / sqrt(var + eps) + shift).
void normalize(DType type, NormShape s, const void* x, const float* mean, const float* var,
               const float* scale, const float* shift, double eps, int activation, float slope, void* y,
               cudaStream_t stream);

// Mean and variance (of the group itself, divided by the number of rows) over the rows of each group.
int64_t statistics_workspace(NormShape s);
void statistics(DType type, NormShape s, const void* x, float* mean, float* var, void* workspace,
                cudaStream_t stream);

// Sums over rows of g x' (dscale) and of g (dshift), one per group and channel, with x' = (x - mean) /
// sqrt(var + eps), or x - mean where var is null; g as far as it comes through act: none, ReLU or ReLU6.
// Workspace as for `statistics`.
void normalize_grad_sums(DType type, NormShape s, const void* g, const void* x, const float* mean,
                         const float* var, const float* scale, const float* shift, double eps, int activation,
                         float* dscale, float* dshift, void* workspace, cudaStream_t stream);
// The gradient of statistics and normalisation together: these sums, and dx.
void normalize_grad(DType type, NormShape s, const void* g, const void* x, const float* mean,
                    const float* var, const float* scale, const float* shift, double eps, int activation,
                    void* dx, float* dscale, float* dshift, void* workspace, cudaStream_t stream);

// y = x / (k + alpha * sum of x^2 over channels c - before .. c + after)^beta.
struct LocalResponse {
  int64_t rows, channels, before, after;
  float k, alpha, beta;
};
void local_response_norm(DType type, const LocalResponse& s, const void* x, void* y, cudaStream_t stream);
// `workspace`: one float per element of x.
void local_response_norm_grad(DType type, const LocalResponse& s, const void* x, const void* g, void* dx,
                              float* workspace, cudaStream_t stream);

// Columns of outer x k x inner divided by max(length, eps).
void l2_normalize(DType type, int64_t outer, int64_t k, int64_t inner, double eps, const void* x, void* y,
                  cudaStream_t stream);

}  // namespace cnnfast::cuda
