// The weights of a convolution in the form that its algorithm reads, and the choice of the algorithm.
#pragma once
#include <cstdint>
#include <optional>

#include "cpu/conv2d.h"
#include "cpu/winograd.h"

namespace cnnfast {

enum class ConvKind { kDirect, kDepthwise, kWinograd4, kWinograd6 };

// The same for every batch and number of threads, so that neither changes the bits.
ConvKind choose_conv(const Conv2dSpec& spec, bool winograd);

class ConvWeights {
 public:
  // w HWIO, or KH,KW,C,M where the kind is depthwise.
  ConvWeights(ConvKind kind, const Conv2dSpec& spec, const float* w);

  ConvKind kind() const { return kind_; }
  const char* algorithm(const Conv2dSpec& spec) const;
  int64_t bytes() const { return bytes_; }
  void run(const Conv2dSpec& spec, const float* x, const Epilogue& epilogue, float* y) const;

 private:
  ConvKind kind_;
  std::optional<PackedMatrix> packed_;
  std::optional<PackedWinograd> winograd_;
  Buffer plain_;
  int64_t bytes_;
};

}  // namespace cnnfast
