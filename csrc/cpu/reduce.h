// Reductions over axes, and normalisations by statistics of the array itself.
#pragma once
#include <cstdint>
#include <optional>
#include <vector>

#include "cpu/copy.h"

namespace cnnfast {

enum class Reduce : int { kSum, kMean, kMaximum, kMinimum, kLength };

// Reduction over the middle axis of outer x k x inner values. Axes that do not stand together are brought
// together at the end of a copy first; `scatter` takes them back.
struct ReduceAxes {
  int64_t outer = 1, k = 1, inner = 1;
  std::optional<StridedCopy> gather, scatter;

  // `axes`: in rising order.
  ReduceAxes(const std::vector<int64_t>& sizes, const std::vector<int64_t>& axes);
};

// In double precision, rounded once. NaN comes through.
void reduce(Reduce kind, const ReduceAxes& s, const float* x, float* y);

// dx of a sum, mean, maximum or minimum from the gradient g of the result; x and the result y are read for
// the extremes alone, whose gradient is shared out among equal values.
void reduce_grad(Reduce kind, const ReduceAxes& s, const float* g, const float* x, const float* y, float* dx);

// y = x / max(length, eps) over the middle axis of outer x k x inner values.
void l2_normalize(int64_t outer, int64_t k, int64_t inner, double eps, const float* x, float* y);

// y = (x - mean) / sqrt(variance + eps) * scale + shift over n pictures of c channels, with the statistics of
// every channel of every picture; scale and shift may be null.
void instance_norm(int64_t n, int64_t pixels, int64_t c, const float* x, const float* scale,
                   const float* shift, double eps, float* y);
void instance_norm_grad(int64_t n, int64_t pixels, int64_t c, const float* g, const float* x,
                        const float* scale, double eps, float* dx, float* dscale, float* dshift);

}  // namespace cnnfast
