// Matrix products by the tiles of tiles.h. 2 M N K FLOPs, 4 (M K + K N + M N) bytes at least: limited by FMA
// throughput from about M = N = 64 up, by memory below.
#include "cuda/gemm.h"

#include <algorithm>

#include "cuda/tiles.h"

namespace cnnfast::cuda {
namespace {

template <class T, int VA, int VB, bool TransposeA, bool TransposeB>
struct MatrixProblem {
  using Element = T;
  using A = MatrixOperand<T, VA, !TransposeA>;
  using B = MatrixOperand<T, VB, TransposeB>;
  A a;
  B b;
  MatrixResult<T> result;
  int batch, m, n, k;
  Stack stack;

  __device__ Part<A, B, MatrixResult<T>> at(int z) const {
    Part<A, B, MatrixResult<T>> part{a, b, result, m, n, k};
    const int64_t before = static_cast<int64_t>(z) * m * n;
    part.result.data += before;
    if (part.result.finish.residual != nullptr) part.result.finish.residual += before;
    for (int axis = stack.axes - 1; axis >= 0; --axis) {
      const int size = static_cast<int>(stack.size[axis]), i = z % size;
      z /= size;
      part.a.data += i * stack.a[axis];
      part.b.data += i * stack.b[axis];
    }
    return part;
  }
};

// --- few rows --------------------------------------------------------------------------------------

constexpr int kRows = 4, kWarps = 8, kWide = 128;  // most rows; warps of a block, and its columns

// A dense layer of a few pictures reads its weights once, at the speed of memory: a lane has four columns of
// up to four rows, the warps of a block take every eighth row of B in turn, and what they have is added in
// their order. 2 M FLOPs for each 4 bytes.
template <int M, class Problem>
__global__ void __launch_bounds__(32 * kWarps)
    few_rows_kernel(const __grid_constant__ Problem problem, int columns, int share, int splits,
                    float* partial) {
  ptx::begin_kernel();
  CNNFAST_SHARED(float, held, [kWarps][M][kWide]);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int n0 = blockIdx.x % columns * kWide, split = blockIdx.x / columns % splits,
            z = blockIdx.x / columns / splits;
  const auto part = problem.at(z);
  const int n = n0 + 4 * lane, first = split * share, last = min(first + share, part.k);
  const typename Problem::Element* rows[M];  // the last one again where there are fewer
#pragma unroll
  for (int m = 0; m < M; ++m) rows[m] = part.a.data + min(m, part.m - 1) * part.a.ld;
  float sums[M][4] = {};
  if (n < part.n) {
#pragma unroll 4
    for (int k = first + warp; k < last; k += kWarps) {
      float b[4];
      load_vector(part.b.data + k * part.b.ld + n, b);
#pragma unroll
      for (int m = 0; m < M; ++m) {
        const float a = load(rows[m] + k);
#pragma unroll
        for (int v = 0; v < 4; ++v) sums[m][v] = fmaf(a, b[v], sums[m][v]);
      }
    }
  }
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int v = 0; v < 4; ++v) held[warp][m][4 * lane + v] = sums[m][v];
  __syncthreads();
#pragma unroll 1
  for (int e = threadIdx.x; e < M * kWide; e += 32 * kWarps) {
    const int m = e / kWide, column = e % kWide;
    if (m >= part.m || n0 + column >= part.n) continue;
    float sum[1] = {held[0][m][column]};
    for (int w = 1; w < kWarps; ++w) sum[0] += held[w][m][column];
    if (partial != nullptr)
      partial[((static_cast<int64_t>(split) * problem.batch + z) * part.m + m) * part.n + n0 + column] =
          sum[0];
    else
      write(part.result, m, n0 + column, false, sum);
  }
}

template <class Problem>
void launch_few_rows(const Problem& problem, Workspace& workspace, cudaStream_t stream) {
  const int64_t columns = ceil_div(problem.n, kWide),
                total = int64_t{1} * problem.batch * problem.m * problem.n;
  const int64_t wanted =
      std::max<int64_t>(1, std::min<int64_t>(2 * kFill / (columns * problem.batch), problem.k / 64));
  const int64_t share = std::max<int64_t>(1, ceil_div(problem.k, wanted));
  const int64_t splits = std::max<int64_t>(1, ceil_div(problem.k, share));
  float* partial = splits > 1 ? workspace.floats(splits * total) : nullptr;
  const unsigned blocks = static_cast<unsigned>(checked(columns * splits * problem.batch));
  const auto run = [&](auto m) {
    CNNFAST_LAUNCH((few_rows_kernel<m(), Problem>), blocks, 32 * kWarps, 0, stream, problem,
                   static_cast<int>(columns), static_cast<int>(share), static_cast<int>(splits), partial);
  };
  if (problem.m == 1)
    run(Int<1>{});
  else
    run(Int<kRows>{});
  if (partial)
    CNNFAST_LAUNCH((join_kernel<Problem>), blocks_for(total, 256), 256, 0, stream, problem,
                   static_cast<int>(splits), partial);
}

template <class T, bool TransposeA, bool TransposeB>
void launch_gemm(const GemmSpec& s, const void* a, const void* b, const Ends& ends, void* y,
                 Workspace& workspace, cudaStream_t stream) {
  const int m = checked(s.m), n = checked(s.n), k = checked(s.k);
  int64_t batch = 1;
  const bool a_quads = (TransposeA ? m : k) % 4 == 0 && aligned(4 * sizeof(T), a);
  const bool b_quads = (TransposeB ? k : n) % 4 == 0 && aligned(4 * sizeof(T), b);
  for (int axis = 0; axis < s.stack.axes; ++axis) batch *= s.stack.size[axis];
  const bool y_quads = n % 4 == 0 && aligned(4 * sizeof(T), y, ends.residual);
  const MatrixResult<T> result{static_cast<T*>(y), n, y_quads, finish<T>(ends)};
  choose_vectors<T, !TransposeA && !TransposeB>(a_quads, b_quads, [&](auto va, auto vb) {
    using Problem = MatrixProblem<T, va(), vb(), TransposeA, TransposeB>;
    const Problem problem{{static_cast<const T*>(a), TransposeA ? m : k},
                          {static_cast<const T*>(b), TransposeB ? k : n},
                          result,
                          checked(batch),
                          m,
                          n,
                          k,
                          s.stack};
    if constexpr (!TransposeA && !TransposeB && decltype(vb)::value == 4)
      if (m <= kRows && m * n > 0 && batch > 0) return launch_few_rows(problem, workspace, stream);
    launch_product(problem, workspace, stream);
  });
}

template <class T, int V>
struct GramProblem {
  using Operand = MatrixOperand<T, V, false>;
  using A = Operand;
  using B = Operand;
  const T* x;
  T* y;
  int batch, m, n, k;
  bool vector;

  __device__ Part<Operand, Operand, SymmetricResult<T>> at(int z) const {
    const Operand f{x + static_cast<int64_t>(z) * k * m, m};
    return {f, f, {y + static_cast<int64_t>(z) * m * n, n, vector, {nullptr, nullptr, kNone, 0.0f}}, m, n, k};
  }
};

// --- sums of columns -------------------------------------------------------------------------------

constexpr int kSumRows = 8, kSumColumns = 32;  // threads of a block
constexpr int kMostSums = 256;                 // blocks of rows

// A thread adds every eighth row of its block's share, and one thread per column adds what eight of them
// have. One FLOP for each element read; limit: memory.
template <class T>
__global__ void __launch_bounds__(kSumRows* kSumColumns)
    column_sums_kernel(const T* x, int64_t rows, int64_t columns, int64_t share, float* partial) {
  ptx::begin_kernel();
  CNNFAST_SHARED(float, sums, [kSumRows][kSumColumns]);
  const int tx = threadIdx.x % kSumColumns, ty = threadIdx.x / kSumColumns;
  const int64_t column = blockIdx.x * int64_t{kSumColumns} + tx;
  const int64_t first = blockIdx.y * share, last = min(first + share, rows);
  float sum = 0.0f;
  if (column < columns)
    for (int64_t r = first + ty; r < last; r += kSumRows) sum += load(x + r * columns + column);
  sums[ty][tx] = sum;
  __syncthreads();
  if (ty > 0 || column >= columns) return;
  for (int i = 1; i < kSumRows; ++i) sum += sums[i][tx];
  partial[blockIdx.y * columns + column] = sum;
}

template <class T>
__global__ void __launch_bounds__(128)
    join_sums_kernel(const float* partial, int64_t count, int64_t blocks, T* y) {
  ptx::begin_kernel();
  const int64_t i = blockIdx.x * int64_t{128} + threadIdx.x;
  if (i >= count) return;
  double sum = 0.0;
  for (int64_t b = 0; b < blocks; ++b) sum += partial[b * count + i];
  store(y + i, static_cast<float>(sum));
}

}  // namespace

void gemm(DType type, const GemmSpec& s, const void* a, const void* b, const Ends& ends, void* y,
          Workspace& workspace, cudaStream_t stream) {
  dispatch_float(type, [&](auto zero) {
    using T = decltype(zero);
    if (s.transpose_a) return launch_gemm<T, true, false>(s, a, b, ends, y, workspace, stream);
    if (s.transpose_b) return launch_gemm<T, false, true>(s, a, b, ends, y, workspace, stream);
    launch_gemm<T, false, false>(s, a, b, ends, y, workspace, stream);
  });
}

void gram(DType type, int64_t n, int64_t rows, int64_t c, const void* x, void* y, Workspace& workspace,
          cudaStream_t stream) {
  dispatch_float(type, [&](auto zero) {
    using T = decltype(zero);
    const bool quads = c % 4 == 0 && aligned(4 * sizeof(T), x, y);
    const auto run = [&](auto v) {
      const GramProblem<T, v()> problem{static_cast<const T*>(x),
                                        static_cast<T*>(y),
                                        checked(n),
                                        checked(c),
                                        checked(c),
                                        checked(rows),
                                        quads};
      launch_product<MediumTile>(problem, workspace, stream);
    };
    if (quads)
      run(Int<4>{});
    else
      run(Int<1>{});
  });
}

void column_sums(DType type, int64_t rows, int64_t columns, const void* x, void* y, Workspace& workspace,
                 cudaStream_t stream) {
  if (columns == 0) return;
  const int64_t wanted = std::min<int64_t>(kMostSums, std::max<int64_t>(1, rows / 32));
  const int64_t share = std::max<int64_t>(1, ceil_div(rows, wanted)),
                blocks = std::max<int64_t>(1, ceil_div(rows, share));
  float* partial = workspace.floats(blocks * columns);
  const dim3 grid(static_cast<unsigned>(ceil_div(columns, kSumColumns)), static_cast<unsigned>(blocks));
  dispatch_float(type, [&](auto zero) {
    using T = decltype(zero);
    CNNFAST_LAUNCH((column_sums_kernel<T>), grid, kSumRows * kSumColumns, 0, stream, static_cast<const T*>(x),
                   rows, columns, share, partial);
  });
  join_sums(type, blocks, columns, partial, y, stream);
}

void join_sums(DType type, int64_t blocks, int64_t count, const float* partial, void* y,
               cudaStream_t stream) {
  dispatch_float(type, [&](auto zero) {
    using T = decltype(zero);
    CNNFAST_LAUNCH((join_sums_kernel<T>), static_cast<unsigned>(ceil_div(count, 128)), 128, 0, stream,
                   partial, count, blocks, static_cast<T*>(y));
  });
}

}  // namespace cnnfast::cuda
