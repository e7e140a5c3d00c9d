#include "plan/conv_weights.h"

#include <algorithm>

#include "core/threads.h"

namespace cnnfast {
namespace {

int tile_of(ConvKind kind) { return kind == ConvKind::kWinograd2 ? 2 : kind == ConvKind::kWinograd4 ? 4 : 6; }
WinogradForm form_of(ConvKind kind, const Conv2dSpec& s) { return {tile_of(kind), static_cast<int>(s.kh)}; }

// One thread waits less for weights than it computes, many wait for nothing else: something between.
constexpr int kUsualThreads = 2;

}  // namespace

ConvKind choose_conv(const Conv2dSpec& s, int winograd) {
  if (channels_across_lanes(s)) return ConvKind::kDepthwise;
  if (winograd > 0 && strassen_pays(s)) return ConvKind::kStrassen;
  Conv2dSpec picture = s;
  picture.n = 1;
  const int tile = winograd_tile(picture, kUsualThreads, winograd);
  for (ConvKind kind : {ConvKind::kWinograd2, ConvKind::kWinograd4, ConvKind::kWinograd6})
    if (tile == tile_of(kind)) return kind;
  return ConvKind::kDirect;
}

int64_t ConvWeights::floats(ConvKind kind, const Conv2dSpec& s) {
  switch (kind) {
    case ConvKind::kDepthwise:
      break;
    case ConvKind::kDirect:
      return PackedMatrix::floats(s.groups, s.depth(), s.o / s.groups);
    case ConvKind::kWinograd2:
    case ConvKind::kWinograd4:
    case ConvKind::kWinograd6:
      return static_cast<int64_t>(winograd_bytes(s.c, s.o, form_of(kind, s)) / sizeof(float));
    case ConvKind::kStrassen:
      return strassen_floats(s.c, s.o);
  }
  return s.depth() * s.o;
}

ConvWeights::ConvWeights(ConvKind kind, const Conv2dSpec& s, const float* w)
    : kind_(kind), floats_(floats(kind, s)) {
  switch (kind) {
    case ConvKind::kDepthwise:
      copy_ = Buffer(static_cast<size_t>(floats_) * sizeof(float));
      std::copy_n(w, floats_, copy_.floats());
      plain_ = copy_.floats();
      finite_ = all_finite(plain_, floats_);
      break;
    case ConvKind::kDirect:
      packed_.emplace(pack_conv2d(w, s.kh, s.kw, s.c / s.groups, s.o, s.groups));
      finite_ = packed_->view().finite;
      break;
    case ConvKind::kWinograd2:
    case ConvKind::kWinograd4:
    case ConvKind::kWinograd6:
      winograd_.emplace(w, s.c, s.o, form_of(kind, s), num_threads());
      break;
    case ConvKind::kStrassen:
      copy_ = Buffer(static_cast<size_t>(floats_) * sizeof(float));
      pack_strassen(w, s.c, s.o, copy_.floats(), num_threads());
      plain_ = copy_.floats();
  }
}

ConvWeights::ConvWeights(ConvKind kind, const Conv2dSpec& s, bool finite, const float* made,
                         std::shared_ptr<const void> owner)
    : kind_(kind), plain_(made), owner_(std::move(owner)), floats_(floats(kind, s)), finite_(finite) {
  if (kind == ConvKind::kDirect)
    packed_.emplace(s.groups, s.depth(), s.o / s.groups, finite, made, owner_);
  else if (kind != ConvKind::kDepthwise && kind != ConvKind::kStrassen)
    winograd_.emplace(s.c, s.o, form_of(kind, s), made, owner_);
}

const float* ConvWeights::data() const {
  return packed_ ? packed_->view().data : winograd_ ? winograd_->view().data : plain_;
}

const char* ConvWeights::algorithm(const Conv2dSpec& s) const {
  switch (kind_) {
    case ConvKind::kWinograd2:
      return s.kh == 3 ? "Winograd F(2,3)" : "Winograd F(2,5)";
    case ConvKind::kWinograd4:
      return "Winograd F(4,3)";
    case ConvKind::kWinograd6:
      return "Winograd F(6,3)";
    case ConvKind::kStrassen:
      return "Strassen";
    case ConvKind::kDepthwise:
    case ConvKind::kDirect:
      break;
  }
  return conv2d_algorithm(s);
}

void ConvWeights::run(const Conv2dSpec& s, const float* x, const Epilogue& epilogue, float* y) const {
  switch (kind_) {
    case ConvKind::kDepthwise:
      return depthwise_conv2d(s, x, plain_, finite_, epilogue, y);
    case ConvKind::kDirect:
      return conv2d(s, x, nullptr, &*packed_, epilogue, y);
    case ConvKind::kWinograd2:
    case ConvKind::kWinograd4:
    case ConvKind::kWinograd6:
      return conv2d_winograd(s, x, *winograd_, epilogue, y);
    case ConvKind::kStrassen:
      return conv2d_strassen(s, x, plain_, epilogue, y);
  }
}

}  // namespace cnnfast
