// Convolutions and matrix products on tensor cores (compute capability 8.0 and up): bfloat16, float16, and
// float32 rounded to tf32 where the caller has allowed that.
#pragma once
#include "cuda/check.h"
#include "cuda/element.h"

namespace cnnfast::cuda {

// A convolution as a product of matrices: rows are output pixels, columns output channels, and what is summed
// over runs through the taps and the channels of a group. A dense layer is one of pictures of one pixel.
struct ConvMma {
  int64_t n, h, w, c;  // input, NHWC; c counts the channels of one group
  int64_t kh, kw, o;   // taps; o counts the output channels of one group
  int64_t groups;
  int64_t sh, sw, dh, dw;  // stride, dilation
  int64_t pt, pl;          // zero rows above, zero columns left
  int64_t p, q;            // output rows, columns
  int64_t ldx;             // elements from input pixel to input pixel
  // Elements between the outputs of neighbouring pictures, rows and columns: those of a dense NHWC array, or
  // more where the outputs are one phase of a larger array.
  int64_t y_picture, y_row, y_column;

  int64_t rows() const { return n * p * q; }
  int64_t depth() const { return kh * kw * c; }
};

// What follows the sums: y = act(sum + bias + residual). The residual lies as y does.
struct MmaEpilogue {
  const float* bias = nullptr;
  const void* residual = nullptr;
  int activation = 0;
  float slope = 0.01f;
};

// Sizes of blocks and the number of parts that the sum is cut into; -1 and 0 choose.
struct MmaChoice {
  int tile = -1;
  int splits = 0;
};

// Blocks of conv_mma.cu; those numbered after them are conv_sm90.cu's of 64, 128 and 256 channels.
constexpr int kMmaTiles = 5;

// Whether the family takes arrays of this type with so many channels from pixel to pixel and in a group.
bool conv_mma_accepts(DType type, const ConvMma& s);

// Bytes of workspace that conv_mma wants for the choice; 0 where the sum is in one part.
int64_t conv_mma_workspace(DType type, const ConvMma& s, MmaChoice choice = {});

// y = act(x * w + bias + residual). w: groups, o, kh, kw, c (pack_mma); float32 is rounded to tf32.
void conv_mma(DType type, const ConvMma& s, const void* x, const void* w, void* y,
              const MmaEpilogue& epilogue, void* workspace, cudaStream_t stream, MmaChoice choice = {});

// The weights of a convolution or of its input gradient for conv_mma: of `w` (kh, kw, c, groups * o) the taps
// first, first + step, ... (rows, then columns), `reversed` in their order if asked for.
struct PackMma {
  int64_t kh, kw, c, o, groups;  // of w; c and o of one group
  int64_t padded;                // elements that the innermost axis is widened to, with zeros
  int64_t first_row, first_column, step_row, step_column, rows, columns;  // taps taken
  bool adjoint;  // (groups, c, taps, o), taps in reverse, instead of (groups, o, taps, c)

  int64_t size() const { return groups * rows * columns * padded * (adjoint ? c : o); }
};
void pack_mma(DType from, DType to, const PackMma& s, const void* w, void* packed, cudaStream_t stream);

// y (rows, to_c) = x (rows, c), cut or with zeros after it: for channels that no 8 bytes divide.
void copy_rows(DType from, DType to, int64_t rows, int64_t c, int64_t to_c, const void* x, void* y,
               cudaStream_t stream);

// dw (kh, kw, c, groups * o) = sum over pixels of x times g; s.y_* describe g. bfloat16 and float16.
int64_t conv_mma_grad_weight_workspace(DType type, const ConvMma& s, MmaChoice choice = {});
void conv_mma_grad_weight(DType type, const ConvMma& s, const void* x, const void* g, void* dw,
                          void* workspace, cudaStream_t stream, MmaChoice choice = {});

// On Hopper (conv_sm90.cu): whether it takes a call at all, how many channels its tiles should have (0: the
// calls that it is not best at), and the call.
bool conv_sm90_accepts(DType type, const ConvMma& s);
int conv_sm90_columns(const ConvMma& s);
void conv_sm90(DType type, const ConvMma& s, const void* x, const void* w, void* y,
               const MmaEpilogue& epilogue, int columns, cudaStream_t stream);

}  // namespace cnnfast::cuda
