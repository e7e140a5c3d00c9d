// Softmax. A column is read two or three times by the same block, from the caches but for the first time: the
// limit is one read and one write of memory. Differences x - max are rounded; what that loses is put back
// into the exponential, where it would cost |x - max| / 2 units in the last place.
#include "cuda/softmax.h"

#include <cmath>

#include "cuda/activation.h"
#include "cuda/columns.h"

namespace cnnfast::cuda {
namespace {

// exp(x - m) for x <= m. NaN, and what Inf - Inf gives, come through; x = -Inf gives 0.
__device__ __forceinline__ float exp_of_difference(float x, float m) {
  const float d = __fsub_rn(x, m), back = __fsub_rn(d, x);
  const float lost = __fsub_rn(__fsub_rn(x, __fsub_rn(d, back)), __fadd_rn(m, back));
  const float e = expf(d);
  return d > -110.0f ? fmaf(e, lost, e) : e;
}

template <class T>
__device__ __forceinline__ float largest(const Columns& c, const ColumnPart& part, const T* x, float* room) {
  float most = -INFINITY;
  for (int64_t k = part.first; k < part.end; k += part.step)
    most = Larger()(load(x + part.index(c, k)), most);
  return combine(c, most, room, Larger());
}

// Of a column: sum of exp(x - m) over what is below m, and how many are m. Only finite maxima count as such:
// Inf - Inf is NaN, and stays so.
struct Rest {
  float sum, ties;

  template <class T>
  __device__ __forceinline__ Rest(const Columns& c, const ColumnPart& part, const T* x, float m, float* room)
      : sum(0), ties(0) {
    for (int64_t k = part.first; k < part.end; k += part.step) {
      const float v = load(x + part.index(c, k)), e = exp_of_difference(v, m);
      const bool top = v == m && e == e;
      sum += top ? 0.0f : e;
      ties += top ? 1.0f : 0.0f;
    }
    sum = combine(c, sum, room, Add());
    ties = combine(c, ties, room, Add());
  }
  __device__ __forceinline__ float log() const { return log1pf(sum + (ties - 1)); }
};

template <class T, bool Log>
__global__ void __launch_bounds__(kColumnThreads) softmax_kernel(Columns c, const T* x, T* y) {
  ptx::begin_kernel();
  CNNFAST_SHARED(float, room, [kColumnThreads]);
  const ColumnPart part(c);
  const float m = largest(c, part, x, room);
  const Rest rest(c, part, x, m, room);
  const float end = Log ? rest.log() : 1.0f / (rest.sum + rest.ties);
  for (int64_t k = part.first; k < part.end; k += part.step) {
    const float v = load(x + part.index(c, k));
    store(y + part.index(c, k), Log ? (v - m) - end : exp_of_difference(v, m) * end);
  }
}

template <class T, bool Log>
__global__ void __launch_bounds__(kColumnThreads)
    softmax_grad_kernel(Columns c, const T* g, const T* y, T* dx) {
  ptx::begin_kernel();
  CNNFAST_SHARED(float, room, [kColumnThreads]);
  const ColumnPart part(c);
  float total = 0;
  for (int64_t k = part.first; k < part.end; k += part.step) {
    const float d = load(g + part.index(c, k));
    total = Log ? total + d : fmaf(d, load(y + part.index(c, k)), total);
  }
  total = combine(c, total, room, Add());
  for (int64_t k = part.first; k < part.end; k += part.step) {
    const float d = load(g + part.index(c, k)), v = load(y + part.index(c, k));
    store(dx + part.index(c, k), Log ? fmaf(-expf(v), total, d) : v * (d - total));
  }
}

template <class T>
__global__ void __launch_bounds__(kColumnThreads)
    cross_entropy_kernel(Columns c, const T* x, const int64_t* labels, float smoothing, int64_t ignored,
                         T* loss, T* gradient) {
  ptx::begin_kernel();
  CNNFAST_SHARED(float, room, [kColumnThreads]);
  const ColumnPart part(c);
  const int64_t label = part.inside ? labels[part.outer] : ignored;
  const float m = largest(c, part, x, room);
  const Rest rest(c, part, x, m, room);
  const float log_sum = rest.log(), keep = 1 - smoothing, spread = smoothing / static_cast<float>(c.k);
  float below = 0;  // sum of log p
  for (int64_t k = part.first; k < part.end; k += part.step) {
    const float log_p = (load(x + part.index(c, k)) - m) - log_sum;
    below += log_p;
    float d = expf(log_p) - spread;
    if (k == label) d -= keep;
    store(gradient + part.index(c, k), label == ignored ? 0.0f : d);
  }
  if (smoothing != 0) below = combine(c, below, room, Add());  // the same for all threads
  if (!part.lead) return;
  float value = 0;
  if (label != ignored) {
    value = -keep * ((load(x + part.index(c, label)) - m) - log_sum);
    if (smoothing != 0) value -= spread * below;
  }
  store(loss + part.outer, value);
}

// softplus(z) = log(1 + exp(z)), without overflow, for z = -x and z = x.
struct Softplus {
  float of_one, of_zero;

  __device__ __forceinline__ explicit Softplus(float x) {
    const float small = log1pf(expf(-fabsf(x)));
    of_one = small + (x < 0 ? -x : 0.0f);
    of_zero = small + (x > 0 ? x : 0.0f);
  }
};

template <class T, SigmoidLoss What>
__global__ void __launch_bounds__(kThreads)
    sigmoid_cross_entropy_kernel(int64_t count, float weight, const T* g, const T* x, const T* target, T* y) {
  ptx::begin_kernel();
  CNNFAST_EACH(i, count) {
    const float v = load(x + i), t = load(target + i), from_one = weight * t, from_zero = 1.0f - t;
    float value;
    if (What == SigmoidLoss::kByScore) {
      value = load(g + i) * (from_zero * sigmoid(v) - from_one * sigmoid(-v));
    } else {
      const Softplus of(v);
      value = What == SigmoidLoss::kLoss ? from_one * of.of_one + from_zero * of.of_zero
                                         : load(g + i) * (weight * of.of_one - of.of_zero);
    }
    store(y + i, value);
  }
}

}  // namespace

void softmax(DType type, int64_t outer, int64_t k, int64_t inner, bool log, const void* x, void* y,
             cudaStream_t stream) {
  if (outer * k * inner == 0) return;
  const Columns c = columns(outer, k, inner);
  dispatch_float(type, [&](auto element) {
    using T = decltype(element);
    const auto* in = static_cast<const T*>(x);
    auto* out = static_cast<T*>(y);
    if (log)
      CNNFAST_LAUNCH((softmax_kernel<T, true>), c.grid(), kColumnThreads, 0, stream, c, in, out);
    else
      CNNFAST_LAUNCH((softmax_kernel<T, false>), c.grid(), kColumnThreads, 0, stream, c, in, out);
  });
}

void softmax_grad(DType type, int64_t outer, int64_t k, int64_t inner, bool log, const void* g, const void* y,
                  void* dx, cudaStream_t stream) {
  if (outer * k * inner == 0) return;
  const Columns c = columns(outer, k, inner);
  dispatch_float(type, [&](auto element) {
    using T = decltype(element);
    const auto *gs = static_cast<const T*>(g), *ys = static_cast<const T*>(y);
    auto* out = static_cast<T*>(dx);
    if (log)
      CNNFAST_LAUNCH((softmax_grad_kernel<T, true>), c.grid(), kColumnThreads, 0, stream, c, gs, ys, out);
    else
      CNNFAST_LAUNCH((softmax_grad_kernel<T, false>), c.grid(), kColumnThreads, 0, stream, c, gs, ys, out);
  });
}

void softmax_cross_entropy(DType type, int64_t rows, int64_t k, const void* x, const int64_t* labels,
                           double smoothing, int64_t ignored, void* loss, void* gradient,
                           cudaStream_t stream) {
  if (rows == 0) return;
  const Columns c = columns(rows, k, 1);
  dispatch_float(type, [&](auto element) {
    using T = decltype(element);
    CNNFAST_LAUNCH((cross_entropy_kernel<T>), c.grid(), kColumnThreads, 0, stream, c,
                   static_cast<const T*>(x), labels, static_cast<float>(smoothing), ignored,
                   static_cast<T*>(loss), static_cast<T*>(gradient));
  });
}

void sigmoid_cross_entropy(DType type, SigmoidLoss what, int64_t count, double pos_weight, const void* g,
                           const void* x, const void* target, void* y, cudaStream_t stream) {
  if (count == 0) return;
  const unsigned blocks = blocks_for(count, kThreads);
  const auto weight = static_cast<float>(pos_weight);
  dispatch_float(type, [&](auto element) {
    using T = decltype(element);
    const auto *gs = static_cast<const T*>(g), *xs = static_cast<const T*>(x);
    const auto* ts = static_cast<const T*>(target);
    auto* ys = static_cast<T*>(y);
    switch (what) {
      case SigmoidLoss::kLoss:
        CNNFAST_LAUNCH((sigmoid_cross_entropy_kernel<T, SigmoidLoss::kLoss>), blocks, kThreads, 0, stream,
                       count, weight, gs, xs, ts, ys);
        break;
      case SigmoidLoss::kByScore:
        CNNFAST_LAUNCH((sigmoid_cross_entropy_kernel<T, SigmoidLoss::kByScore>), blocks, kThreads, 0, stream,
                       count, weight, gs, xs, ts, ys);
        break;
      case SigmoidLoss::kByTarget:
        CNNFAST_LAUNCH((sigmoid_cross_entropy_kernel<T, SigmoidLoss::kByTarget>), blocks, kThreads, 0, stream,
                       count, weight, gs, xs, ts, ys);
    }
  });
}

}  // namespace cnnfast::cuda
