#include "cpu/copy.h"

#include <algorithm>
#include <cstring>

#include "core/threads.h"

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
  if (axes_.empty()) axes_.push_back({1, 1, 1});
}

void StridedCopy::run(const float* x, float* y) const {
  if (count_ == 0) return;
  const Axis inner = axes_.back();
  const int64_t lines = count_ / inner.size;
  const double each = inner.x == 1 && inner.y == 1 ? 0.15 : 1.0;
  const int threads = threads_for(static_cast<double>(count_) * each + static_cast<double>(lines) * 5);
  const int64_t band = std::max<int64_t>(1, std::min<int64_t>(4096, lines / (4 * threads)));
  parallel_for((lines + band - 1) / band, threads, [&](int64_t task) {
    for (int64_t line = task * band; line < std::min(lines, (task + 1) * band); ++line) {
      int64_t rest = line, from = 0, to = 0;
      for (size_t i = axes_.size() - 1; i-- > 0;) {
        const int64_t at = rest % axes_[i].size;
        rest /= axes_[i].size;
        from += at * axes_[i].x, to += at * axes_[i].y;
      }
      if (inner.x == 1 && inner.y == 1) {
        std::memcpy(y + to, x + from, static_cast<size_t>(inner.size) * sizeof(float));
        continue;
      }
      for (int64_t i = 0; i < inner.size; ++i) y[to + i * inner.y] = x[from + i * inner.x];
    }
  });
}

}  // namespace cnnfast
