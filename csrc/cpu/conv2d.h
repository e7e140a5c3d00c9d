#pragma once
#include <vector>

#include "core/spec.h"
#include "cpu/gemm.h"
#include "cpu/pointwise.h"
#include "kernels/depthwise.h"

namespace cnnfast {

// x NHWC, w HWIO (groups side by side in O); `packed` replaces w where given. y has n * p * q * o floats.
void conv2d(const Conv2dSpec& spec, const float* x, const float* w, const PackedMatrix* packed,
            const Epilogue& epilogue, float* y);
// Output lines p0 .. p1 of one picture, from y on, by this thread alone, for others who go by bands of rows.
// Of few channels, as conv2d takes by kernel rows; without a residual.
void conv2d_lines(const Conv2dSpec& spec, const float* x, const MatrixView& b, const Epilogue& epilogue,
                  int64_t p0, int64_t p1, float* y);
// Whether the depthwise kernel takes it, which reads weights as they are and whole pixels: one channel a
// group, or as many in as out, so few that a vector holds whole groups.
bool channels_across_lanes(const Conv2dSpec& spec);
// What conv2d takes for this call.
const char* conv2d_algorithm(const Conv2dSpec& spec);
// Weights HWIO packed for any input size and stride.
PackedMatrix pack_conv2d(const float* w, int64_t kh, int64_t kw, int64_t c_per_group, int64_t o,
                         int64_t groups);

// w KH,KW,C,M; spec.groups = c, spec.o = c * M. Or what channels_across_lanes accepts, w HWIO.
// finite: w is known to hold neither infinity nor NaN.
void depthwise_conv2d(const Conv2dSpec& spec, const float* x, const float* w, bool finite,
                      const Epilogue& epilogue, float* y);
bool all_finite(const float* values, int64_t count);
// For others who filter rows: what the kernel is told of a picture but for its arrays, and the call of the
// kernel, for rows p0 .. p1 and channels c0 .. c1.
DepthwiseImage depthwise_image(const Conv2dSpec& spec, const float* w, bool finite, const Epilogue& epilogue);
void depthwise_band(const DepthwiseImage& image, int64_t p0, int64_t p1, int64_t c0, int64_t c1);

// w KH,KW,O/groups,C: one packed matrix per phase of output pixels that see the same taps.
class PackedTranspose {
 public:
  PackedTranspose(const ConvTransposeSpec& spec, const float* w, int threads);
  explicit PackedTranspose(std::vector<PackedMatrix> phases) : phases_(std::move(phases)) {}
  PackedTranspose(PackedTranspose&&) = default;
  // Depth of every phase.
  static std::vector<int64_t> depths(const ConvTransposeSpec& spec);
  const std::vector<PackedMatrix>& phases() const { return phases_; }
  bool finite() const {
    for (const PackedMatrix& phase : phases_)
      if (!phase.view().finite) return false;
    return true;
  }
  MatrixView phase(size_t i) const { return phases_[i].view(); }

 private:
  std::vector<PackedMatrix> phases_;
};
// `plain` are the weights that were packed.
void conv2d_transpose(const ConvTransposeSpec& spec, const float* x, const float* plain,
                      const PackedTranspose& w, const Epilogue& epilogue, float* y);

// x rows x in, w in x out.
void linear(int64_t rows, int64_t in, int64_t out, const float* x, const float* w, const PackedMatrix* packed,
            const Epilogue& epilogue, float* y);

// x n x rows x c -> n x c x c, each X^T X.
// Stacks of matrices, rows x depth by depth x columns; the stacks broadcast.
struct MatmulSpec {
  int64_t rows, depth, columns;
  Broadcast stacks;
};
void matmul(const MatmulSpec& s, const float* a, const float* b, float* y);
void gram_matrix(int64_t n, int64_t rows, int64_t c, const float* x, float* y);

// True when CNNFAST_VERBOSE=1: print one line per call on stderr.
bool verbose();
void say_choice(const char* op, const char* chosen, const char* why);

}  // namespace cnnfast
