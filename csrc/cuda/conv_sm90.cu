// Convolutions and matrix products of bfloat16 and float16 on Hopper: wgmma, fed by tensor maps.
//
// A block stays on its multiprocessor and takes one tile of 128 output pixels by BN channels after the other.
// One thread asks for the operands of the next stages, 64 channels of one tap each, as far ahead as there is
// memory: windows come by an im2col map (for 1x1 on all pixels, rows by a tiled one), padding and tails as
// zeros. Two groups of four warps multiply 64 pixels each; while one finishes its results the copies for the
// next tile are on their way. A stage is filled when its bytes have come (`full`), and free when all eight
// warps have read it (`empty`). Each element is summed in the order of taps and channels, as by conv_mma.cu,
// in steps of 16.
//
// Work as there. A 128 x 256 tile reads 128 (128 + 256) bytes from L2 for 2 * 128 * 256 * 64 operations.
#include <algorithm>

#include "cuda/conv_mma.h"
#include "cuda/conv_mma_arguments.h"
#include "cuda/hopper.h"

namespace cnnfast::cuda {
namespace {

constexpr int kRows = 128, kStep = 64;  // pixels of a tile, channels of a stage
constexpr int kThreads = 384, kReaders = 8;

template <int BN>
struct Sizes {
  static constexpr int kStageBytes = (kRows + BN) * kStep * 2;
  static constexpr int kStages = BN == 256 ? 4 : BN == 128 ? 6 : 8;
  static constexpr int kLd = 32 + 8;  // floats from row to row where results are put in order
  static constexpr int kResults = kStages * kStageBytes, kBarriers = kResults + kReaders * 16 * kLd * 4;
  static constexpr int kShared = kBarriers + 2 * kStages * 8;
};

// Place in the ring of stages, and the parity of the phase that its barriers are in.
template <int Stages>
struct Ring {
  int stage = 0, parity = 0;
  __device__ __forceinline__ void next() {
    if (++stage == Stages) stage = 0, parity ^= 1;
  }
};

template <class T, int BN, bool Pointwise>
__device__ __forceinline__ void fetch(const TensorMap& windows, const TensorMap& weights,
                                      const Arguments<T>& a, unsigned char* shared, uint64_t* full,
                                      uint64_t* empty) {
  Ring<Sizes<BN>::kStages> ring;
  const int tiles = a.tiles_m * a.tiles_n;
  for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    int m, n;
    block_tile(a, tile, m, n);
    m *= kRows, n *= BN;
    const int q = m % a.q, p = m / a.q % a.p, picture = m / a.q / a.p;
    for (int r = 0; r < a.kh; ++r)
      for (int s = 0; s < a.kw; ++s)
        for (int c = 0; c < a.c; c += kStep) {
          unsigned char* stage = shared + ring.stage * Sizes<BN>::kStageBytes;
          uint64_t* filled = full + ring.stage;
          ptx::barrier_wait(empty + ring.stage, ring.parity ^ 1);
          ptx::barrier_expect(filled, Sizes<BN>::kStageBytes);
          if constexpr (Pointwise)
            ptx::copy_tile(stage, windows, filled, c, m);
          else
            ptx::copy_windows(stage, windows, filled, c, q * a.sw - a.pl, p * a.sh - a.pt, picture, s * a.dw,
                              r * a.dh);
          ptx::copy_tile(stage + kRows * kStep * 2, weights, filled, c, r * a.kw + s, n);
          ring.next();
        }
  }
}

// Sums of one tile, of this group of warps.
template <class T, int BN>
__device__ __forceinline__ void sum_tile(float (&sums)[BN / 2], int steps, int group,
                                         Ring<Sizes<BN>::kStages>& ring, unsigned char* shared,
                                         uint64_t* full, uint64_t* empty) {
  const bool first_lane = threadIdx.x % 32 == 0;
  int before = 0;  // stage of the product under way
  for (int step = 0; step < steps; ++step) {
    const unsigned char* stage = shared + ring.stage * Sizes<BN>::kStageBytes;
    ptx::barrier_wait(full + ring.stage, ring.parity);
    const uint64_t x = ptx::tile_descriptor(stage + group * 64 * kStep * 2);
    const uint64_t w = ptx::tile_descriptor(stage + kRows * kStep * 2);
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < kStep / 16; ++k) ptx::wgmma(sums, x + 2 * k, w + 2 * k, step > 0 || k > 0, T{});
    ptx::wgmma_commit();
    ptx::wgmma_wait<1>();  // the product before this one
    if (step > 0 && first_lane) ptx::barrier_arrive(empty + before);
    before = ring.stage;
    ring.next();
  }
  ptx::wgmma_wait<0>();
  if (first_lane) ptx::barrier_arrive(empty + before);
}

// What finish_tile adds to rows lane / 4 and 8 more of 32 columns.
struct AskedRows {
  Asked first, second;
};
template <class T>
__device__ __forceinline__ AskedRows ask_rows(const Arguments<T>& a, int m, int n) {
  const int lane = threadIdx.x % 32, row = m + lane / 4, column = n + lane % 4 * 8;
  return {ask(a, 0, row, column), ask(a, 0, row + 8, column)};
}

// Puts the warp's 16 rows in order, 32 columns at a time, and finishes them. `next`: what was asked for the
// first 32.
template <class T, int BN>
__device__ __forceinline__ void finish_tile(const Arguments<T>& a, const float (&sums)[BN / 2], float* own,
                                            int m, int n, AskedRows next) {
  constexpr int kLd = Sizes<BN>::kLd;
  const int lane = threadIdx.x % 32;
#pragma unroll 1  // what follows the sums is long: it is there once, for all columns
  for (int part = 0; part < BN / 32; ++part) {
    const AskedRows asked = next;
    if (part + 1 < BN / 32) next = ask_rows(a, m, n + 32 * (part + 1));
#pragma unroll
    for (int i = 0; i < BN / 2; i += 4) {  // registers have no index
      if (i / 16 != part) continue;
      float* at = own + lane / 4 * kLd + i % 16 * 2 + lane % 4 * 2;
      *reinterpret_cast<float2*>(at) = make_float2(sums[i], sums[i + 1]);
      *reinterpret_cast<float2*>(at + 8 * kLd) = make_float2(sums[i + 2], sums[i + 3]);
    }
    __syncwarp();
#pragma unroll 1
    for (int row = lane / 4; row < 16; row += 8) {
      const int column = lane % 4 * 8;
      Asked residual;
#pragma unroll
      for (int i = 0; i < 4; ++i)
        residual.values[i] = row < 8 ? asked.first.values[i] : asked.second.values[i];
      const float4 low = *reinterpret_cast<const float4*>(own + row * kLd + column);
      const float4 high = *reinterpret_cast<const float4*>(own + row * kLd + column + 4);
      float values[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
      if (m + row < a.rows && n + 32 * part + column < a.o)
        finish(a, 0, m + row, n + 32 * part + column, values, residual);
    }
    __syncwarp();
  }
}

template <class T, int BN, bool Pointwise>
__global__ void __launch_bounds__(kThreads, 1)
    conv_wgmma_kernel(const __grid_constant__ TensorMap windows, const __grid_constant__ TensorMap weights,
                      const __grid_constant__ Arguments<T> a) {
  ptx::begin_kernel();
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(CNNFAST_SHIM)
  CNNFAST_DYNAMIC_SHARED(unsigned char, shared);
  constexpr int kStages = Sizes<BN>::kStages;
  auto* full = reinterpret_cast<uint64_t*>(shared + Sizes<BN>::kBarriers);
  uint64_t* empty = full + kStages;
  if (threadIdx.x == 0) {
    ptx::prefetch_map(windows);
    ptx::prefetch_map(weights);
    for (int i = 0; i < kStages; ++i) {
      ptx::barrier_init(full + i, 1);
      ptx::barrier_init(empty + i, kReaders);
    }
    ptx::barrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    ptx::give_registers<40>();
    if (threadIdx.x == 0) fetch<T, BN, Pointwise>(windows, weights, a, shared, full, empty);
  } else {
    ptx::take_registers<232>();
    const int warp = static_cast<int>(threadIdx.x) / 32 - 4, group = warp / 4;
    auto* own = reinterpret_cast<float*>(shared + Sizes<BN>::kResults) + warp * 16 * Sizes<BN>::kLd;
    const int steps = a.kh * a.kw * ((a.c + kStep - 1) / kStep), tiles = a.tiles_m * a.tiles_n;
    Ring<kStages> ring;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
      int m, n;
      block_tile(a, tile, m, n);
      m = m * kRows + 16 * warp, n *= BN;
      const AskedRows first = ask_rows(a, m, n);
      float sums[BN / 2];
      sum_tile<T, BN>(sums, steps, group, ring, shared, full, empty);
      finish_tile<T, BN>(a, sums, own, m, n, first);
    }
  }
#endif
}

// Last first pixel of a window from the last pixel on: what the map's upper corner is.
int upper_corner(int64_t first, int64_t count, int64_t step, int64_t size) {
  return static_cast<int>(first + (count - 1) * step - (size - 1));
}

bool is_pointwise(const ConvMma& s) {
  return s.kh == 1 && s.kw == 1 && s.sh == 1 && s.sw == 1 && s.pt == 0 && s.pl == 0 && s.p == s.h &&
         s.q == s.w;
}

template <class T, int BN>
void launch(const ConvMma& s, Arguments<T> a, cudaStream_t stream) {
  constexpr bool kHalf = std::is_same_v<T, Half>;
  a.tiles_m = static_cast<int>(ceil_div(a.rows, kRows));
  a.tiles_n = static_cast<int>(ceil_div(a.o, BN));
  a.rows_first = a.o > a.rows;
  const TensorMap weights = tiled_map(kHalf, a.w, 3, {s.c, s.kh * s.kw, s.o, 1}, BN);
  const dim3 grid(std::min(a.tiles_m * a.tiles_n, multiprocessors()));
  if (is_pointwise(s)) {
    const TensorMap windows = tiled_map(kHalf, a.x, 2, {s.c, s.rows(), 1, 1}, kRows);
    CNNFAST_LAUNCH((conv_wgmma_kernel<T, BN, true>), grid, dim3(kThreads), Sizes<BN>::kShared, stream,
                   windows, weights, a);
    return;
  }
  const int lower[2] = {static_cast<int>(-s.pl), static_cast<int>(-s.pt)};
  const int upper[2] = {upper_corner(-s.pl, s.q, s.sw, s.w), upper_corner(-s.pt, s.p, s.sh, s.h)};
  const int step[2] = {static_cast<int>(s.sw), static_cast<int>(s.sh)};
  const TensorMap windows = window_map(kHalf, a.x, {s.c, s.w, s.h, s.n}, lower, upper, step, kRows);
  CNNFAST_LAUNCH((conv_wgmma_kernel<T, BN, false>), grid, dim3(kThreads), Sizes<BN>::kShared, stream, windows,
                 weights, a);
}

template <class T>
void run(const ConvMma& s, const Arguments<T>& a, int columns, cudaStream_t stream) {
  if (columns == 64) return launch<T, 64>(s, a, stream);
  if (columns == 128) return launch<T, 128>(s, a, stream);
  launch<T, 256>(s, a, stream);
}

bool within(int64_t value, int64_t least, int64_t most) { return value >= least && value <= most; }

}  // namespace

bool conv_sm90_accepts(DType type, const ConvMma& s) {
  if (compute_capability() != 90 || (type != DType::kBFloat16 && type != DType::kFloat16)) return false;
  if (s.groups != 1 || s.ldx != s.c || s.c % 8 != 0 || s.depth() == 0 || s.rows() == 0) return false;
  if (is_pointwise(s)) return true;
  // The limits of an im2col map.
  return within(s.pl, -127, 128) && within(s.pt, -127, 128) && within(s.sw, 1, 8) && within(s.sh, 1, 8) &&
         within((s.kw - 1) * s.dw, 0, 255) && within((s.kh - 1) * s.dh, 0, 255) &&
         within(upper_corner(-s.pl, s.q, s.sw, s.w), -128, 127) &&
         within(upper_corner(-s.pt, s.p, s.sh, s.h), -128, 127);
}

int conv_sm90_columns(const ConvMma& s) {
  const auto fills = [&s](int columns) {
    return ceil_div(s.rows(), kRows) * ceil_div(s.o, columns) >= multiprocessors();
  };
  if (s.c < 64 || !fills(s.o <= 64 ? 64 : 128)) return 0;  // zeros beside the channels, idle multiprocessors
  return s.o <= 64 ? 64 : s.o % 256 == 0 && fills(256) ? 256 : 128;
}

void conv_sm90(DType type, const ConvMma& s, const void* x, const void* w, void* y,
               const MmaEpilogue& epilogue, int columns, cudaStream_t stream) {
  if (type == DType::kBFloat16) return run(s, arguments<BFloat16>(s, x, w, y, epilogue), columns, stream);
  run(s, arguments<Half>(s, x, w, y, epilogue), columns, stream);
}

}  // namespace cnnfast::cuda
