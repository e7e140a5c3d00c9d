#include "cpu/copy.h"

#include <algorithm>
#include <cstring>

#include "core/epilogue.h"
#include "core/threads.h"
#include "kernels/table.h"

namespace cnnfast {

StridedCopy::StridedCopy(const std::vector<int64_t>& sizes, const std::vector<int64_t>& x_steps,
                         const std::vector<int64_t>& y_steps) {
  for (size_t i = 0; i < sizes.size(); ++i) {
    count_ *= sizes[i];
    if (sizes[i] == 1) continue;
    const Axis axis{sizes[i], x_steps[i], y_steps[i]};
    // Goes on where the axis outside of it stops: one axis.
    if (!axes_.empty() && axes_.back().x == axis.x * axis.size && axes_.back().y == axis.y * axis.size)
      axes_.back() = {axes_.back().size * axis.size, axis.x, axis.y};
    else
      axes_.push_back(axis);
  }
  while (axes_.size() < 2) axes_.insert(axes_.begin(), {1, 0, 0});
}

namespace {

// A line of `size` floats, which are few: calling memcpy would take longer than copying.
void copy_few(const float* x, float* y, int64_t size) {
  for (int64_t i = 0; i < size; ++i) y[i] = x[i];
}

constexpr int64_t kFew = 16;

}  // namespace

void StridedCopy::run(const float* x, float* y) const {
  if (count_ == 0) return;
  const Axis inner = axes_.back(), lines = axes_[axes_.size() - 2];
  const bool whole = inner.x == 1 && inner.y == 1;
  // A task copies up to `band` lines that lie evenly apart.
  const int64_t band = std::max<int64_t>(1, std::min(lines.size, 16384 / std::max<int64_t>(inner.size, 1)));
  const int64_t bands = (lines.size + band - 1) / band, planes = count_ / (lines.size * inner.size);
  const double nanoseconds =
      static_cast<double>(count_) * (whole ? 0.15 : 0.6) + static_cast<double>(planes * lines.size) * 1.5;
  parallel_for(planes * bands, threads_for(nanoseconds), [&](int64_t task) {
    const int64_t first = task % bands * band, last = std::min(lines.size, first + band);
    int64_t rest = task / bands, from = first * lines.x, to = first * lines.y;
    for (size_t i = axes_.size() - 2; i-- > 0;) {
      const int64_t at = rest % axes_[i].size;
      rest /= axes_[i].size;
      from += at * axes_[i].x, to += at * axes_[i].y;
    }
    for (int64_t line = first; line < last; ++line, from += lines.x, to += lines.y) {
      if (whole && inner.size > kFew)
        std::memcpy(y + to, x + from, static_cast<size_t>(inner.size) * sizeof(float));
      else if (whole)
        copy_few(x + from, y + to, inner.size);
      else
        for (int64_t i = 0; i < inner.size; ++i) y[to + i * inner.y] = x[from + i * inner.x];
    }
  });
}

void scatter(const StridedCopy& copy, const float* g, int64_t count, float* dx, float* first) {
  constexpr int64_t kBlock = 65536;
  parallel_for((count + kBlock - 1) / kBlock, threads_for(static_cast<double>(count) * 0.15),
               [&](int64_t task) {
                 const int64_t at = task * kBlock;
                 kernels().resample.fill(dx + at, 0.0f, std::min(kBlock, count - at));
               });
  copy.run(g, first);
}

void gather_grad(int64_t outer, int64_t size, int64_t inner, int64_t count, const int64_t* indices,
                 const float* g, float* dx) {
  constexpr int64_t kWidth = 256;
  const int64_t strips = (inner + kWidth - 1) / kWidth;
  const double nanoseconds = static_cast<double>(outer * inner) * static_cast<double>(size + count) * 0.3;
  parallel_for(outer * strips, threads_for(nanoseconds), [&](int64_t task) {
    const int64_t column = task % strips * kWidth, n = std::min(kWidth, inner - column), o = task / strips;
    float* to = dx + o * size * inner + column;
    const float* from = g + o * count * inner + column;
    for (int64_t i = 0; i < size; ++i) std::fill_n(to + i * inner, n, 0.0f);
    for (int64_t i = 0; i < count; ++i) {
      float* sum = to + (indices[i] < 0 ? indices[i] + size : indices[i]) * inner;
      const BinaryRows t{sum, from + i * inner, sum, 1, n, 0, 0, 0, false, kNone, 0.0f};
      kernels().pointwise.binary(Binary::kAdd, &t);
    }
  });
}

}  // namespace cnnfast
