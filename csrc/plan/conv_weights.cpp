#include "plan/conv_weights.h"

#include <algorithm>
#include <limits>

#include "core/threads.h"
#include "cpu/pixel_lanes.h"
#include "cpu/row_winograd.h"
#include "kernels/row_winograd.h"

namespace cnnfast {
namespace {

// The form of Winograd's algorithm, of a tile of 0 for other kinds.
WinogradForm form_of(ConvKind kind, const Conv2dSpec& s) {
  const int taps = static_cast<int>(s.kh);
  switch (kind) {
    case ConvKind::kWinograd2:
      return {2, taps, 1};
    case ConvKind::kWinograd3:
      return {3, taps, 1};
    case ConvKind::kWinograd4:
      return {4, taps, 1};
    case ConvKind::kWinograd5:
      return {5, taps, 1};
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

// What a byte of weights costs in a lean plan, in nanoseconds of a run: 1 ms for 66 MiB. Reading it from
// memory takes three times as long. Of ResNet-50, whose weights may take from 97 to 280 MiB, this keeps what
// gains the most for its memory: see docs/performance.md.
constexpr double kBytePrice = 1e6 / (66 << 20);

}  // namespace

ConvChoice choose_conv(const Conv2dSpec& s, int winograd, bool lean) {
  Conv2dSpec picture = s;
  picture.n = 1;
  ConvChoice best{};
  double least = std::numeric_limits<double>::infinity();
  const auto consider = [&](ConvForm form, double nanoseconds) {
    const double bytes = sizeof(float) * static_cast<double>(ConvWeights::floats(form, s));
    const double cost = nanoseconds + (lean ? kBytePrice * bytes : 0.0);
    if (cost < least) least = cost, best = {form, nanoseconds, bytes};
  };
  const ConvKind plainest = channels_across_lanes(s) ? ConvKind::kDepthwise
                            : pixels_across_lanes(s) ? ConvKind::kPixels
                                                     : ConvKind::kDirect;
  consider({plainest}, picture.flops() / kProductFlops / kUsualThreads);
  if (plainest != ConvKind::kDirect || winograd == 0) return best;
  for (const ConvKind kind : {ConvKind::kStrassen1, ConvKind::kStrassen2})
    if (strassen_applies(picture, levels_of(kind)))
      consider({kind}, strassen_nanoseconds(picture, kUsualThreads, levels_of(kind), lean));
  if (row_winograd_applies(picture))
    consider({ConvKind::kWinogradRows}, row_winograd_nanoseconds(picture, kUsualThreads));
  if (!winograd_applies(s, true)) return best;
  for (const ConvKind kind : {ConvKind::kWinograd2, ConvKind::kWinograd3, ConvKind::kWinograd4,
                              ConvKind::kWinograd5, ConvKind::kWinograd6, ConvKind::kWinogradStrided}) {
    const WinogradForm form = form_of(kind, s);
    if (!winograd_allows(s, form, winograd)) continue;
    consider({kind}, winograd_nanoseconds(picture, kUsualThreads, form));
    if (lean) consider({kind, true}, winograd_nanoseconds(picture, kUsualThreads, form, true));
  }
  return best;
}

int64_t ConvWeights::floats(ConvForm form, const Conv2dSpec& s) {
  switch (form.kind) {
    case ConvKind::kDepthwise:
    case ConvKind::kPixels:
      break;
    case ConvKind::kWinogradRows:
      return row_winograd_floats(s);
    case ConvKind::kDirect:
      return PackedMatrix::floats(s.groups, s.depth(), s.o / s.groups);
    case ConvKind::kWinograd2:
    case ConvKind::kWinograd3:
    case ConvKind::kWinograd4:
    case ConvKind::kWinograd5:
    case ConvKind::kWinograd6:
    case ConvKind::kWinogradStrided:
      return static_cast<int64_t>(winograd_bytes(s.c, s.o, form_of(form.kind, s), form.plain) /
                                  sizeof(float));
    case ConvKind::kStrassen1:
    case ConvKind::kStrassen2:
      return strassen_floats(s.c, s.o, levels_of(form.kind));
  }
  return s.depth() * s.o;
}

ConvWeights::ConvWeights(ConvForm form, const Conv2dSpec& s, const float* w)
    : form_(form), floats_(floats(form, s)) {
  switch (form.kind) {
    case ConvKind::kDepthwise:
    case ConvKind::kPixels:
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
    case ConvKind::kWinograd3:
    case ConvKind::kWinograd4:
    case ConvKind::kWinograd5:
    case ConvKind::kWinograd6:
    case ConvKind::kWinogradStrided:
      winograd_.emplace(w, s.c, s.o, form_of(form.kind, s), form.plain, num_threads(), Life::kWeights);
      break;
    case ConvKind::kWinogradRows:
      copy_ = Buffer(static_cast<size_t>(floats_) * sizeof(float), Life::kWeights);
      pack_row_winograd(s, w, copy_.floats());
      plain_ = copy_.floats();
      break;
    case ConvKind::kStrassen1:
    case ConvKind::kStrassen2:
      copy_ = Buffer(static_cast<size_t>(floats_) * sizeof(float), Life::kWeights);
      pack_strassen(w, s.c, s.o, levels_of(form.kind), copy_.floats(), num_threads());
      plain_ = copy_.floats();
  }
}

ConvWeights::ConvWeights(ConvForm form, const Conv2dSpec& s, bool finite, const float* made,
                         std::shared_ptr<const void> owner)
    : form_(form), plain_(made), owner_(std::move(owner)), floats_(floats(form, s)), finite_(finite) {
  if (form.kind == ConvKind::kDirect)
    packed_.emplace(s.groups, s.depth(), s.o / s.groups, finite, made, owner_);
  else if (form_of(form.kind, s).tile)
    winograd_.emplace(s.c, s.o, form_of(form.kind, s), form.plain, made, owner_);
}

const float* ConvWeights::data() const {
  return packed_ ? packed_->view().data : winograd_ ? winograd_->view().data : plain_;
}

std::string ConvWeights::algorithm(const Conv2dSpec& s) const {
  return algorithm_name(s) + (form_.plain ? ", plain weights" : "");
}

std::string ConvWeights::algorithm_name(const Conv2dSpec& s) const {
  if (const WinogradForm form = form_of(form_.kind, s); form.tile)
    return "Winograd F(" + std::to_string(form.tile) + "," + std::to_string(form.taps) + ")" +
           (form.stride == 2 ? ", stride 2" : "");
  if (form_.kind == ConvKind::kWinogradRows)
    return "Winograd F(" + std::to_string(row_winograd_tile(row_winograd_taps(s))) + "," +
           std::to_string(row_winograd_taps(s)) + ") along rows" +
           (s.sw == 1 ? "" : ", stride " + std::to_string(s.sw));
  if (const int levels = levels_of(form_.kind)) return levels == 1 ? "Strassen" : "Strassen, two levels";
  return conv2d_algorithm(s);
}

void ConvWeights::run(const Conv2dSpec& s, const float* x, const Epilogue& epilogue, float* y) const {
  switch (form_.kind) {
    case ConvKind::kDepthwise:
      return depthwise_conv2d(s, x, plain_, finite_, epilogue, y);
    case ConvKind::kPixels:
      return conv2d_by_pixels(s, nullptr, x, plain_, epilogue, y);
    case ConvKind::kWinogradRows:
      return conv2d_row_winograd(s, x, plain_, epilogue, y);
    case ConvKind::kDirect:
      return conv2d(s, x, nullptr, &*packed_, epilogue, y);
    case ConvKind::kWinograd2:
    case ConvKind::kWinograd3:
    case ConvKind::kWinograd4:
    case ConvKind::kWinograd5:
    case ConvKind::kWinograd6:
    case ConvKind::kWinogradStrided:
      return conv2d_winograd(s, x, *winograd_, epilogue, y);
    case ConvKind::kStrassen1:
    case ConvKind::kStrassen2:
      return conv2d_strassen(s, x, plain_, levels_of(form_.kind), epilogue, y);
  }
}

}  // namespace cnnfast
