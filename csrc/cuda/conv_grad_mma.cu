// Gradients of weights by mma.sync, as conv_mma.cu: rows are taps and channels, columns output channels, and
// the sum runs over pixels. Both operands lie across the sum in memory, so that ldmatrix turns them.
//
// Work: 2 rows depth o multiply-adds; bytes of x, g, dw once where they stay in L2.
#include "cuda/conv_mma_tile.h"

namespace cnnfast::cuda {
namespace {

// BM taps and channels, BN output channels, Pixels summed per stage.
template <int BM_, int BN_, int Pixels_, int WM_, int WN_, int Stages_>
struct GradTile {
  static constexpr int BM = BM_, BN = BN_, kPixels = Pixels_, WM = WM_, WN = WN_, kStages = Stages_;
  static constexpr int kWarpsM = BM / WM, kWarps = kWarpsM * (BN / WN), kThreads = 32 * kWarps;
  static constexpr int kStageBytes = (BM + BN) * kPixels * 2;
  static constexpr int kLd = WN + 8;
  static constexpr int kShared = std::max(kStages * kStageBytes, kWarps * 16 * kLd * 4);
};

// Bytes of a chunk within rows of 8 or more chunks.
__device__ __forceinline__ int swizzled_pixel(int row, int chunk, int chunks) {
  return (row * chunks + (chunk ^ (row & 7))) * 16;
}

template <class T, class Tile, int Piece>
__global__ void __launch_bounds__(Tile::kThreads)
    conv_mma_grad_weight_kernel(const __grid_constant__ Arguments<T> a) {
  ptx::begin_kernel();
  CNNFAST_DYNAMIC_SHARED(unsigned char, shared);
  constexpr int kPieces = 16 / Piece, kElements = Piece / 2;
  constexpr int kChunksX = Tile::BM / 8, kChunksG = Tile::BN / 8;
  constexpr int kStepX = Tile::kThreads / kChunksX, kStepG = Tile::kThreads / kChunksG;
  static_assert(Tile::kPixels % kStepX == 0 && Tile::kPixels % kStepG == 0, "pixels of a thread");
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int wm = warp % Tile::kWarpsM * Tile::WM, wn = warp / Tile::kWarpsM * Tile::WN;
  const int group = static_cast<int>(blockIdx.y), part = static_cast<int>(blockIdx.z);
  int m0, n0;
  block_tile(a, static_cast<int>(blockIdx.x), m0, n0);
  m0 *= Tile::BM, n0 *= Tile::BN;
  const int first = part * a.steps * Tile::kPixels;
  const int steps = min(a.steps, (a.rows - first + Tile::kPixels - 1) / Tile::kPixels);

  // The tap and channel of a chunk stay; pixels go on.
  const int chunk_x = thread % kChunksX, chunk_g = thread % kChunksG;
  int down[kPieces], right[kPieces];
  int64_t delta[kPieces];
  bool inside[kPieces];
#pragma unroll
  for (int e = 0; e < kPieces; ++e) {
    const int k = m0 + (chunk_x * kPieces + e) * kElements, tap = k / a.c;
    inside[e] = k < a.depth;
    down[e] = tap / a.kw * a.dh - a.pt;
    right[e] = tap % a.kw * a.dw - a.pl;
    delta[e] = (static_cast<int64_t>(down[e]) * a.width + right[e]) * a.ldx +
               static_cast<int64_t>(group) * a.c + k % a.c;
  }
  const bool inside_g = n0 + chunk_g * 8 < a.o;
  const T* g = a.w + static_cast<int64_t>(group) * a.o + n0 + chunk_g * 8;
  constexpr int kRowsX = Tile::kPixels / kStepX;
  int n[kRowsX], p[kRowsX], q[kRowsX];
#pragma unroll
  for (int i = 0; i < kRowsX; ++i) {
    const int m = first + thread / kChunksX + i * kStepX;
    q[i] = m % a.q, p[i] = m / a.q % a.p, n[i] = m / a.q / a.p;
  }
  int pixel = first;  // of the next stage

  const auto next = [&](unsigned char* stage) {
#pragma unroll
    for (int i = 0; i < kRowsX; ++i) {
      const int row = thread / kChunksX + i * kStepX;
      const int y = p[i] * a.sh, x = q[i] * a.sw;
      const T* at = a.x + ((static_cast<int64_t>(n[i]) * a.h + y) * a.width + x) * a.ldx;
#pragma unroll
      for (int e = 0; e < kPieces; ++e) {
        const bool valid = inside[e] && pixel + row < a.rows &&
                           static_cast<unsigned>(y + down[e]) < static_cast<unsigned>(a.h) &&
                           static_cast<unsigned>(x + right[e]) < static_cast<unsigned>(a.width);
        ptx::cp_async<Piece>(stage + swizzled_pixel(row, chunk_x, kChunksX) + e * Piece,
                             valid ? at + delta[e] : a.x, valid);
      }
      q[i] += Tile::kPixels;
      while (q[i] >= a.q) {
        q[i] -= a.q;
        if (++p[i] == a.p) p[i] = 0, ++n[i];
      }
    }
    unsigned char* stage_g = stage + Tile::BM * Tile::kPixels * 2;
#pragma unroll
    for (int i = 0; i < Tile::kPixels / kStepG; ++i) {
      const int row = thread / kChunksG + i * kStepG;
      const bool valid = inside_g && pixel + row < a.rows;
      ptx::cp_async<16>(stage_g + swizzled_pixel(row, chunk_g, kChunksG),
                        valid ? g + (pixel + row) * a.y_column : a.w, valid);
    }
    pixel += Tile::kPixels;
  };

#pragma unroll
  for (int s = 0; s < Tile::kStages - 1; ++s) {
    if (s < steps) next(shared + s * Tile::kStageBytes);
    ptx::cp_commit();
  }
  float sums[Tile::WM / 16][Tile::WN / 8][4] = {};
  int reading = 0, writing = Tile::kStages - 1;
  for (int step = 0; step < steps; ++step) {
    ptx::cp_wait<Tile::kStages - 2>();
    __syncthreads();
    if (step + Tile::kStages - 1 < steps) next(shared + writing * Tile::kStageBytes);
    ptx::cp_commit();
    writing = writing + 1 == Tile::kStages ? 0 : writing + 1;
    const unsigned char* xs = shared + reading * Tile::kStageBytes;
    const unsigned char* gs = xs + Tile::BM * Tile::kPixels * 2;
    reading = reading + 1 == Tile::kStages ? 0 : reading + 1;
#pragma unroll
    for (int k = 0; k < Tile::kPixels / 16; ++k) {
      uint32_t x[Tile::WM / 16][4], w[Tile::WN / 8][2];
#pragma unroll
      for (int i = 0; i < Tile::WM / 16; ++i) {
        const int row = 16 * k + lane % 8 + lane / 16 * 8, chunk = (wm + 16 * i) / 8 + lane / 8 % 2;
        ptx::ldmatrix_x4_trans(x[i], xs + swizzled_pixel(row, chunk, kChunksX));
      }
#pragma unroll
      for (int j = 0; j < Tile::WN / 16; ++j) {
        uint32_t two[4];
        const int row = 16 * k + lane % 16, chunk = (wn + 16 * j) / 8 + lane / 16;
        ptx::ldmatrix_x4_trans(two, gs + swizzled_pixel(row, chunk, kChunksG));
        w[2 * j][0] = two[0], w[2 * j][1] = two[1];
        w[2 * j + 1][0] = two[2], w[2 * j + 1][1] = two[3];
      }
#pragma unroll
      for (int i = 0; i < Tile::WM / 16; ++i)
#pragma unroll
        for (int j = 0; j < Tile::WN / 8; ++j) multiply(sums[i][j], x[i], w[j], T{});
    }
  }

  ptx::cp_wait<0>();
  const int columns = a.groups * a.o;
  const auto put = [&](int row, int column, auto& values, bool) {
    row += m0, column += n0;
    if (row >= a.depth || column >= a.o) return;  // o is a multiple of eight
    const int64_t at = static_cast<int64_t>(row) * columns + group * a.o + column;
    if (a.partial)
      put_partial(a, static_cast<int64_t>(part) * a.depth + row, group * a.o + column, columns, values);
    else
      store_vector<8>(a.y + at, values);
  };
  put_results<Tile, 8>(sums, reinterpret_cast<float*>(shared), [](int, int) { return false; }, put);
}

// Adds parts of gradients of weights, in their order.
template <class T>
__global__ void __launch_bounds__(256) add_parts(const float* partial, T* y, int64_t count, int splits) {
  ptx::begin_kernel();
  for (int64_t i = (blockIdx.x * 256ll + threadIdx.x) * 4; i < count; i += gridDim.x * 1024ll) {
    float values[4] = {};
    for (int part = 0; part < splits; ++part) {
      const float4 v = *reinterpret_cast<const float4*>(partial + part * count + i);
      values[0] += v.x, values[1] += v.y, values[2] += v.z, values[3] += v.w;
    }
    store_vector<4>(y + i, values);
  }
}

using LargeGrad = GradTile<128, 128, 32, 64, 64, 4>;
using SmallGrad = GradTile<64, 64, 32, 32, 32, 4>;

MmaChoice choose_grad_weight(DType type, const ConvMma& s, MmaChoice choice) {
  constexpr BlockShape kLarge{128, 128, 0}, kSmall{64, 64, 0};
  if (choice.tile < 0)
    choice.tile =
        s.o > 64 && s.depth() > 64 && blocks(kLarge, s.depth(), s.o, s.groups) * 8 >= multiprocessors() ? 0
                                                                                                        : 1;
  if (piece(type, s) == 8) choice.tile = 1;
  const int64_t steps = std::max<int64_t>(ceil_div(s.rows(), 32), 1);
  if (choice.splits < 1)
    choice.splits =
        choose_splits(blocks(choice.tile == 0 ? kLarge : kSmall, s.depth(), s.o, s.groups), steps);
  choice.splits = used_splits(steps, choice.splits);
  return choice;
}

template <class T, class Tile, int Piece>
void launch_grad_weight(Arguments<T> a, int splits, cudaStream_t stream) {
  a.tiles_m = static_cast<int>(ceil_div(a.depth, Tile::BM));
  a.tiles_n = static_cast<int>(ceil_div(a.o, Tile::BN));
  a.rows_first = a.o > a.depth;
  a.steps = static_cast<int>(ceil_div(ceil_div(a.rows, Tile::kPixels), splits));
  const dim3 grid(static_cast<unsigned>(a.tiles_m) * a.tiles_n, a.groups, splits);
  CNNFAST_LAUNCH((conv_mma_grad_weight_kernel<T, Tile, Piece>), grid, dim3(Tile::kThreads), Tile::kShared,
                 stream, a);
  if (splits == 1) return;
  const int64_t count = static_cast<int64_t>(a.depth) * a.groups * a.o;
  CNNFAST_LAUNCH((add_parts<T>), dim3(blocks_for(count, 1024)), dim3(256), 0, stream, a.partial, a.y, count,
                 splits);
}

template <class T>
void run_grad_weight(const ConvMma& s, const void* x, const void* g, void* dw, void* workspace,
                     cudaStream_t stream, MmaChoice choice, int bytes) {
  Arguments<T> a = arguments<T>(s, x, g, dw);
  a.partial = choice.splits > 1 ? static_cast<float*>(workspace) : nullptr;
  if (bytes == 16) {
    if (choice.tile == 0) return launch_grad_weight<T, LargeGrad, 16>(a, choice.splits, stream);
    return launch_grad_weight<T, SmallGrad, 16>(a, choice.splits, stream);
  }
  return launch_grad_weight<T, SmallGrad, 8>(a, choice.splits, stream);
}

}  // namespace

int64_t conv_mma_grad_weight_workspace(DType type, const ConvMma& s, MmaChoice choice) {
  const int splits = choose_grad_weight(type, s, choice).splits;
  return splits > 1 ? 4 * splits * s.depth() * s.groups * s.o : 0;
}

void conv_mma_grad_weight(DType type, const ConvMma& s, const void* x, const void* g, void* dw,
                          void* workspace, cudaStream_t stream, MmaChoice choice) {
  choice = choose_grad_weight(type, s, choice);
  const int bytes = piece(type, s);
  if (type == DType::kBFloat16)
    return run_grad_weight<BFloat16>(s, x, g, dw, workspace, stream, choice, bytes);
  if (type == DType::kFloat16) return run_grad_weight<Half>(s, x, g, dw, workspace, stream, choice, bytes);
  throw std::invalid_argument("gradient of weights on tensor cores: expected bfloat16 or float16");
}

}  // namespace cnnfast::cuda
