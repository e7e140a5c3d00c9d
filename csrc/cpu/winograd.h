// Winograd convolution: 3x3 kernels by tiles of 2x2, 4x4, 5x5 and 6x6 outputs, 5x5 kernels by 2x2 and 3x3;
// stride 1, no dilation, no groups; and F(2x2,3x3) for stride 2.
// A NaN or an infinity of the input spreads over its whole tile of outputs, and rounding errors are larger
// than those of direct arithmetic: used in compiled plans only, where it can be switched off.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "core/arena.h"
#include "core/epilogue.h"
#include "core/spec.h"
#include "kernels/winograd.h"

namespace cnnfast {

// Weights for the instruction level in use: transformed, blocks of columns [e][panel][c][column]; or `plain`,
// to be transformed in the run, blocks of columns [c][tap][column].
struct WinogradView {
  const float* data;
  int64_t c, o;
  WinogradForm form;
  bool plain;
};

class PackedWinograd {
 public:
  // w is taps x taps x c x o.
  PackedWinograd(const float* w, int64_t c, int64_t o, WinogradForm form, bool plain, int threads,
                 Life life = Life::kCall);
  // What was packed before, winograd_bytes of it, read where it lies.
  PackedWinograd(int64_t c, int64_t o, WinogradForm form, bool plain, const float* packed,
                 std::shared_ptr<const void> owner);
  PackedWinograd(PackedWinograd&&) = default;
  WinogradView view() const { return {packed_, c_, o_, form_, plain_}; }
  size_t bytes() const { return bytes_; }

 private:
  int64_t c_, o_;
  WinogradForm form_;
  bool plain_;
  size_t bytes_;
  Buffer data_;
  const float* packed_;
  std::shared_ptr<const void> owner_;
};
size_t winograd_bytes(int64_t c, int64_t o, WinogradForm form, bool plain = false);

// 3x3 and 5x5 kernels, no stride but one of 2 where that is allowed, no dilation, no groups, and enough
// channels to gain from it.
bool winograd_applies(const Conv2dSpec& spec, bool strided = false);

// Whether a form fits and is as exact as promised, with tiles of at most `largest`.
bool winograd_allows(const Conv2dSpec& spec, WinogradForm form, int largest);

// Nanoseconds that a form is expected to take on `threads` threads.
double winograd_nanoseconds(const Conv2dSpec& spec, int threads, WinogradForm form, bool plain = false);

// The tile that is expected to be quickest on `threads` threads and at most `largest`, or 0 where direct
// arithmetic is, or where Winograd does not apply.
// `once`: the weights are transformed for one call.
int winograd_tile(const Conv2dSpec& spec, int threads, int largest, bool once = false);

void conv2d_winograd(const Conv2dSpec& spec, const float* x, const WinogradView& w, const Epilogue& epilogue,
                     float* y);
inline void conv2d_winograd(const Conv2dSpec& spec, const float* x, const PackedWinograd& w,
                            const Epilogue& epilogue, float* y) {
  conv2d_winograd(spec, x, w.view(), epilogue, y);
}

// The form for the gradient of the weight, or none where direct arithmetic is expected to be quicker. It
// depends on the shape alone.
std::optional<WinogradForm> winograd_grad_form(const Conv2dSpec& spec);
// x n x h x w x c, g n x p x q x o -> dw HWIO.
void conv2d_grad_weight_winograd(const Conv2dSpec& spec, const float* x, const float* g, WinogradForm form,
                                 float* dw);

}  // namespace cnnfast
