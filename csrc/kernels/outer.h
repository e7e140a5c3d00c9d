#pragma once
#include <cstdint>

namespace cnnfast {

// Pixels that follow each other: the first at a[a * a_unit] and b[b * b_step], the next ones a_step and
// b_step further.
struct OuterRun {
  int64_t a, b, count;
};

// y[i, j] (+)= sum over the pixels of all runs of a[i] * b[j], i < m, j < n.
struct OuterBlock {
  const OuterRun* runs;
  int64_t run_count;
  const float *a, *b;
  int64_t a_unit, a_step, b_step;
  int64_t ahead;  // pixels at this distance in a are fetched where they are not near; 0: none
  int64_t m, n;   // m at most rows(n); b has whole vectors, zeros after n
  float* y;
  int64_t ldy;
  bool first;  // y is overwritten
};

struct OuterKernels {
  int64_t widest;              // columns of one block at most
  int64_t (*rows)(int64_t n);  // rows of the tallest tile of n columns
  void (*block)(const OuterBlock*);
};

}  // namespace cnnfast
