#include "plan/conv_weights.h"

#include <algorithm>

#include "core/threads.h"

namespace cnnfast {
namespace {

// The form of Winograd's algorithm, of a tile of 0 for other kinds.
WinogradForm form_of(ConvKind kind, const Conv2dSpec& s) {
  const int taps = static_cast<int>(s.kh);
  switch (kind) {
    case ConvKind::kWinograd2:
      return {2, taps, 1};
    case ConvKind::kWinograd4:
      return {4, taps, 1};
    case ConvKind::kWinograd6:
      return {6, taps, 1};
    case ConvKind::kWinogradStrided:
      return {2, taps, 2};
    default:
      return {0, taps, 1};
  }
}

int levels_of(ConvKind kind) {
  return kind == ConvKind::kStrassen1 ? 1 : kind == ConvKind::kStrassen2 ? 2 : 0;
}

// One thread waits less for weights than it computes, many wait for nothing else: something between.
constexpr int kUsualThreads = 2;

}  // namespace

ConvKind choose_conv(const Conv2dSpec& s, int winograd) {
  if (channels_across_lanes(s)) return ConvKind::kDepthwise;
  const int levels = winograd > 0 ? strassen_levels(s) : 0;
  if (levels) return levels == 1 ? ConvKind::kStrassen1 : ConvKind::kStrassen2;
  Conv2dSpec picture = s;
  picture.n = 1;
  const int tile = winograd_tile(picture, kUsualThreads, winograd);
  if (tile == 0) return ConvKind::kDirect;
  if (s.sh == 2) return ConvKind::kWinogradStrided;
  return tile == 2 ? ConvKind::kWinograd2 : tile == 4 ? ConvKind::kWinograd4 : ConvKind::kWinograd6;
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
    case ConvKind::kWinogradStrided:
      return static_cast<int64_t>(winograd_bytes(s.c, s.o, form_of(kind, s)) / sizeof(float));
    case ConvKind::kStrassen1:
    case ConvKind::kStrassen2:
      return strassen_floats(s.c, s.o, levels_of(kind));
  }
  return s.depth() * s.o;
}

ConvWeights::ConvWeights(ConvKind kind, const Conv2dSpec& s, const float* w)
    : kind_(kind), floats_(floats(kind, s)) {
  switch (kind) {
    case ConvKind::kDepthwise:
      copy_ = Buffer(static_cast<size_t>(floats_) * sizeof(float), Life::kWeights);
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
    case ConvKind::kWinogradStrided:
      winograd_.emplace(w, s.c, s.o, form_of(kind, s), num_threads(), Life::kWeights);
      break;
    case ConvKind::kStrassen1:
    case ConvKind::kStrassen2:
      copy_ = Buffer(static_cast<size_t>(floats_) * sizeof(float), Life::kWeights);
      pack_strassen(w, s.c, s.o, levels_of(kind), copy_.floats(), num_threads());
      plain_ = copy_.floats();
  }
}

ConvWeights::ConvWeights(ConvKind kind, const Conv2dSpec& s, bool finite, const float* made,
                         std::shared_ptr<const void> owner)
    : kind_(kind), plain_(made), owner_(std::move(owner)), floats_(floats(kind, s)), finite_(finite) {
  if (kind == ConvKind::kDirect)
    packed_.emplace(s.groups, s.depth(), s.o / s.groups, finite, made, owner_);
  else if (form_of(kind, s).tile)
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
    case ConvKind::kWinogradStrided:
      return "Winograd F(2,3), stride 2";
    case ConvKind::kStrassen1:
      return "Strassen";
    case ConvKind::kStrassen2:
      return "Strassen, two levels";
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
    case ConvKind::kWinogradStrided:
      return conv2d_winograd(s, x, *winograd_, epilogue, y);
    case ConvKind::kStrassen1:
    case ConvKind::kStrassen2:
      return conv2d_strassen(s, x, plain_, levels_of(kind_), epilogue, y);
  }
}

}  // namespace cnnfast
