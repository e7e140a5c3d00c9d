// Memory bound: 12 to 28 bytes a value; neighbouring threads take neighbouring values.
#include "cuda/optim.h"

#include "cuda/device.h"

namespace cnnfast::cuda {
namespace {

constexpr int kThreads = 256;

struct Sgd {
  SgdStep t;
  float* p;
  const float* g;
  float* velocity;
  __device__ void operator()(int64_t i) const {
    const float x = p[i];
    float d = t.sign * g[i];
    if (t.decay != 0) d = fmaf(t.decay, x, d);
    if (velocity) {
      const float v = t.first ? d : fmaf(t.gain, d, t.momentum * velocity[i]);
      velocity[i] = v;
      d = t.nesterov ? fmaf(t.momentum, v, d) : v;
    }
    p[i] = fmaf(-t.lr, d, x);
  }
};

struct Rmsprop {
  RmspropStep t;
  float* p;
  const float* g;
  float *square, *mean, *velocity;
  __device__ void operator()(int64_t i) const {
    const float x = p[i];
    float d = t.sign * g[i];
    if (t.decay != 0) d = fmaf(t.decay, x, d);
    const float s = fmaf(t.rest * d, d, t.alpha * square[i]);
    square[i] = s;
    float spread = s;
    if (mean) {
      const float old = mean[i], m = fmaf(t.rest, d - old, old);
      mean[i] = m;
      spread = s - m * m;
    }
    float move = d / (sqrtf(spread) + t.eps);
    if (velocity) {
      move = fmaf(t.momentum, velocity[i], move);
      velocity[i] = move;
    }
    p[i] = fmaf(-t.lr, move, x);
  }
};

struct Adam {
  AdamStep t;
  float* p;
  const float* g;
  float *mean, *square, *largest;
  __device__ void operator()(int64_t i) const {
    const float x = p[i];
    float d = t.sign * g[i];
    if (t.decay != 0) d = fmaf(t.decay, x, d);
    const float before = mean[i], m = fmaf(t.rest1, d - before, before);
    mean[i] = m;
    float s = fmaf(t.rest2 * d, d, t.beta2 * square[i]);
    square[i] = s;
    if (largest) {
      const float most = largest[i];
      s = most > s || most != most ? most : s;
      largest[i] = s;
    }
    p[i] = fmaf(-t.size, m / (sqrtf(s) / t.root + t.eps), x * t.keep);
  }
};

struct Approach {
  float share;
  float* y;
  const float* x;
  __device__ void operator()(int64_t i) const { y[i] = fmaf(share, x[i] - y[i], y[i]); }
};

struct AddScaled {
  float factor;
  float* y;
  const float* x;
  __device__ void operator()(int64_t i) const { y[i] = fmaf(factor, x[i], y[i]); }
};

template <class Step>
__global__ void __launch_bounds__(kThreads) step_kernel(Step step, int64_t n) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < n; i += stride) step(i);
}

template <class Step>
void each(const Step& step, int64_t n, cudaStream_t stream) {
  if (n > 0) CNNFAST_LAUNCH((step_kernel<Step>), blocks_for(n, kThreads), kThreads, 0, stream, step, n);
}

}  // namespace

void sgd(const SgdStep& step, float* p, const float* g, float* velocity, int64_t n, cudaStream_t stream) {
  each(Sgd{step, p, g, velocity}, n, stream);
}
void rmsprop(const RmspropStep& step, float* p, const float* g, float* square, float* mean, float* velocity,
             int64_t n, cudaStream_t stream) {
  each(Rmsprop{step, p, g, square, mean, velocity}, n, stream);
}
void adam(const AdamStep& step, float* p, const float* g, float* mean, float* square, float* largest,
          int64_t n, cudaStream_t stream) {
  each(Adam{step, p, g, mean, square, largest}, n, stream);
}
void approach(float share, float* y, const float* x, int64_t n, cudaStream_t stream) {
  each(Approach{share, y, x}, n, stream);
}
void add_scaled(float factor, float* y, const float* x, int64_t n, cudaStream_t stream) {
  each(AddScaled{factor, y, x}, n, stream);
}

}  // namespace cnnfast::cuda
