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

// dx = 0 but for what a copy of g puts there.
void scatter(const StridedCopy& copy, const float* g, int64_t count, float* dx, float* first);

// dx = 0, then dx[o, indices[i], j] += g[o, i, j] in the order of i, for outer x size x inner values;
// negative indices count from the end.
void gather_grad(int64_t outer, int64_t size, int64_t inner, int64_t count, const int64_t* indices,
                 const float* g, float* dx);

}  // namespace cnnfast
