#pragma once
#include <cstdint>
#include <vector>

namespace cnnfast {

// Elements of one array into another of the same sizes: slices, transpositions, repetitions. Steps are in
// floats; those of x may be zero or negative.
class StridedCopy {
 public:
  StridedCopy(const std::vector<int64_t>& sizes, const std::vector<int64_t>& x_steps,
              const std::vector<int64_t>& y_steps);
  void run(const float* x, float* y) const;

 private:
  struct Axis {
    int64_t size, x, y;
  };
  std::vector<Axis> axes_;  // outermost first, at least two
  int64_t count_ = 1;
};

}  // namespace cnnfast
