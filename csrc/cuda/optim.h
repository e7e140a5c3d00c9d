// Steps of optimisers, in place: the formulas of kernels/optim.h, in one pass over parameter, gradient and
// state; and bounds on gradients. One launch goes over all tensors of a call.
#pragma once
#include <initializer_list>
#include <vector>

#include "cuda/check.h"
#include "kernels/optim.h"

namespace cnnfast::cuda {

// The tensors of a launch: for each the arrays of n values that a step reads and writes, which do not overlap
// but where it says so; null where a setting does without.
class Tensors {
 public:
  static constexpr int kArrays = 5;
  struct Row {
    float* arrays[kArrays];
    int64_t n;
    int64_t first;  // the number of its first block
  };
  void add(const std::vector<float*>& arrays, int64_t n);
  size_t bytes() const { return rows_.size() * sizeof(Row); }
  int64_t blocks() const { return blocks_; }
  // Copies the rows to device memory of bytes(), in the order of the stream.
  const Row* upload(void* table, cudaStream_t stream) const;
  int count() const { return static_cast<int>(rows_.size()); }

 private:
  std::vector<Row> rows_;
  int64_t blocks_ = 0;
};

// `table` is device memory of tensors.bytes(). Arrays, in their order:
// parameter, gradient, velocity;
void sgd(const SgdStep& step, const Tensors& tensors, void* table, cudaStream_t stream);
// parameter, gradient, square, mean, velocity;
void rmsprop(const RmspropStep& step, const Tensors& tensors, void* table, cudaStream_t stream);
// parameter, gradient, mean, square, largest;
void adam(const AdamStep& step, const Tensors& tensors, void* table, cudaStream_t stream);
// y and x: y += share (x - y), and y += factor x.
void approach(float share, const Tensors& tensors, void* table, cudaStream_t stream);
void add_scaled(float factor, const Tensors& tensors, void* table, cudaStream_t stream);
// y and x, which may be one: y = x times `factor`, and times *by where that is not null. *unsound becomes 1,
// where it is not null, if a product is not finite.
void scale(float factor, const float* by, int32_t* unsound, const Tensors& tensors, void* table,
           cudaStream_t stream);
// y and x, which may be one: x held within -bound and bound; NaN stays.
void clip(float bound, const Tensors& tensors, void* table, cudaStream_t stream);
// result[0]: the root of the sum of squares of all values of all tensors, or the largest absolute value;
// result[1]: min(1, most / (result[0] + 1e-6)), NaN where that is not a number. `parts` has one place for
// each block. Sums are in double precision and of one order.
void norm(bool largest, double most, const Tensors& tensors, void* table, double* parts, float* result,
          cudaStream_t stream);

}  // namespace cnnfast::cuda
