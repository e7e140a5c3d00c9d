// Convolution as implicit GEMM by the tiles of tiles.h: rows are pixels of the result, columns output
// channels of a group, K the taps of the window with their channels innermost. Nothing is laid out: where a
// slice of K lies in the picture is worked out once per thread and slice, by products with known divisors, so
// that few channels (a stem's three: one K of KH KW C, read one by one with neighbours in memory in
// neighbouring threads) take the same way as many, which are read in quads. Work: 2 N P Q O KH KW C/groups
// FLOPs. Reads through L2: each pixel KH KW / (stride^2) O / BN times, each weight N P Q / BM times. Limit:
// FMA throughput from some 16 channels up.
#include "cuda/conv2d.h"

#include "cuda/window.h"

namespace cnnfast::cuda {
namespace {

template <class T, int VA, int VB>
struct ConvProblem {
  using Element = T;
  using A = WindowOperand<T, VA, true>;
  using B = MatrixOperand<T, VB, false>;
  A x;  // of the first group, as all that follows
  B w;
  MatrixResult<T> y;
  int batch, m, n, k;  // batch: groups
  int channels;        // of a group

  __device__ Part<A, B, MatrixResult<T>> at(int group) const {
    Part<A, B, MatrixResult<T>> part{x, w, y, m, n, k};
    part.a.data += group * channels;
    part.b.data += group * n;
    part.result.shift(group * n);
    return part;
  }
};

template <class T>
void launch(const Conv2dSpec& s, const void* x, const void* w, const Ends& ends, void* y,
            Workspace& workspace, cudaStream_t stream) {
  const int64_t cg = s.c / s.groups, og = s.o / s.groups;
  const bool x_quads = cg % 4 == 0 && aligned(4 * sizeof(T), x),
             w_quads = og % 4 == 0 && aligned(4 * sizeof(T), w);
  const bool y_quads = og % 4 == 0 && aligned(4 * sizeof(T), y, ends.residual);
  const MatrixResult<T> result{static_cast<T*>(y), s.o, y_quads, finish<T>(ends)};
  choose_vectors<T, true>(x_quads, w_quads, [&](auto vx, auto vw) {
    const ConvProblem<T, vx(), vw()> problem{{static_cast<const T*>(x), window_of(s)},
                                             {static_cast<const T*>(w), s.o},
                                             result,
                                             checked(s.groups),
                                             checked(s.n * s.p * s.q),
                                             checked(og),
                                             checked(s.depth()),
                                             static_cast<int>(cg)};
    launch_product(problem, workspace, stream);
  });
}

}  // namespace

void conv2d(DType type, const Conv2dSpec& s, const void* x, const void* w, const Ends& ends, void* y,
            Workspace& workspace, cudaStream_t stream) {
  if (s.n * s.p * s.q * s.o == 0) return;
  if (is_depthwise(s)) return depthwise(type, s, x, w, ends, y, stream);
  if (is_pointwise(s))
    return gemm(type, {s.n * s.p * s.q, s.o, s.c, false, false, {}}, x, w, ends, y, workspace, stream);
  dispatch_float(type, [&](auto zero) { launch<decltype(zero)>(s, x, w, ends, y, workspace, stream); });
}

}  // namespace cnnfast::cuda
