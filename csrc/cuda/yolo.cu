// A thread for every place: nearly all hold nothing, and one comparison of their objectness says so. Scores
// are counted, one block adds up the counts, and boxes are written to where they belong, in the order of the
// places. What is left is worked out in double precision, so that results are rounded once.
#include "cuda/yolo.h"

#include "cuda/index.h"

namespace cnnfast::cuda {
namespace {

__device__ __forceinline__ double sigmoid(double x) {
  const double e = exp(-fabs(x));
  return (x < 0 ? e : 1.0) / (1.0 + e);
}

// Calls found(class, score) for all scores of a place above the threshold. No product here meets a sum: both
// kernels that call it round alike, whatever the compiler fuses.
template <class F>
__device__ __forceinline__ void each_score(const YoloDecoding& how, const float* t, F found) {
  if (!(t[4] >= how.least)) return;
  const auto objectness = static_cast<float>(sigmoid(t[4]));
  const float* logits = t + 5;
  double most = logits[0], sum = 0;
  if (how.softmax) {
    for (int64_t c = 1; c < how.classes; ++c) most = logits[c] > most ? logits[c] : most;
    for (int64_t c = 0; c < how.classes; ++c) sum += exp(logits[c] - most);
  }
  for (int64_t c = 0; c < how.classes; ++c) {
    if (!how.softmax && !(logits[c] >= how.least)) continue;
    const double probability = how.softmax ? exp(logits[c] - most) / sum : sigmoid(logits[c]);
    const float score = __fmul_rn(objectness, static_cast<float>(probability));
    if (score > how.threshold) found(c, score);
  }
}

__global__ void __launch_bounds__(kThreads)
    count_kernel(int64_t places, const __grid_constant__ YoloDecoding how, const float* x, int64_t* counts) {
  ptx::begin_kernel();
  CNNFAST_EACH(at, places) {
    int64_t count = 0;
    each_score(how, x + at * how.values(), [&](int64_t, float) { ++count; });
    counts[at] = count;
  }
}

// Hillis and Steele, "Data parallel algorithms", 1986, over a run of counts for every thread.
constexpr int kSumThreads = 512;
__global__ void __launch_bounds__(kSumThreads) starts_kernel(int64_t n, int64_t* counts, int64_t* total) {
  ptx::begin_kernel();
  CNNFAST_SHARED(int64_t, sums, [kSumThreads]);
  const int t = threadIdx.x;
  const int64_t share = (n + kSumThreads - 1) / kSumThreads, first = t * share;
  const int64_t end = first + share < n ? first + share : n;
  int64_t own = 0;
  for (int64_t i = first; i < end; ++i) own += counts[i];
  sums[t] = own;
  __syncthreads();
  for (int step = 1; step < kSumThreads; step *= 2) {
    const int64_t before = t >= step ? sums[t - step] : 0;
    __syncthreads();
    sums[t] += before;
    __syncthreads();
  }
  if (t == kSumThreads - 1) *total = sums[t];
  int64_t start = sums[t] - own;
  for (int64_t i = first; i < end; ++i) {
    const int64_t count = counts[i];
    counts[i] = start;
    start += count;
  }
}

// Of a box along one axis.
__device__ __forceinline__ double centre(double scale_xy, float value, int64_t cell, int64_t cells,
                                         double pixels, double origin) {
  const double inside = sigmoid(value) * scale_xy - (scale_xy - 1) / 2;
  return (inside + static_cast<double>(cell)) / static_cast<double>(cells) * pixels - origin;
}
// Within the picture; NaN stays.
__device__ __forceinline__ float edge(const YoloDecoding& how, double place, float end) {
  const auto rounded = static_cast<float>(place);
  return !how.cut ? rounded : rounded < 0 ? 0.0f : rounded > end ? end : rounded;
}

__global__ void __launch_bounds__(kThreads)
    candidates_kernel(const __grid_constant__ YoloGrid grid, const __grid_constant__ YoloDecoding how,
                      Divider anchors, Divider columns, const float* x, const int64_t* starts, float* boxes,
                      float* scores, int64_t* classes) {
  ptx::begin_kernel();
  CNNFAST_EACH(at, grid.places()) {
    const float* t = x + at * how.values();
    const int64_t first = starts[at];
    int64_t k = first;
    each_score(how, t, [&](int64_t c, float score) {
      scores[k] = score;
      classes[k++] = c;
    });
    if (k == first) continue;
    const Divided anchor = anchors.divide(at), cell = columns.divide(anchor.quotient);
    const double across = centre(how.scale_xy, t[0], cell.rest, grid.columns, how.width, how.left);
    const double down = centre(how.scale_xy, t[1], cell.quotient, grid.rows, how.height, how.top);
    const double w = exp(static_cast<double>(t[2])) * (grid.anchor[anchor.rest][0] / 2);
    const double h = exp(static_cast<double>(t[3])) * (grid.anchor[anchor.rest][1] / 2);
    while (--k >= first) {
      boxes[4 * k] = edge(how, across - w, how.right);
      boxes[4 * k + 1] = edge(how, down - h, how.bottom);
      boxes[4 * k + 2] = edge(how, across + w, how.right);
      boxes[4 * k + 3] = edge(how, down + h, how.bottom);
    }
  }
}

}  // namespace

void yolo_count(const YoloGrid& grid, const YoloDecoding& how, const float* x, int64_t* counts,
                cudaStream_t stream) {
  const int64_t places = grid.places();
  if (places == 0) return;
  CNNFAST_LAUNCH((count_kernel), blocks_for(places, kThreads), kThreads, 0, stream, places, how, x, counts);
}

void yolo_starts(int64_t n, int64_t* counts, int64_t* total, cudaStream_t stream) {
  CNNFAST_LAUNCH((starts_kernel), 1, kSumThreads, 0, stream, n, counts, total);
}

void yolo_candidates(const YoloGrid& grid, const YoloDecoding& how, const float* x, const int64_t* starts,
                     float* boxes, float* scores, int64_t* classes, cudaStream_t stream) {
  const int64_t places = grid.places();
  if (places == 0) return;
  CNNFAST_LAUNCH((candidates_kernel), blocks_for(places, kThreads), kThreads, 0, stream, grid, how,
                 Divider(grid.anchors), Divider(grid.columns), x, starts, boxes, scores, classes);
}

}  // namespace cnnfast::cuda
