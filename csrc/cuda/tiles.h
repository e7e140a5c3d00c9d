// The product of two matrices that are never laid out: tiles of both go through shared memory, and what their
// elements are is for an operand to say (a matrix, the windows of a picture, the weights of one phase).
//
// Algorithm: a block computes BM x BN sums, a thread 8 x 8 (8 x 4 in narrow tiles) of them as quads of 4 x 4,
// so that shared memory is read 16 bytes at a time, A by broadcast. While one slice of BK is multiplied the
// next one is on its way in registers, and is then put into the other of two buffers: one barrier per slice.
// Rows of shared memory are 4 floats longer than the tile, so that the transposing writes of an operand that
// is contiguous along K fall into 32 different banks. Sums: float32, one fused multiply-add after another in
// the order of K within a split; splits are added in their order by a second kernel. The bits depend on
// shapes alone, not on the device. Work: 2 M N K FLOPs; (M K + K N) reads of elements through L2, times N /
// BN and M / BM, and M N writes. Limit: FMA throughput; per slice and thread 64 BK FMAs on 4 BK reads of 16
// bytes from shared memory.
#pragma once
#include "cuda/activation.h"
#include "cuda/divisor.h"
#include "cuda/gemm.h"
#include "cuda/workspace.h"

#include <type_traits>

namespace cnnfast::cuda {

template <int BM_, int BN_, int BK_, int TM_, int TN_, int kBlocks_>
struct Tile {
  static constexpr int BM = BM_, BN = BN_, BK = BK_, TM = TM_, TN = TN_;
  static constexpr int kColumns = BN / TN, kThreads = (BM / TM) * kColumns;
  // That should fit a multiprocessor, a third less where elements are read one by one: registers for their
  // places.
  static constexpr int kBlocks = kBlocks_;
};
using LargeTile = Tile<128, 128, 8, 8, 8, 2>;
using MediumTile = Tile<64, 64, 8, 8, 8, 6>;
using NarrowTile = Tile<64, 32, 8, 8, 4, 8>;  // few output channels

// Index of nothing: below every valid row even when added to itself.
constexpr int kNowhere = -(1 << 30);

// --- operands --------------------------------------------------------------------------------------
// An operand tells the places of its rows (or columns) and of its slices apart: `outer` and `inner` do the
// divisions, once per row and once per slice; `read` gives kVector neighbours along K (kAlongK) or across it,
// zeros outside.

// An ordinary matrix: element (outer, k) at outer * ld + k along K, else at k * ld + outer.
template <class T, int V, bool AlongK>
struct MatrixOperand {
  static constexpr int kVector = V;
  static constexpr bool kAlongK = AlongK;
  struct Outer {
    const T* data;  // null: outside
  };
  struct Inner {
    int64_t offset;  // -1: outside
  };
  const T* data;
  int64_t ld;

  __device__ Outer outer(int i, int count) const {
    return {i < count ? data + (AlongK ? i * ld : static_cast<int64_t>(i)) : nullptr};
  }
  __device__ Inner inner(int k, int count) const {
    return {k < count ? (AlongK ? static_cast<int64_t>(k) : k * ld) : -1};
  }
  __device__ void read(const Outer& o, const Inner& i, float (&values)[V]) const {
    if (o.data != nullptr && i.offset >= 0) {
      load_vector<V>(o.data + i.offset, values);
    } else {
#pragma unroll
      for (int v = 0; v < V; ++v) values[v] = 0.0f;
    }
  }
};

// --- results ---------------------------------------------------------------------------------------

// y = act(sum + bias + residual).
template <class T>
struct Finish {
  const float* bias;  // by column, or null
  const T* residual;  // laid out as y, or null
  int activation;
  float slope;
  __device__ void shift(int columns) {
    if (bias != nullptr) bias += columns;
    if (residual != nullptr) residual += columns;
  }
};

// A matrix of rows: element (m, n) at m * ld + n.
template <class T>
struct MatrixResult {
  static constexpr bool kSymmetric = false;
  T* data;
  int64_t ld;
  bool vector;  // whether quads of columns may be written at once
  Finish<T> finish;
  __device__ int64_t row(int m) const { return m * ld; }  // -1: nowhere
  __device__ void shift(int columns) {
    data += columns;
    finish.shift(columns);
  }
};

// A symmetric matrix of which the upper half is computed and mirrored.
template <class T>
struct SymmetricResult {
  static constexpr bool kSymmetric = true;
  T* data;
  int64_t ld;
  bool vector;
  Finish<T> finish;
  __device__ int64_t row(int m) const { return m * ld; }
};

template <class Result, int V>
__device__ __forceinline__ void write(const Result& r, int m, int n, bool mirror, float (&values)[V]) {
  const auto& f = r.finish;
  const int64_t row = r.row(m), at = row + n;
  if (row < 0) return;
  if (f.bias != nullptr) {
#pragma unroll
    for (int v = 0; v < V; ++v) values[v] += f.bias[n + v];
  }
  if (f.residual != nullptr) {
    float more[V];
    load_vector<V>(f.residual + at, more);
#pragma unroll
    for (int v = 0; v < V; ++v) values[v] += more[v];
  }
  activate_all(values, f.activation, f.slope);
  store_vector<V>(r.data + at, values);
  if constexpr (Result::kSymmetric) {
#pragma unroll
    for (int v = 0; v < V; ++v)
      if (mirror) store(r.data + r.row(n + v) + m, values[v]);
  }
}

// One product: what Problem::at(z) gives.
template <class A, class B, class Result>
struct Part {
  A a;
  B b;
  Result result;
  int m, n, k;
};

// --- the kernel ------------------------------------------------------------------------------------

// One slice of an operand between global and shared memory.
template <class Operand, int kExtent, int BK, int kThreads>
struct Transfer {
  static constexpr int V = Operand::kVector;
  static constexpr bool kAlongK = Operand::kAlongK;
  static constexpr int kSide = (kAlongK ? BK : kExtent) / V;  // threads side by side where it is contiguous
  static constexpr int kLines = kThreads / kSide;
  static constexpr int kPasses = (kAlongK ? kExtent : BK) / kLines;
  static_assert(kThreads % kSide == 0 && kPasses >= 1 && kPasses * kLines == (kAlongK ? kExtent : BK),
                "the threads must cover a slice in whole passes");
  struct alignas(16) Shared {
    float rows[BK][kExtent + 4];
  };

  const Operand& operand;
  int side, line;
  typename Operand::Outer outers[kAlongK ? kPasses : 1];
  float values[kPasses][V];

  __device__ Transfer(const Operand& o, int thread, int first, int count)
      : operand(o), side(thread % kSide * V), line(thread / kSide) {
    if constexpr (kAlongK) {
#pragma unroll
      for (int p = 0; p < kPasses; ++p) outers[p] = operand.outer(first + line + p * kLines, count);
    } else {
      outers[0] = operand.outer(first + side, count);
    }
  }
  __device__ __forceinline__ void fetch(int k, int count) {
    if constexpr (kAlongK) {
      const auto inner = operand.inner(k + side, count);
#pragma unroll
      for (int p = 0; p < kPasses; ++p) operand.read(outers[p], inner, values[p]);
    } else {
#pragma unroll
      for (int p = 0; p < kPasses; ++p)
        operand.read(outers[0], operand.inner(k + line + p * kLines, count), values[p]);
    }
  }
  __device__ __forceinline__ void put(Shared& shared) const {
#pragma unroll
    for (int p = 0; p < kPasses; ++p) {
      if constexpr (kAlongK) {
#pragma unroll
        for (int v = 0; v < V; ++v) shared.rows[side + v][line + p * kLines] = values[p][v];
      } else {
        store_vector<V>(&shared.rows[line + p * kLines][side], values[p]);
      }
    }
  }
};

// A share of the sums: `slices` slices of BK for each of `splits` blocks on the same tile.
struct Splits {
  int count, slices;
  float* partial;  // count x batch x m x n sums, or null where count is 1
};

// Problem::at(z) gives a part of a batch: operands a, b, result, and m, n, k. Blocks count through splits,
// then columns of tiles, rows of tiles, and the batch, so that neighbours read the same rows of A.
template <class T, class Problem>
__global__ void __launch_bounds__(T::kThreads, Problem::A::kVector* Problem::B::kVector == 16
                                                   ? T::kBlocks
                                                   : T::kBlocks * 2 / 3)
    product_kernel(const __grid_constant__ Problem problem, int tiles_m, int tiles_n, Splits splits) {
  ptx::begin_kernel();
  using A = decltype(problem.at(0).a);
  using B = decltype(problem.at(0).b);
  using Result = decltype(problem.at(0).result);
  using FetchA = Transfer<A, T::BM, T::BK, T::kThreads>;
  using FetchB = Transfer<B, T::BN, T::BK, T::kThreads>;
  CNNFAST_SHARED(typename FetchA::Shared, shared_a, [2]);
  CNNFAST_SHARED(typename FetchB::Shared, shared_b, [2]);

  unsigned block = blockIdx.x;
  const int split = block % splits.count;
  block /= splits.count;
  const int tile_n = block % tiles_n;
  block /= tiles_n;
  const int tile_m = block % tiles_m, z = block / tiles_m;
  const auto part = problem.at(z);
  const int m0 = tile_m * T::BM, n0 = tile_n * T::BN;
  if (m0 >= part.m || n0 >= part.n) return;
  if (Result::kSymmetric && tile_n < tile_m) return;  // tiles of symmetric results are square

  const int thread = threadIdx.x, tx = thread % T::kColumns, ty = thread / T::kColumns;
  const int k0 = split * splits.slices * T::BK;
  const int slices = min(splits.slices, (part.k - k0 + T::BK - 1) / T::BK);
  FetchA a(part.a, thread, m0, part.m);
  FetchB b(part.b, thread, n0, part.n);

  float sums[T::TM][T::TN] = {};
  if (slices > 0) {
    a.fetch(k0, part.k);
    b.fetch(k0, part.k);
    a.put(shared_a[0]);
    b.put(shared_b[0]);
    __syncthreads();
  }
  for (int s = 0; s < slices; ++s) {
    const int now = s & 1;
    if (s + 1 < slices) {
      a.fetch(k0 + (s + 1) * T::BK, part.k);
      b.fetch(k0 + (s + 1) * T::BK, part.k);
    }
#pragma unroll
    for (int k = 0; k < T::BK; ++k) {
      float x[T::TM], y[T::TN];
#pragma unroll
      for (int i = 0; i < T::TM; i += 4)
        load_vector<4>(&shared_a[now].rows[k][i / 4 * (4 * T::BM / T::TM) + ty * 4],
                       *reinterpret_cast<float(*)[4]>(&x[i]));
#pragma unroll
      for (int j = 0; j < T::TN; j += 4)
        load_vector<4>(&shared_b[now].rows[k][j / 4 * (4 * T::BN / T::TN) + tx * 4],
                       *reinterpret_cast<float(*)[4]>(&y[j]));
#pragma unroll
      for (int i = 0; i < T::TM; ++i)
#pragma unroll
        for (int j = 0; j < T::TN; ++j) sums[i][j] = fmaf(x[i], y[j], sums[i][j]);
    }
    if (s + 1 < slices) {
      a.put(shared_a[now ^ 1]);
      b.put(shared_b[now ^ 1]);
    }
    __syncthreads();
  }

  // One quad at a time, so that what follows a sum is in the code once: a quad is picked by comparing its
  // number, since registers cannot be indexed.
  constexpr int kQuads = T::TN / 4;
#pragma unroll 1
  for (int q = 0; q < T::TM * kQuads; ++q) {
    float quad[4] = {};
#pragma unroll
    for (int i = 0; i < T::TM; ++i)
#pragma unroll
      for (int j = 0; j < kQuads; ++j)
        if (i * kQuads + j == q)
#pragma unroll
          for (int v = 0; v < 4; ++v) quad[v] = sums[i][4 * j + v];
    const int i = q / kQuads, j = q % kQuads;
    const int m = m0 + i / 4 * (4 * T::BM / T::TM) + ty * 4 + i % 4,
              n = n0 + j * (4 * T::BN / T::TN) + tx * 4;
    if (m >= part.m || n >= part.n) continue;
    if (splits.partial != nullptr) {
      const int64_t row = (static_cast<int64_t>(split) * problem.batch + z) * problem.m + m;
#pragma unroll
      for (int v = 0; v < 4; ++v)
        if (n + v < part.n) splits.partial[row * problem.n + n + v] = quad[v];
    } else if (part.result.vector) {
      write(part.result, m, n, tile_m != tile_n, quad);
    } else {
#pragma unroll 1
      for (int v = 0; v < 4 && n + v < part.n; ++v) {
        float one[1] = {v == 0 ? quad[0] : v == 1 ? quad[1] : v == 2 ? quad[2] : quad[3]};
        write(part.result, m, n + v, tile_m != tile_n, one);
      }
    }
  }
}

// Adds the splits of every element in their order and finishes it. One element per thread: count M N reads of
// 4 bytes, one write; limit: memory.
template <class Problem>
__global__ void __launch_bounds__(256)
    join_kernel(const __grid_constant__ Problem problem, int count, const float* partial) {
  ptx::begin_kernel();
  // Partial sums take 64 MiB at most, so that they are counted in 32 bits.
  const int area = problem.m * problem.n, total = area * problem.batch;
  for (int e = blockIdx.x * 256 + threadIdx.x; e < total; e += gridDim.x * 256) {
    const int z = e / area, m = e % area / problem.n, n = e % problem.n;
    const auto part = problem.at(z);
    if (m >= part.m || n >= part.n) continue;
    if (decltype(part.result)::kSymmetric && n < m) continue;  // the mirror of another
    float sum[1] = {0.0f};
    for (int s = 0; s < count; ++s) sum[0] += partial[s * total + e];
    write(part.result, m, n, m != n, sum);
  }
}

// --- choices ---------------------------------------------------------------------------------------

// Blocks that fill the largest devices: a constant, so that sums are split alike on all of them.
constexpr int64_t kFill = 264;

// Into how many parts the sums are split: enough blocks to fill a device, 64 products at least to a part, at
// most 4096 (for the error of long sums), and partial sums of at most 64 MiB.
struct SplitPlan {
  int64_t count = 1, slices = 1;
};
inline SplitPlan plan_splits(int64_t batch, int64_t m, int64_t n, int64_t k, int64_t tiles, int bk) {
  SplitPlan plan;
  const int64_t all = k > 0 ? ceil_div(k, bk) : 1;
  int64_t wanted = tiles * 2 <= kFill ? kFill / tiles : 1;
  const int64_t longest = ceil_div(k, 4096), most = (int64_t{64} << 20) / (4 * batch * m * n);
  if (wanted < longest) wanted = longest;
  if (wanted > all / 8) wanted = all / 8;
  if (wanted > most) wanted = most;
  if (wanted < 1) wanted = 1;
  plan.slices = ceil_div(all, wanted);
  plan.count = ceil_div(all, plan.slices);
  return plan;
}

template <class T>
SplitPlan plan_splits(int64_t batch, int64_t m, int64_t n, int64_t k) {
  return plan_splits(batch, m, n, k, batch * ceil_div(m, T::BM) * ceil_div(n, T::BN), T::BK);
}

template <class T, class Problem>
void launch_product(const Problem& problem, Workspace& workspace, cudaStream_t stream) {
  if (problem.batch == 0 || problem.m == 0 || problem.n == 0) return;
  const int64_t tiles_m = ceil_div(problem.m, T::BM), tiles_n = ceil_div(problem.n, T::BN);
  const SplitPlan plan = plan_splits<T>(problem.batch, problem.m, problem.n, problem.k);
  const int64_t blocks = tiles_m * tiles_n * problem.batch * plan.count;
  if (blocks > INT32_MAX)
    throw std::invalid_argument("the product has more tiles than a launch can have blocks");
  const int64_t total = int64_t{1} * problem.batch * problem.m * problem.n;
  float* partial = plan.count > 1 ? workspace.floats(plan.count * total) : nullptr;
  const Splits splits{static_cast<int>(plan.count), static_cast<int>(plan.slices), partial};
  CNNFAST_LAUNCH((product_kernel<T, Problem>), static_cast<unsigned>(blocks), T::kThreads, 0, stream, problem,
                 static_cast<int>(tiles_m), static_cast<int>(tiles_n), splits);
  if (partial)
    CNNFAST_LAUNCH((join_kernel<Problem>), blocks_for(total, 256), 256, 0, stream, problem, splits.count,
                   partial);
}

// Whether many large tiles fill the device; they read each element of A and B half as often as medium ones.
template <class Problem>
bool worth_large_tiles(const Problem& problem) {
  return problem.n > 64 &&
         problem.batch * ceil_div(problem.m, LargeTile::BM) * ceil_div(problem.n, LargeTile::BN) >= kFill / 2;
}

// The tile for a problem whose operands are read four elements at a time, or one of them is not.
template <class Problem>
void launch_product(const Problem& problem, Workspace& workspace, cudaStream_t stream) {
  if constexpr (std::is_same_v<typename Problem::Element, float>) {
    if (problem.n <= NarrowTile::BN) return launch_product<NarrowTile>(problem, workspace, stream);
    if constexpr (Problem::A::kVector == 4 && Problem::B::kVector == 4)
      if (worth_large_tiles(problem)) return launch_product<LargeTile>(problem, workspace, stream);
  }
  launch_product<MediumTile>(problem, workspace, stream);
}

// A size or a product of sizes that kernels count in 32 bits.
inline int checked(int64_t n) {
  if (n < 0 || n >= -int64_t{kNowhere})
    throw std::invalid_argument("a matrix or picture has 2^30 rows or more");
  return static_cast<int>(n);
}

template <class T>
inline Finish<T> finish(const Ends& ends) {
  return {ends.bias, static_cast<const T*>(ends.residual), ends.activation, ends.slope};
}

template <int N>
using Int = std::integral_constant<int, N>;
// Calls body(Int<4 or 1>, Int<4 or 1>). Float32 has a kernel for each; elements of two bytes, which tensor
// cores mostly take, have one for both and neither in forward products, and one for neither in gradients.
template <class T, bool kForward, class F>
void choose_vectors(bool a, bool b, F&& body) {
  constexpr bool kAll = std::is_same_v<T, float>;
  if constexpr (kAll || kForward)
    if (a && b) return body(Int<4>{}, Int<4>{});
  if constexpr (kAll) {
    if (a) return body(Int<4>{}, Int<1>{});
    if (b) return body(Int<1>{}, Int<4>{});
  }
  body(Int<1>{}, Int<1>{});
}

}  // namespace cnnfast::cuda
