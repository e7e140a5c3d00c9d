#include "plan/conv_weights.h"

#include <algorithm>

#include "core/threads.h"

namespace cnnfast {

ConvKind choose_conv(const Conv2dSpec& s, bool winograd) {
  if (s.groups == s.c && s.c > 1) return ConvKind::kDepthwise;
  if (winograd) {
    Conv2dSpec picture = s;
    picture.n = 1;
    const int tile = winograd_tile(picture, 1);
    if (tile) return tile == 4 ? ConvKind::kWinograd4 : ConvKind::kWinograd6;
  }
  return ConvKind::kDirect;
}

ConvWeights::ConvWeights(ConvKind kind, const Conv2dSpec& s, const float* w)
    : kind_(kind), bytes_(s.depth() * s.o * static_cast<int64_t>(sizeof(float))) {
  switch (kind) {
    case ConvKind::kDepthwise:
      plain_ = Buffer(static_cast<size_t>(bytes_));
      std::copy_n(w, s.depth() * s.o, plain_.floats());
      break;
    case ConvKind::kDirect:
      packed_.emplace(pack_conv2d(w, s.kh, s.kw, s.c / s.groups, s.o, s.groups));
      break;
    case ConvKind::kWinograd4:
    case ConvKind::kWinograd6:
      winograd_.emplace(w, s.c, s.o, kind == ConvKind::kWinograd4 ? 4 : 6, num_threads());
      bytes_ = static_cast<int64_t>(winograd_->bytes());
  }
}

const char* ConvWeights::algorithm(const Conv2dSpec& s) const {
  switch (kind_) {
    case ConvKind::kDepthwise:
      return "depthwise";
    case ConvKind::kWinograd4:
      return "Winograd F(4,3)";
    case ConvKind::kWinograd6:
      return "Winograd F(6,3)";
    case ConvKind::kDirect:
      break;
  }
  return conv2d_algorithm(s);
}

void ConvWeights::run(const Conv2dSpec& s, const float* x, const Epilogue& epilogue, float* y) const {
  switch (kind_) {
    case ConvKind::kDepthwise:
      return depthwise_conv2d(s, x, plain_.floats(), epilogue, y);
    case ConvKind::kDirect:
      return conv2d(s, x, nullptr, &*packed_, epilogue, y);
    case ConvKind::kWinograd4:
    case ConvKind::kWinograd6:
      return conv2d_winograd(s, x, *winograd_, epilogue, y);
  }
}

}  // namespace cnnfast
