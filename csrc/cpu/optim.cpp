#include "cpu/optim.h"

#include <algorithm>
#include <vector>

#include "core/threads.h"
#include "kernels/table.h"

namespace cnnfast {
namespace {

constexpr int64_t kBlock = 16384;   // values of a task
constexpr int64_t kPartial = 4096;  // values that one sum of single precision runs over
constexpr double kNanosecondsPerByte = 0.08;

// f(first value, number of values) for all blocks; `bytes` are read and written for each value.
template <class F>
void in_blocks(int64_t n, int64_t block, int bytes, F&& f) {
  const int threads = threads_for(static_cast<double>(n) * bytes * kNanosecondsPerByte);
  parallel_for((n + block - 1) / block, threads,
               [&](int64_t task) { f(task * block, std::min(block, n - task * block)); });
}

float* at(float* array, int64_t i) { return array ? array + i : nullptr; }

}  // namespace

void sgd(const SgdStep& step, const std::vector<SgdArrays>& all) {
  // Stretches of about a block: whole small parameters, or one part of a large one.
  std::vector<SgdArrays> parts;
  std::vector<size_t> starts;
  double bytes = 0;
  int64_t room = 0;
  for (const SgdArrays& a : all) {
    bytes += static_cast<double>(a.n) * (a.velocity ? 20 : 12);
    for (int64_t i = 0, count; i < a.n; i += count) {
      if (room == 0) starts.push_back(parts.size()), room = kBlock;
      count = std::min(room, a.n - i);
      room -= count;
      parts.push_back({a.p + i, a.g + i, at(a.velocity, i), count});
    }
  }
  starts.push_back(parts.size());
  const int threads = threads_for(bytes * kNanosecondsPerByte);
  parallel_for(static_cast<int64_t>(starts.size()) - 1, threads, [&](int64_t task) {
    for (size_t i = starts[static_cast<size_t>(task)]; i < starts[static_cast<size_t>(task) + 1]; ++i)
      kernels().optim.sgd(&step, parts[i].p, parts[i].g, parts[i].velocity, parts[i].n);
  });
}

void rmsprop(const RmspropStep& step, int64_t n, float* p, const float* g, float* square, float* mean,
             float* velocity) {
  in_blocks(n, kBlock, 20 + (mean ? 8 : 0) + (velocity ? 8 : 0), [&](int64_t i, int64_t count) {
    kernels().optim.rmsprop(&step, p + i, g + i, square + i, at(mean, i), at(velocity, i), count);
  });
}

void adam(const AdamStep& step, int64_t n, float* p, const float* g, float* mean, float* square,
          float* largest) {
  in_blocks(n, kBlock, largest ? 36 : 28, [&](int64_t i, int64_t count) {
    kernels().optim.adam(&step, p + i, g + i, mean + i, square + i, at(largest, i), count);
  });
}

void approach(float share, int64_t n, float* y, const float* x) {
  in_blocks(n, kBlock, 12,
            [&](int64_t i, int64_t count) { kernels().optim.approach(share, y + i, x + i, count); });
}

void add_scaled(float factor, int64_t n, float* y, const float* x) {
  in_blocks(n, kBlock, 12,
            [&](int64_t i, int64_t count) { kernels().optim.add_scaled(factor, y + i, x + i, count); });
}

double dot(int64_t n, const float* a, const float* b) {
  std::vector<double> parts(static_cast<size_t>((n + kPartial - 1) / kPartial));
  in_blocks(n, kPartial, 8, [&](int64_t i, int64_t count) {
    parts[static_cast<size_t>(i / kPartial)] = kernels().optim.dot(a + i, b + i, count);
  });
  double total = 0;
  for (double part : parts) total += part;
  return total;
}

}  // namespace cnnfast
