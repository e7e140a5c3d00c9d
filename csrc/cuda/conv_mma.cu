// Convolutions and matrix products by mma.sync, operands fetched by cp.async. bfloat16, float16 and tf32;
// sums in float32.
//
// A block computes BM output pixels of BN channels, its warps WM x WN each. What is summed over goes through
// shared memory in rows of 64 or 128 bytes, STAGES deep; 16-byte chunks of a row are exchanged by its number
// (XOR), so that ldmatrix and the copies meet no bank twice. A thread always copies the same chunk of some
// rows: it keeps the tap and channel of its chunk and where the windows of its rows begin, and divides only
// before the first. An element is summed in the order of taps and channels, sixteen (or eight) at a time,
// whatever the block; only where the sum is cut into parts, for maps too small to fill the device, the parts
// are added afterwards, in order. So equal calls give equal bits.
//
// Work: 2 rows depth o multiply-adds; bytes of x, w, y once where they stay in L2. A 128 x 128 block reads
// 2 (1/128 + 1/128) bytes from shared memory for each multiply-add of 2-byte elements.
#include "cuda/conv_mma.h"

#include "cuda/conv_mma_tile.h"

namespace cnnfast::cuda {
namespace {

template <int BM_, int BN_, int Row_, int WM_, int WN_, int Stages_, int Resident_>
struct Tile {
  static constexpr int BM = BM_, BN = BN_, kRow = Row_, WM = WM_, WN = WN_, kStages = Stages_;
  static constexpr int kResident = Resident_;  // blocks of a multiprocessor: what registers and memory allow
  static constexpr int kChunks = kRow / 16;
  static constexpr int kWarpsM = BM / WM, kWarps = kWarpsM * (BN / WN), kThreads = 32 * kWarps;
  static constexpr int kStageBytes = (BM + BN) * kRow;
  static constexpr int kLd = WN + 8;  // floats from row to row where results are put in order
  static constexpr int kShared = std::max(kStages * kStageBytes, kWarps * 16 * kLd * 4);
};

// Byte of a chunk within rows of 64 or 128 bytes. Eight rows of one chunk lie in different banks.
template <int Row>
__device__ __forceinline__ int swizzled(int row, int chunk) {
  return row * Row + ((chunk ^ (Row == 64 ? row >> 1 & 3 : row & 7)) * 16);
}

// Brings the rows of a stage to shared memory. Piece: bytes of neighbouring channels that are surely there.
template <class T, class Tile, int Piece>
struct Loader {
  static constexpr int kPieces = 16 / Piece, kElements = Piece / static_cast<int>(sizeof(T));
  static constexpr int kStep = Tile::kRow / static_cast<int>(sizeof(T));  // of the depth, per stage
  static constexpr int kRowStep = Tile::kThreads / Tile::kChunks;
  static constexpr int kRowsX = Tile::BM / kRowStep, kRowsW = Tile::BN / kRowStep;
  static_assert(Tile::BM % kRowStep == 0 && Tile::BN % kRowStep == 0 && kRowStep % 8 == 0,
                "rows of a thread");

  const Arguments<T>& a;
  const T* window[kRowsX];  // first tap of the rows' windows; may lie in the padding
  int top[kRowsX], left[kRowsX];
  const T* weights;  // of the first row, at the current depth
  int channels_left;
  int row, column[kPieces], r[kPieces], s[kPieces];  // column: channel

  __device__ __forceinline__ Loader(const Arguments<T>& a, int m0, int n0, int group, int depth) : a(a) {
    const int chunk = threadIdx.x % Tile::kChunks;
    row = threadIdx.x / Tile::kChunks;
#pragma unroll
    for (int e = 0; e < kPieces; ++e) {
      const int k = depth + (chunk * kPieces + e) * kElements, tap = k / a.c;
      column[e] = k % a.c;
      r[e] = tap / a.kw;
      s[e] = tap % a.kw;
    }
#pragma unroll
    for (int i = 0; i < kRowsX; ++i) {
      const int m = m0 + row + i * kRowStep, q = m % a.q, p = m / a.q % a.p, n = m / a.q / a.p;
      top[i] = m < a.rows ? p * a.sh - a.pt : -(1 << 30);
      left[i] = q * a.sw - a.pl;
      window[i] = a.x + ((static_cast<int64_t>(n) * a.h + (p * a.sh - a.pt)) * a.width + left[i]) * a.ldx +
                  static_cast<int64_t>(group) * a.c;
    }
    channels_left = a.o - n0 - row;
    weights =
        a.w + (static_cast<int64_t>(group) * a.o + n0 + row) * a.depth + depth + chunk * kPieces * kElements;
  }

  __device__ __forceinline__ void next(unsigned char* stage) {
    const int chunk = threadIdx.x % Tile::kChunks;
    const int at = swizzled<Tile::kRow>(row, chunk);  // the same for all rows of the thread, but for the row
    unsigned char* stage_w = stage + Tile::BM * Tile::kRow;
#pragma unroll
    for (int e = 0; e < kPieces; ++e) {
      const bool inside = r[e] < a.kh;
      const int down = r[e] * a.dh, right = s[e] * a.dw;
      const int64_t delta = static_cast<int64_t>(down * a.width + right) * a.ldx + column[e];
#pragma unroll
      for (int i = 0; i < kRowsX; ++i) {
        const bool valid = inside && static_cast<unsigned>(top[i] + down) < static_cast<unsigned>(a.h) &&
                           static_cast<unsigned>(left[i] + right) < static_cast<unsigned>(a.width);
        ptx::cp_async<Piece>(stage + at + i * kRowStep * Tile::kRow + e * Piece,
                             valid ? window[i] + delta : a.x, valid);
      }
#pragma unroll
      for (int i = 0; i < kRowsW; ++i) {
        const bool valid = inside && i * kRowStep < channels_left;
        const T* from = weights + static_cast<int64_t>(i * kRowStep) * a.depth + e * kElements;
        ptx::cp_async<Piece>(stage_w + at + i * kRowStep * Tile::kRow + e * Piece, valid ? from : a.w, valid);
      }
      column[e] += kStep;
      while (column[e] >= a.c) {
        column[e] -= a.c;
        if (++s[e] == a.kw) s[e] = 0, ++r[e];
      }
    }
    weights += kStep;
  }
};

template <class T, class Tile, int Piece>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kResident)
    conv_mma_kernel(const __grid_constant__ Arguments<T> a) {
  ptx::begin_kernel();
  CNNFAST_DYNAMIC_SHARED(unsigned char, shared);
  constexpr int kStep = Tile::kRow / static_cast<int>(sizeof(T));
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int wm = warp % Tile::kWarpsM * Tile::WM, wn = warp / Tile::kWarpsM * Tile::WN;
  const int group = static_cast<int>(blockIdx.y), part = static_cast<int>(blockIdx.z);
  int m0, n0;
  block_tile(a, static_cast<int>(blockIdx.x), m0, n0);
  m0 *= Tile::BM, n0 *= Tile::BN;
  const int depth = part * a.steps * kStep;
  const int steps = min(a.steps, (a.depth - depth + kStep - 1) / kStep);

  Loader<T, Tile, Piece> loader(a, m0, n0, group, depth);
#pragma unroll
  for (int s = 0; s < Tile::kStages - 1; ++s) {
    if (s < steps) loader.next(shared + s * Tile::kStageBytes);
    ptx::cp_commit();
  }
  float sums[Tile::WM / 16][Tile::WN / 8][4] = {};
  int reading = 0, writing = Tile::kStages - 1;
  for (int step = 0; step < steps; ++step) {
    ptx::cp_wait<Tile::kStages - 2>();
    __syncthreads();  // the stage has come for all, and nobody reads any more the one that is filled next
    if (step + Tile::kStages - 1 < steps) loader.next(shared + writing * Tile::kStageBytes);
    ptx::cp_commit();
    writing = writing + 1 == Tile::kStages ? 0 : writing + 1;
    const unsigned char* xs = shared + reading * Tile::kStageBytes;
    const unsigned char* ws = xs + Tile::BM * Tile::kRow;
    reading = reading + 1 == Tile::kStages ? 0 : reading + 1;
#pragma unroll
    for (int k = 0; k < Tile::kRow / 32; ++k) {
      uint32_t x[Tile::WM / 16][4], w[Tile::WN / 8][2];
#pragma unroll
      for (int i = 0; i < Tile::WM / 16; ++i) {
        ptx::ldmatrix_x4(x[i], xs + swizzled<Tile::kRow>(wm + 16 * i + lane % 16, 2 * k + lane / 16));
        rounded<T>(x[i]);
      }
#pragma unroll
      for (int j = 0; j < Tile::WN / 16; ++j) {
        uint32_t two[4];
        const int row = wn + 16 * j + lane % 8 + lane / 16 * 8;
        ptx::ldmatrix_x4(two, ws + swizzled<Tile::kRow>(row, 2 * k + lane / 8 % 2));
        rounded<T>(two);
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
  constexpr int kValues = 16 / static_cast<int>(sizeof(T));
  const auto asked = [&](int row, int column) { return ask(a, group, m0 + row, n0 + column); };
  const auto put = [&](int row, int column, auto& values, const auto& residual) {
    row += m0, column += n0;
    if (row >= a.rows || column >= a.o) return;
    if (a.partial)
      put_partial(a, (static_cast<int64_t>(part) * a.groups + group) * a.rows + row, column, a.o, values);
    else
      finish(a, group, row, column, values, residual);
  };
  put_results<Tile, kValues>(sums, reinterpret_cast<float*>(shared), asked, put);
}

// Adds the parts of a sum in their order. One thread finishes N channels of a pixel.
template <class T, int N>
__global__ void __launch_bounds__(256) conv_mma_reduce(const __grid_constant__ Arguments<T> a, int splits) {
  ptx::begin_kernel();
  const int vectors = (a.o + N - 1) / N;
  const int64_t count = static_cast<int64_t>(a.groups) * a.rows * vectors;
  const int64_t whole = static_cast<int64_t>(a.groups) * a.rows * a.o;
  for (int64_t i = blockIdx.x * 256ll + threadIdx.x; i < count; i += gridDim.x * 256ll) {
    const int column = static_cast<int>(i % vectors) * N;
    const int64_t row = i / vectors;
    const int group = static_cast<int>(row / a.rows), m = static_cast<int>(row % a.rows);
    const auto residual = ask(a, group, m, column);
    const float* from = a.partial + row * a.o + column;
    float values[N] = {};
    for (int part = 0; part < splits; ++part, from += whole) {
      if (column + N <= a.o && a.o % 4 == 0) {
#pragma unroll
        for (int k = 0; k < N; k += 4) {
          const float4 v = *reinterpret_cast<const float4*>(from + k);
          values[k] += v.x, values[k + 1] += v.y, values[k + 2] += v.z, values[k + 3] += v.w;
        }
      } else {
#pragma unroll
        for (int k = 0; k < N; ++k)
          if (column + k < a.o) values[k] += from[k];
      }
    }
    finish(a, group, m, column, values, residual);
  }
}

// --- choice of block and launch --------------------------------------------------------------------

// Largest first. The first that gives every multiprocessor a block is taken.
using Large = Tile<128, 128, 64, 64, 64, 4, 2>;
using Tall = Tile<128, 64, 64, 64, 32, 4, 3>;
using Narrow = Tile<128, 32, 64, 32, 32, 4, 4>;
using Square = Tile<64, 64, 128, 32, 32, 4, 3>;
using Low = Tile<32, 64, 128, 16, 32, 4, 4>;

constexpr BlockShape kShapes[kMmaTiles] = {
    {128, 128, 64}, {128, 64, 64}, {128, 32, 64}, {64, 64, 128}, {32, 64, 128}};

MmaChoice choose(DType type, const ConvMma& s, MmaChoice choice) {
  if (choice.tile < 0) {
    choice.tile = s.o <= 32 ? 2 : 4;
    for (const int tile : {0, 1, 3})
      if (s.o > 32 && (s.o > 64 || tile != 0) &&
          blocks(kShapes[tile], s.rows(), s.o, s.groups) >= multiprocessors()) {
        choice.tile = tile;
        break;
      }
    // A short map with a deep sum: larger blocks and a divided sum rather than many small blocks.
    if (choice.tile == 4 && s.rows() > 32) choice.tile = 3;
  }
  if (piece(type, s) == 8 && choice.tile != 2) choice.tile = 3;  // the others are not built for such channels
  const BlockShape& shape = kShapes[choice.tile];
  const int64_t steps = std::max<int64_t>(ceil_div(s.depth() * size_of(type), shape.step), 1);
  if (choice.splits < 1) choice.splits = choose_splits(blocks(shape, s.rows(), s.o, s.groups), steps);
  choice.splits = used_splits(steps, choice.splits);
  return choice;
}

template <class T, class Tile, int Piece>
void launch(Arguments<T> a, int splits, cudaStream_t stream) {
  constexpr int kStep = Tile::kRow / static_cast<int>(sizeof(T)), kValues = 16 / static_cast<int>(sizeof(T));
  a.tiles_m = static_cast<int>(ceil_div(a.rows, Tile::BM));
  a.tiles_n = static_cast<int>(ceil_div(a.o, Tile::BN));
  a.rows_first = a.o > a.rows;  // more weights than pixels: they are read once
  a.steps = static_cast<int>(ceil_div(ceil_div(a.depth, kStep), splits));
  const dim3 grid(static_cast<unsigned>(a.tiles_m) * a.tiles_n, a.groups, splits);
  CNNFAST_LAUNCH((conv_mma_kernel<T, Tile, Piece>), grid, dim3(Tile::kThreads), Tile::kShared, stream, a);
  if (splits == 1) return;
  const int64_t vectors = static_cast<int64_t>(a.groups) * a.rows * ceil_div(a.o, kValues);
  CNNFAST_LAUNCH((conv_mma_reduce<T, kValues>), dim3(blocks_for(vectors, 256)), dim3(256), 0, stream, a,
                 splits);
}

template <class T>
void launch_tile(const Arguments<T>& a, MmaChoice choice, int piece, cudaStream_t stream) {
  if (piece == 8) {
    if (choice.tile == 2) return launch<T, Narrow, 8>(a, choice.splits, stream);
    return launch<T, Square, 8>(a, choice.splits, stream);
  }
  switch (choice.tile) {
    case 0:
      return launch<T, Large, 16>(a, choice.splits, stream);
    case 1:
      return launch<T, Tall, 16>(a, choice.splits, stream);
    case 2:
      return launch<T, Narrow, 16>(a, choice.splits, stream);
    case 3:
      return launch<T, Square, 16>(a, choice.splits, stream);
    case 4:
      return launch<T, Low, 16>(a, choice.splits, stream);
    default:
      throw std::invalid_argument("convolution on tensor cores: no such block");
  }
}

}  // namespace

bool conv_mma_accepts(DType type, const ConvMma& s) {
  return (type == DType::kFloat32 || type == DType::kBFloat16 || type == DType::kFloat16) &&
         piece(type, s) > 0;
}

// Channels of a tile of conv_sm90.cu that a call goes to, or 0.
static int hopper_columns([[maybe_unused]] DType type, [[maybe_unused]] const ConvMma& s,
                          [[maybe_unused]] MmaChoice choice) {
#if CNNFAST_HAVE_SM90
  if ((choice.tile >= 0 && choice.tile < kMmaTiles) || !conv_sm90_accepts(type, s)) return 0;
  return choice.tile < 0 ? conv_sm90_columns(s) : 64 << (choice.tile - kMmaTiles);
#else
  return 0;
#endif
}

int64_t conv_mma_workspace(DType type, const ConvMma& s, MmaChoice choice) {
  if (hopper_columns(type, s, choice)) return 0;
  const int splits = choose(type, s, choice).splits;
  return splits > 1 ? 4 * splits * s.groups * s.rows() * s.o : 0;
}

void conv_mma(DType type, const ConvMma& s, const void* x, const void* w, void* y,
              const MmaEpilogue& epilogue, void* workspace, cudaStream_t stream, MmaChoice choice) {
  if (s.rows() == 0) return;
#if CNNFAST_HAVE_SM90
  if (const int columns = hopper_columns(type, s, choice))
    return conv_sm90(type, s, x, w, y, epilogue, columns, stream);
#endif
  choice = choose(type, s, choice);
  dispatch_float(type, [&](auto element) {
    using T = decltype(element);
    Arguments<T> a = arguments<T>(s, x, w, y, epilogue);
    a.partial = choice.splits > 1 ? static_cast<float*>(workspace) : nullptr;
    launch_tile<T>(a, choice, piece(type, s), stream);
  });
}

}  // namespace cnnfast::cuda
