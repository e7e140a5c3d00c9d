#include "cpu/pointwise.h"

#include <algorithm>

#include "core/arena.h"
#include "core/epilogue.h"
#include "core/threads.h"
#include "kernels/table.h"

namespace cnnfast {
namespace {

// Elements of one task: long enough to hide its start, short enough to stay in the first cache levels.
constexpr int64_t kBlock = 16384;

double nanoseconds_per_element(int activation) {
  switch (activation) {
    case kSigmoid:
    case kTanh:
    case kSilu:
      return 8.0 / kernels().vl;
    default:
      return 0.15;
  }
}

double nanoseconds_per_element(Unary function) {
  switch (function) {
    case Unary::kExp:
    case Unary::kElu:
    case Unary::kErf:
    case Unary::kLog:
      return 8.0 / kernels().vl;
    default:
      return 0.2;
  }
}

double nanoseconds_per_element(Binary op) { return op == Binary::kPow ? 40.0 / kernels().vl : 0.1; }

// f(first element, elements) for blocks of n elements.
template <class F>
void by_blocks(int64_t n, double each, F&& f) {
  const int threads = threads_for(static_cast<double>(n) * each);
  parallel_for((n + kBlock - 1) / kBlock, threads,
               [&](int64_t task) { f(task * kBlock, std::min(kBlock, n - task * kBlock)); });
}

// Every task writes its values `times` times, so that a short repeated row becomes a long one.
const float* repeat_row(const float* row, int64_t n, int64_t times) {
  auto* out =
      static_cast<float*>(thread_scratch(Slot::kTile, static_cast<size_t>(n * times) * sizeof(float)));
  for (int64_t t = 0; t < times; ++t) std::copy_n(row, n, out + t * n);
  return out;
}

}  // namespace

void activate(int kind, float slope, const float* x, float* y, int64_t n) {
  by_blocks(n, nanoseconds_per_element(kind), [=](int64_t at, int64_t count) {
    kernels().pointwise.activate(kind, slope, x + at, y + at, count);
  });
}

void unary(Unary function, float p, float q, const float* x, float* y, int64_t n) {
  by_blocks(n, nanoseconds_per_element(function), [=](int64_t at, int64_t count) {
    kernels().pointwise.unary(function, p, q, x + at, y + at, count);
  });
}

void unary_grad(Unary function, float p, float q, const float* g, const float* v, float* y, int64_t n) {
  by_blocks(n, nanoseconds_per_element(function), [=](int64_t at, int64_t count) {
    kernels().pointwise.unary_grad(function, p, q, g + at, v + at, y + at, count);
  });
}

Broadcast::Broadcast(const std::vector<int64_t>& a, const std::vector<int64_t>& b) {
  const size_t rank = std::max(a.size(), b.size());
  out.resize(rank);
  int64_t a_step = 1, b_step = 1;
  for (size_t i = 0; i < rank; ++i) {  // innermost axis first
    const int64_t an = i < a.size() ? a[a.size() - 1 - i] : 1, bn = i < b.size() ? b[b.size() - 1 - i] : 1;
    const Axis axis{an == 1 ? bn : an, an == 1 ? 0 : a_step, bn == 1 ? 0 : b_step};
    out[rank - 1 - i] = axis.size;
    count *= axis.size;
    a_step *= an, b_step *= bn;
    b_count = b_step;
    if (axis.size == 1) continue;
    if (!axes.empty()) {
      // Joins the axis inside it where both operands go on as they did.
      Axis& inner = axes.back();
      if (axis.a == inner.a * inner.size && axis.b == inner.b * inner.size) {
        inner.size *= axis.size;
        continue;
      }
    }
    axes.push_back(axis);
  }
  while (axes.size() < 2) axes.push_back({1, 0, 0});
  if (axes[0].size == 1) axes[0] = {1, 1, 1};
  swapped = axes[0].a == 0 || (axes[0].b != 0 && axes[1].a == 0 && axes[1].b != 0);
  if (swapped)
    for (Axis& axis : axes) std::swap(axis.a, axis.b);
  std::reverse(axes.begin(), axes.end());
}

void binary_alike(Binary op, int64_t n, const float* a, const float* b, int activation, float slope,
                  float* y) {
  const double each = nanoseconds_per_element(op) + nanoseconds_per_element(activation);
  by_blocks(n, each, [=](int64_t at, int64_t count) {
    const BinaryRows t{a + at, b + at, y + at, 1, count, 0, 0, 0, false, activation, slope};
    kernels().pointwise.binary(op, &t);
  });
}

namespace {

// kernel(rows) for all rows of a broadcast; `each` in nanoseconds of an element.
template <class Kernel>
void by_rows(const Broadcast& s, const float* a, const float* b, int activation, float slope, float* y,
             double each, Kernel&& kernel) {
  if (s.count == 0) return;
  if (s.swapped) std::swap(a, b);
  const Broadcast::Axis inner = s.axes.back(), outer = s.axes[s.axes.size() - 2];
  const int64_t plane = outer.size * inner.size, planes = s.count / plane;
  const int64_t columns = std::min(inner.size, kBlock),
                rows = std::min(outer.size, std::max<int64_t>(1, kBlock / columns));
  const int64_t across = (inner.size + columns - 1) / columns, down = (outer.size + rows - 1) / rows;
  // A short row of b that serves every row of a: repeat it and run along whole stretches of a.
  const bool stretch = inner.size < 256 && inner.b == 1 && outer.b == 0 && outer.a == inner.size && rows > 1;
  const int64_t times = stretch ? std::min(rows, 1024 / inner.size) : 1;
  if (inner.size < 16 && !stretch) each += 0.5;
  parallel_for(planes * down * across, threads_for(static_cast<double>(s.count) * each), [&](int64_t task) {
    const int64_t column = task % across * columns, row = task / across % down * rows,
                  index = task / across / down;
    int64_t from_a = row * outer.a + column * inner.a, from_b = row * outer.b + column * inner.b;
    int64_t rest = index;
    for (size_t axis = s.axes.size() - 2; axis-- > 0;) {
      const int64_t at = rest % s.axes[axis].size;
      rest /= s.axes[axis].size;
      from_a += at * s.axes[axis].a, from_b += at * s.axes[axis].b;
    }
    BinaryRows t{a + from_a,
                 b + from_b,
                 y + index * plane + row * inner.size + column,
                 std::min(rows, outer.size - row),
                 std::min(columns, inner.size - column),
                 outer.a,
                 outer.b,
                 inner.size,
                 inner.b == 0,
                 activation,
                 slope,
                 s.swapped};
    if (!stretch) return kernel(&t);
    const int64_t total = t.rows;
    t.b = repeat_row(t.b, inner.size, times);
    t.n = t.a_step = t.y_step = times * inner.size;
    t.rows = total / times;
    kernel(&t);
    t.a += t.rows * t.n, t.y += t.rows * t.n;
    t.n = total % times * inner.size, t.rows = 1;
    if (t.n) kernel(&t);
  });
}

}  // namespace

void binary(Binary op, const Broadcast& s, const float* a, const float* b, int activation, float slope,
            float* y) {
  const double each = nanoseconds_per_element(op) + nanoseconds_per_element(activation);
  by_rows(s, a, b, activation, slope, y, each,
          [op](const BinaryRows* t) { kernels().pointwise.binary(op, t); });
}

void binary_grad(BinaryGrad op, const Broadcast& s, const float* g, const float* a, const float* b,
                 float* y) {
  const bool power = op == BinaryGrad::kBase || op == BinaryGrad::kExponent;
  by_rows(s, a, b, kNone, 0.0f, y, nanoseconds_per_element(power ? Binary::kPow : Binary::kMul),
          [=](BinaryRows* t) {
            t->g = g + (t->y - y);
            kernels().pointwise.binary_grad(op, t);
          });
}

}  // namespace cnnfast
