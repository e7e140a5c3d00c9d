// Packed weights and the blocked driver that convolution, dense layers and transpose convolution share.
#pragma once
#include <cstdint>

#include "core/arena.h"
#include "core/epilogue.h"

namespace cnnfast {

// A matrix B per group, depth x columns. Either panels of the level in use (row_stride 0) or plain
// row-major memory that is read where it lies.
struct MatrixView {
  const float* data;
  int64_t group_stride, row_stride;
  int64_t groups, depth, columns;
};

class PackedMatrix {
 public:
  // Element (group, k, j) is source[group * group_stride + k * row_stride + j * column_stride].
  PackedMatrix(const float* source, int64_t groups, int64_t depth, int64_t columns, int64_t group_stride,
               int64_t row_stride, int64_t column_stride, int threads);
  MatrixView view() const { return {data_.floats(), group_floats_, 0, groups_, depth_, columns_}; }

 private:
  int64_t groups_, depth_, columns_, group_floats_;
  Buffer data_;
};

// C = epilogue(A B) with A given by row pointers: for output rows first .. first + count,
// fill(context, first, count, rows, out) writes rows[t * count + i] for every tap t, each pointing at
// `len` values (plus g * len for group g), and out[i]. The order of summation depends on taps and len only.
struct IndirectGemm {
  void (*fill)(const void* context, int64_t first, int64_t count, const float** rows, float** out);
  const void* context;
  int64_t rows;
  int64_t taps, len;
  MatrixView b;
  const float* out_base;  // where the output begins; the residual is laid out alike
  Epilogue epilogue;
};
void run_gemm(const IndirectGemm& gemm, int threads);

// Plain rows: A is rows x (groups * depth), C is rows x (groups * columns), both contiguous.
void dense_gemm(const float* a, int64_t rows, const MatrixView& b, const Epilogue& epilogue, float* out,
                int threads);

// Whether B (row-major, not packed) is better read where it lies than packed for this one call.
bool reads_plain(int64_t rows, int64_t columns);

// Nanoseconds one thread needs for `flops`, roughly; decides how many threads are woken.
inline double gemm_nanoseconds(double flops) { return flops / 60; }

}  // namespace cnnfast
