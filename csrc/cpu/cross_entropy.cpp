// Softmax and cross-entropy of rows, block by block while they are in the cache: the logarithms for the
// losses, then the softmax itself, less its target, for the gradient. Cross-entropy of sigmoids: blocks of
// values.
#include <algorithm>

#include "core/threads.h"
#include "cpu/train.h"
#include "kernels/table.h"

namespace cnnfast {

void softmax_cross_entropy(int64_t rows, int64_t k, const float* x, const int64_t* labels, double smoothing,
                           int64_t ignored, float* loss, float* gradient) {
  const NormKernels& kernel = kernels().norm;
  const int64_t block = std::max<int64_t>(1, 8192 / k);
  const auto share = smoothing / static_cast<double>(k);
  const double nanoseconds = static_cast<double>(rows * k) * 30.0 / kernels().vl;
  parallel_for((rows + block - 1) / block, threads_for(nanoseconds), [&](int64_t task) {
    const int64_t first = task * block, last = std::min(rows, first + block);
    kernel.softmax_rows(x + first * k, gradient + first * k, last - first, k, true);
    for (int64_t r = first; r < last; ++r) {
      const float* logarithm = gradient + r * k;
      const int64_t label = labels[r];
      loss[r] = 0;
      if (label == ignored || label < 0 || label >= k) continue;
      double sum = (smoothing - 1) * static_cast<double>(logarithm[label]);
      if (smoothing > 0)
        for (int64_t i = 0; i < k; ++i) sum -= share * static_cast<double>(logarithm[i]);
      loss[r] = static_cast<float>(sum);
    }
    kernel.softmax_rows(x + first * k, gradient + first * k, last - first, k, false);
    for (int64_t r = first; r < last; ++r) {
      float* to = gradient + r * k;
      const int64_t label = labels[r];
      if (label == ignored || label < 0 || label >= k) {
        std::fill_n(to, k, 0.0f);
        continue;
      }
      if (smoothing > 0)
        for (int64_t i = 0; i < k; ++i) to[i] -= static_cast<float>(share);
      to[label] -= static_cast<float>(1 - smoothing);
    }
  });
}

void sigmoid_cross_entropy(SigmoidLoss what, const SigmoidRun& all) {
  constexpr int64_t kBlock = 8192;
  const double nanoseconds = static_cast<double>(all.n) * 16.0 / kernels().vl;
  parallel_for((all.n + kBlock - 1) / kBlock, threads_for(nanoseconds), [&](int64_t task) {
    const int64_t at = task * kBlock;
    SigmoidRun part = all;
    part.x += at, part.t += at, part.y += at, part.n = std::min(kBlock, all.n - at);
    if (part.g) part.g += at;
    kernels().train.sigmoid_cross_entropy(what, &part);
  });
}

}  // namespace cnnfast
