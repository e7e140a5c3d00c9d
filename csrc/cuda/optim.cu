// Memory bound: 8 to 28 bytes a value; neighbouring threads take neighbouring values. A block has a part of
// one tensor, which it finds in the table by its number.
#include "cuda/optim.h"

#include <cmath>

#include "cuda/device.h"

namespace cnnfast::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPart = 16 * kThreads;  // values of a block

using Arrays = float* const (&)[Tensors::kArrays];

struct Sgd {
  SgdStep t;
  __device__ void operator()(Arrays a, int64_t i) const {
    float *p = a[0], *velocity = a[2];
    const float x = p[i];
    float d = t.sign * a[1][i];
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
  __device__ void operator()(Arrays a, int64_t i) const {
    float *p = a[0], *square = a[2], *mean = a[3], *velocity = a[4];
    const float x = p[i];
    float d = t.sign * a[1][i];
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
  __device__ void operator()(Arrays a, int64_t i) const {
    float *p = a[0], *mean = a[2], *square = a[3], *largest = a[4];
    const float x = p[i];
    float d = t.sign * a[1][i];
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
  __device__ void operator()(Arrays a, int64_t i) const { a[0][i] = fmaf(share, a[1][i] - a[0][i], a[0][i]); }
};

struct AddScaled {
  float factor;
  __device__ void operator()(Arrays a, int64_t i) const { a[0][i] = fmaf(factor, a[1][i], a[0][i]); }
};

struct Scale {
  float factor;
  const float* by;
  int32_t* unsound;
  __device__ void operator()(Arrays a, int64_t i) const {
    const float y = a[1][i] * (by ? factor * *by : factor);
    a[0][i] = y;
    if (unsound && !(fabsf(y) < INFINITY)) *unsound = 1;  // whoever writes it writes this
  }
};

struct Clip {
  float bound;
  __device__ void operator()(Arrays a, int64_t i) const {
    const float x = a[1][i];
    a[0][i] = x > bound ? bound : x < -bound ? -bound : x;
  }
};

// What a block works on.
struct Part {
  Tensors::Row row;
  int64_t first, end;
  __device__ Part(const Tensors::Row* rows, int count) {
    int low = 0, high = count;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if (rows[middle].first <= static_cast<int64_t>(blockIdx.x))
        low = middle;
      else
        high = middle;
    }
    row = rows[low];
    first = (static_cast<int64_t>(blockIdx.x) - row.first) * kPart;
    end = first + kPart < row.n ? first + kPart : row.n;
  }
};

template <class Step>
__global__ void __launch_bounds__(kThreads) step_kernel(Step step, const Tensors::Row* rows, int count) {
  ptx::begin_kernel();
  const Part part(rows, count);
#pragma unroll 4
  for (int64_t i = part.first + threadIdx.x; i < part.end; i += kThreads) step(part.row.arrays, i);
}

template <class Step>
void each(const Step& step, const Tensors& tensors, void* table, cudaStream_t stream) {
  if (tensors.blocks() == 0) return;
  const Tensors::Row* rows = tensors.upload(table, stream);
  CNNFAST_LAUNCH((step_kernel<Step>), static_cast<unsigned>(tensors.blocks()), kThreads, 0, stream, step,
                 rows, tensors.count());
}

template <bool Largest>
__device__ __forceinline__ double joined(double a, double b) {
  if (!Largest) return a + b;
  return a > b || a != a ? a : b;
}

// Of the values of all threads, to thread 0.
template <bool Largest>
__device__ __forceinline__ double joined_by_block(double value, double* room) {
  const int t = threadIdx.x;
  room[t] = value;
  __syncthreads();
  for (int step = kThreads / 2; step > 0; step /= 2) {
    if (t < step) room[t] = joined<Largest>(room[t], room[t + step]);
    __syncthreads();
  }
  return room[0];
}

template <bool Largest>
__global__ void __launch_bounds__(kThreads) norm_kernel(const Tensors::Row* rows, int count, double* parts) {
  ptx::begin_kernel();
  CNNFAST_SHARED(double, room, [kThreads]);
  const Part part(rows, count);
  double total = 0;
#pragma unroll 4
  for (int64_t i = part.first + threadIdx.x; i < part.end; i += kThreads) {
    const double x = part.row.arrays[0][i];
    total = joined<Largest>(total, Largest ? fabs(x) : x * x);
  }
  total = joined_by_block<Largest>(total, room);
  if (threadIdx.x == 0) parts[blockIdx.x] = total;
}

template <bool Largest>
__global__ void __launch_bounds__(kThreads)
    norm_of_parts_kernel(const double* parts, int64_t count, double most, float* result) {
  ptx::begin_kernel();
  CNNFAST_SHARED(double, room, [kThreads]);
  double total = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) total = joined<Largest>(total, parts[i]);
  total = joined_by_block<Largest>(total, room);
  if (threadIdx.x != 0) return;
  const double norm = Largest ? total : sqrt(total), factor = most / (norm + 1e-6);
  result[0] = static_cast<float>(norm);
  result[1] = factor >= 1 ? 1.0f : static_cast<float>(factor);
}

template <bool Largest>
void norm_of(double most, const Tensors& tensors, void* table, double* parts, float* result,
             cudaStream_t stream) {
  const int64_t blocks = tensors.blocks();
  if (blocks > 0)
    CNNFAST_LAUNCH((norm_kernel<Largest>), static_cast<unsigned>(blocks), kThreads, 0, stream,
                   tensors.upload(table, stream), tensors.count(), parts);
  CNNFAST_LAUNCH((norm_of_parts_kernel<Largest>), 1, kThreads, 0, stream, parts, blocks, most, result);
}

}  // namespace

void Tensors::add(const std::vector<float*>& arrays, int64_t n) {
  if (arrays.size() > kArrays) throw std::invalid_argument("optim: too many arrays");
  if (n == 0) return;
  Row row{{}, n, blocks_};
  for (size_t i = 0; i < arrays.size(); ++i) row.arrays[i] = arrays[i];
  rows_.push_back(row);
  blocks_ += ceil_div(n, kPart);
}

const Tensors::Row* Tensors::upload(void* table, cudaStream_t stream) const {
  // Pageable memory is read before this returns.
  CNNFAST_CUDA_CHECK(cudaMemcpyAsync(table, rows_.data(), bytes(), cudaMemcpyHostToDevice, stream));
  return static_cast<const Row*>(table);
}

void sgd(const SgdStep& step, const Tensors& tensors, void* table, cudaStream_t stream) {
  each(Sgd{step}, tensors, table, stream);
}
void rmsprop(const RmspropStep& step, const Tensors& tensors, void* table, cudaStream_t stream) {
  each(Rmsprop{step}, tensors, table, stream);
}
void adam(const AdamStep& step, const Tensors& tensors, void* table, cudaStream_t stream) {
  each(Adam{step}, tensors, table, stream);
}
void approach(float share, const Tensors& tensors, void* table, cudaStream_t stream) {
  each(Approach{share}, tensors, table, stream);
}
void add_scaled(float factor, const Tensors& tensors, void* table, cudaStream_t stream) {
  each(AddScaled{factor}, tensors, table, stream);
}
void scale(float factor, const float* by, int32_t* unsound, const Tensors& tensors, void* table,
           cudaStream_t stream) {
  each(Scale{factor, by, unsound}, tensors, table, stream);
}
void clip(float bound, const Tensors& tensors, void* table, cudaStream_t stream) {
  each(Clip{bound}, tensors, table, stream);
}
void norm(bool largest, double most, const Tensors& tensors, void* table, double* parts, float* result,
          cudaStream_t stream) {
  (largest ? norm_of<true> : norm_of<false>)(most, tensors, table, parts, result, stream);
}

}  // namespace cnnfast::cuda
