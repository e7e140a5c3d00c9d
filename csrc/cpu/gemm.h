// Packed weights and the blocked driver that convolution, dense layers and transpose convolution share.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>

#include "core/arena.h"
#include "core/epilogue.h"

namespace cnnfast {

// A matrix B per group, depth x columns. Either panels of the level in use (row_stride 0) or plain
// row-major memory that is read where it lies; then the columns past the last whole vector are
// repeated in `tail`, packed.
struct MatrixView {
  const float* data;
  const float* tail;
  int64_t group_stride, row_stride, tail_stride;
  int64_t groups, depth, columns;
  bool finite;  // known to hold neither infinity nor NaN, so that zeros of A may be skipped
};

class PackedMatrix {
 public:
  // The rows come in `slices` of equal length, each with its own source: element (k, j) of slice s in
  // group g is sources[s][g * group_stride + k * row_stride + j * column_stride].
  PackedMatrix(const float* const* sources, int64_t slices, int64_t slice_rows, int64_t groups,
               int64_t columns, int64_t group_stride, int64_t row_stride, int64_t column_stride, int threads,
               Life life = Life::kCall);
  // What was packed before, floats() in number, read where it lies.
  PackedMatrix(int64_t groups, int64_t depth, int64_t columns, bool finite, const float* packed,
               std::shared_ptr<const void> owner);
  MatrixView view() const {
    return {packed_, nullptr, group_floats_, 0, 0, groups_, depth_, columns_, finite_};
  }
  int64_t floats() const { return groups_ * group_floats_; }
  static int64_t floats(int64_t groups, int64_t depth, int64_t columns);

 private:
  int64_t groups_, depth_, columns_, group_floats_;
  bool finite_;
  Buffer data_;
  const float* packed_;
  std::shared_ptr<const void> owner_;
};

// Weights for one call that are not packed yet: read where they lie, or packed first, whichever is
// quicker for `rows` output rows. Matrix (groups side by side) with `stride` values per row.
class CallWeights {
 public:
  CallWeights(const float* w, int64_t rows, int64_t groups, int64_t depth, int64_t columns, int threads);
  const MatrixView& view() const { return view_; }

 private:
  std::optional<PackedMatrix> packed_;
  Buffer tail_;
  MatrixView view_;
};

// C = epilogue(A B) with A given by row pointers: for output rows first .. first + count,
// fill(context, first, count, rows, out, ends) writes rows[t * count + i] for every tap t, each pointing
// at `len` values (plus g * len for group g), and out[i]. It returns the number of segments whose ends
// it wrote: tiles do not reach from one segment into the next. The order of summation depends on taps
// and len only.
struct IndirectGemm {
  int64_t (*fill)(const void* context, int64_t first, int64_t count, const float** rows, float** out,
                  int64_t* ends);
  const void* context;
  const float* zero;  // what rows in the padding point at, or null
  int64_t rows;
  int64_t taps, len;
  MatrixView b;
  const float* out_base;  // where the output begins; the residual is laid out alike
  int64_t out_step;       // floats from one row of the output to another are multiples of it
  Epilogue epilogue;
  int64_t fetch_step = 0;  // see GemmBlock
};
// Several at once, block by block, so that neighbouring blocks of all of them share the cache.
void run_gemms(const IndirectGemm* gemms, int64_t count, int threads);

// The same for lines of `m` output rows whose rows of A lie `row_step` values apart: tap t of row i of line l
// is at taps[l * gemm.taps + t] + i * row_step, its result at out + l * line_step + i * out_step. `len` is at
// most kLineLength; one group.
constexpr int64_t kLineLength = 768;
struct LineGemm {
  int64_t m, row_step, out_step, taps, len;
  MatrixView b;
  const float* out_base;
  int64_t rows;  // of all lines, which so many threads take
  int threads;
  Epilogue epilogue;
};
void run_lines(const LineGemm& gemm, int64_t lines, const float* const* taps, float* out, int64_t line_step);

// Plain rows: A is rows x (groups * depth), C is rows x (groups * columns); lda and ldc floats from row to
// row. A residual lies as C does.
void dense_gemm(const float* a, int64_t lda, int64_t rows, const MatrixView& b, const Epilogue& epilogue,
                float* out, int64_t ldc, int threads);

// Nanoseconds one thread needs for `flops`, roughly; decides how many threads are woken.
inline double gemm_nanoseconds(double flops) { return flops / 60; }
// FLOPs a nanosecond of large products on one thread, in estimates that choose between algorithms.
constexpr double kProductFlops = 105;

}  // namespace cnnfast
