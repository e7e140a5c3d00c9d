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

// Windows that overlap, added up: y[q * step + k] += the sum over rows r of rows[r][q * ld + k], k below n.
// Of windows that reach out of y, the first and the last ones, only what lies in 0 .. size counts; `start` is
// where the first one begins, and may be negative.
struct WindowRows {
  const float* const* rows;
  int64_t row_count;
  int64_t q, ld, n;
  int64_t start, step;
  float* y;
  int64_t size;
};

struct OuterKernels {
  int64_t widest;              // columns of one block at most
  int64_t (*rows)(int64_t n);  // rows of the tallest tile of n columns
  void (*block)(const OuterBlock*);
  void (*add_windows)(const WindowRows*);
};

}  // namespace cnnfast
