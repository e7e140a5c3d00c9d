#pragma once
#include <cstdint>

namespace cnnfast {

enum class Reduction : int { kSum, kSquares, kMaximum, kMinimum };

// Columns of k values, `step` floats apart: y = (x - mean) * factor + shift.
struct WideAffine {
  const float* x;
  float* y;
  int64_t k, step, columns;
  const double *mean, *factor, *shift;  // one per column
};

// One reduction for every column of `columns` values: k rows, `step` apart. best: its largest or smallest
// value, g: its gradient, dx: that divided among the values that are the best.
struct ExtremeColumns {
  const float *x, *best, *g;
  float* dx;
  int64_t k, step, columns;
};

struct ReduceKernels {
  // y[r] = reduction of x[r * k .. r * k + k), k >= 1.
  void (*rows)(Reduction, const float* x, int64_t rows, int64_t k, double* y);
  // y[j] = reduction of x[i * step + j] over i < k; with a mean, of x - mean[j].
  void (*columns)(Reduction, const float* x, int64_t k, int64_t step, int64_t columns, const double* mean,
                  double* y);
  void (*affine)(const WideAffine*);
  // Rows of k values; t.columns is the number of rows.
  void (*extreme_grad_rows)(const ExtremeColumns*);
  void (*extreme_grad_columns)(const ExtremeColumns*);
};

}  // namespace cnnfast
