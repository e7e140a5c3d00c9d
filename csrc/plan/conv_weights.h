// The weights of a convolution in the form that its algorithm reads, and the choice of the algorithm.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "cpu/conv2d.h"
#include "cpu/strassen.h"
#include "cpu/winograd.h"

namespace cnnfast {

// Raise it whenever weights of any kind are packed in another way: files hold them as they are.
constexpr int kPackingVersion = 8;

enum class ConvKind {
  kDirect,
  kDepthwise,
  kPixels,
  kWinogradRows,
  kWinograd2,
  kWinograd3,
  kWinograd4,
  kWinograd5,
  kWinograd6,
  kWinogradStrided,
  kStrassen1,
  kStrassen2
};

// plain: weights of Winograd's algorithm are kept as they are, and every run transforms them a piece at a
// time.
struct ConvForm {
  ConvKind kind;
  bool plain = false;
};

// A form, and what it is expected to take for one picture.
struct ConvChoice {
  ConvForm form;
  double nanoseconds, bytes;
};

// The form that is expected to be quickest, or in a lean plan to cost the least in time and memory. The same
// for every batch and number of threads, so that neither changes the bits. winograd: the largest tile that
// may be used; 0 leaves out Strassen's product too.
ConvChoice choose_conv(const Conv2dSpec& spec, int winograd, bool lean);

class ConvWeights {
 public:
  // w HWIO, or KH,KW,C,M of a depthwise convolution.
  ConvWeights(ConvForm form, const Conv2dSpec& spec, const float* w);
  // What was made before: floats() of it, read where it lies.
  ConvWeights(ConvForm form, const Conv2dSpec& spec, bool finite, const float* made,
              std::shared_ptr<const void> owner);

  std::string algorithm(const Conv2dSpec& spec) const;
  static int64_t floats(ConvForm form, const Conv2dSpec& spec);
  int64_t floats() const { return floats_; }
  const float* data() const;
  // Known to hold neither infinity nor NaN; of no meaning to Winograd's algorithm and Strassen's.
  bool finite() const { return finite_; }
  // The matrix of a direct convolution, null for others.
  const PackedMatrix* matrix() const { return packed_ ? &*packed_ : nullptr; }
  void run(const Conv2dSpec& spec, const float* x, const Epilogue& epilogue, float* y) const;

 private:
  std::string algorithm_name(const Conv2dSpec& spec) const;

  ConvForm form_;
  std::optional<PackedMatrix> packed_;
  std::optional<PackedWinograd> winograd_;
  Buffer copy_;
  const float* plain_ = nullptr;
  std::shared_ptr<const void> owner_;
  int64_t floats_;
  bool finite_ = true;
};

}  // namespace cnnfast
