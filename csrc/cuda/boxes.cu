// Suppression: (1) a key for every box, which grows as its score falls, with its number below it; (2) keys
// sorted (sort.cu); (3) for chunks of 512 boxes in order, 512 bits for every box: which boxes of its own
// chunk come before it and overlap it (64 bytes a box); (4) chunk after chunk: what is left of the chunk is
// decided by rounds (a box goes if a kept one suppresses it, it stays if all that could are gone; the first
// undecided box is always decided), and what is kept suppresses later boxes; (5) the kept numbers, one after
// the other. All pairs of boxes of step 3 and the kept ones of step 4 are compared once: 13 operations each.
#include "cuda/boxes.h"

#include <cfloat>
#include <cmath>

#include "cuda/columns.h"
#include "cuda/sort.h"

namespace cnnfast::cuda {
namespace {

struct Box {
  float x1, y1, x2, y2;
};

__device__ __forceinline__ Box load_box(const float* boxes, int64_t i) {
  return {boxes[4 * i], boxes[4 * i + 1], boxes[4 * i + 2], boxes[4 * i + 3]};
}
__device__ __forceinline__ bool has_nan(const Box& b) {
  return b.x1 != b.x1 || b.y1 != b.y1 || b.x2 != b.x2 || b.y2 != b.y2;
}

// The smaller and the larger one as NumPy has them where neither is NaN.
__device__ __forceinline__ float smaller(float a, float b) { return b < a ? b : a; }
__device__ __forceinline__ float larger(float a, float b) { return a < b ? b : a; }

// w h, or 0 where a side is not positive. No multiplication here may be fused with an addition.
__device__ __forceinline__ float area(float w, float h) { return w > 0 && h > 0 ? __fmul_rn(w, h) : 0.0f; }
__device__ __forceinline__ float area(const Box& b) {
  return area(__fsub_rn(b.x2, b.x1), __fsub_rn(b.y2, b.y1));
}
// a / b, or 0 where b is not positive or the quotient is no number.
__device__ __forceinline__ float ratio(float a, float b) {
  const float q = __fdiv_rn(a, b);
  return b > 0 && q == q ? q : 0.0f;
}
struct Shared {
  float inter, whole;
  __device__ __forceinline__ Shared(const Box& a, const Box& b) {
    inter = area(__fsub_rn(smaller(a.x2, b.x2), larger(a.x1, b.x1)),
                 __fsub_rn(smaller(a.y2, b.y2), larger(a.y1, b.y1)));
    whole = __fsub_rn(__fadd_rn(area(a), area(b)), inter);
  }
  __device__ __forceinline__ float iou() const { return ratio(inter, whole); }
};

// --- table of overlaps -----------------------------------------------------------------------------

__device__ __forceinline__ float angle(const Box& b) {
  const float w = __fsub_rn(b.x2, b.x1), h = __fsub_rn(b.y2, b.y1);
  return atan2f(w > 0 ? w : 0.0f, h > 0 ? h : 0.0f);
}

__global__ void __launch_bounds__(kThreads)
    iou_kernel(Overlap kind, int64_t count, Divider columns, const float* a, const float* b, float* y) {
  ptx::begin_kernel();
  CNNFAST_EACH(i, count) {
    const Divided at = columns.divide(i);
    const Box p = load_box(a, at.quotient), q = load_box(b, at.rest);
    const Shared shared(p, q);
    const float iou = shared.iou();
    float result = iou;
    if (kind != Overlap::kIou) {
      const float w = __fsub_rn(larger(larger(p.x1, p.x2), larger(q.x1, q.x2)),
                                smaller(smaller(p.x1, p.x2), smaller(q.x1, q.x2)));
      const float h = __fsub_rn(larger(larger(p.y1, p.y2), larger(q.y1, q.y2)),
                                smaller(smaller(p.y1, p.y2), smaller(q.y1, q.y2)));
      if (kind == Overlap::kGiou) {
        const float hull = __fmul_rn(w, h);
        result = __fsub_rn(result, ratio(__fsub_rn(hull, shared.whole), hull));
      } else {
        const float dx = __fmul_rn(__fsub_rn(__fadd_rn(p.x1, p.x2), __fadd_rn(q.x1, q.x2)), 0.5f);
        const float dy = __fmul_rn(__fsub_rn(__fadd_rn(p.y1, p.y2), __fadd_rn(q.y1, q.y2)), 0.5f);
        result = __fsub_rn(result, ratio(__fadd_rn(__fmul_rn(dx, dx), __fmul_rn(dy, dy)),
                                         __fadd_rn(__fmul_rn(w, w), __fmul_rn(h, h))));
        if (kind == Overlap::kCiou) {
          const float turn = __fsub_rn(angle(p), angle(q));
          const float v = __fmul_rn(0.40528473456935109f, __fmul_rn(turn, turn));  // 4 / pi^2
          result = __fsub_rn(result, __fmul_rn(v, ratio(v, __fadd_rn(__fsub_rn(1.0f, iou), v))));
        }
      }
    }
    y[i] = has_nan(p) || has_nan(q) ? NAN : result;
  }
}

// --- gradient of the overlaps ----------------------------------------------------------------------

// Gradient by the corners of a box.
struct Corners {
  float x1 = 0, y1 = 0, x2 = 0, y2 = 0;

  // g times the derivative of the area of a box of sides w and h.
  __device__ __forceinline__ void product(float g, float w, float h) {
    if (!(w > 0 && h > 0)) return;
    x1 -= g * h, x2 += g * h;
    y1 -= g * w, y2 += g * w;
  }
};

// What of the gradient of a minimum of both belongs to the first: half where they are equal.
__device__ __forceinline__ float share(float p, float q) { return p < q ? 1.0f : p == q ? 0.5f : 0.0f; }

// An edge of both boxes and the hull of them, along one axis. NaN comes through.
struct Axis {
  float low, high, other_low, other_high, least, most;

  __device__ __forceinline__ Axis(float p1, float p2, float q1, float q2)
      : low(p1), high(p2), other_low(q1), other_high(q2) {
    least = Smaller()(Smaller()(low, high), Smaller()(other_low, other_high));
    most = Larger()(Larger()(low, high), Larger()(other_low, other_high));
  }
  __device__ __forceinline__ float hull() const { return most - least; }
  __device__ __forceinline__ float shared() const {
    return Smaller()(high, other_high) - Larger()(low, other_low);
  }
  // g, shared out among the corners that lie at that place.
  __device__ __forceinline__ float part(float g, float place) const {
    const int count = (low == place) + (high == place) + (other_low == place) + (other_high == place);
    return g / static_cast<float>(count);
  }
  // Adds g times the derivative of the hull.
  __device__ __forceinline__ void hull_grad(float g, float* of_low, float* of_high) const {
    const float of_least = part(g, least), of_most = part(g, most);
    *of_low += static_cast<float>(low == most) * of_most - static_cast<float>(low == least) * of_least;
    *of_high += static_cast<float>(high == most) * of_most - static_cast<float>(high == least) * of_least;
  }
};

constexpr float kAngles = 0.40528473456935109f;  // 4 / pi^2

// g times the derivative of the overlap of p and q by p. All overlaps are the same for (q, p).
__device__ __forceinline__ Corners overlap_grad(Overlap kind, const Box& p, const Box& q, float g) {
  Corners of;
  const Axis x(p.x1, p.x2, q.x1, q.x2), y(p.y1, p.y2, q.y1, q.y2);
  const float pw = p.x2 - p.x1, ph = p.y2 - p.y1, w = x.shared(), h = y.shared();
  const float inter = area(w, h), whole = (area(pw, ph) + area(q)) - inter;
  float g_iou = g, g_union = 0;
  if (kind != Overlap::kIou) {
    const float hull_w = x.hull(), hull_h = y.hull();
    float g_w, g_h;
    if (kind == Overlap::kGiou) {  // iou - 1 + union / hull
      const float hull = hull_w * hull_h, g_hull = -ratio(g * whole, hull * hull);
      g_union = ratio(g, hull);
      g_w = g_hull * hull_h;
      g_h = g_hull * hull_w;
    } else {  // iou - distance / diagonal - v^2 / (1 - iou + v)
      const float dx = ((p.x1 + p.x2) - (q.x1 + q.x2)) * 0.5f, dy = ((p.y1 + p.y2) - (q.y1 + q.y2)) * 0.5f;
      const float distance = dx * dx + dy * dy, diagonal = hull_w * hull_w + hull_h * hull_h;
      const float g_apart = -ratio(g, diagonal), g_sides = 2 * ratio(g * distance, diagonal * diagonal);
      of.x1 += g_apart * dx, of.x2 += g_apart * dx;
      of.y1 += g_apart * dy, of.y2 += g_apart * dy;
      g_w = g_sides * hull_w;
      g_h = g_sides * hull_h;
    }
    x.hull_grad(g_w, &of.x1, &of.x2);
    y.hull_grad(g_h, &of.y1, &of.y2);
  }
  if (kind == Overlap::kCiou) {
    const float turn = angle(p) - angle(q), v = kAngles * (turn * turn);
    const float part = ratio(v, (1.0f - ratio(inter, whole)) + v);
    g_iou = g * (1 - part * part);
    const float g_turn = -g * (part * (2 - part)) * (2 * kAngles) * turn;
    const float wide = Larger()(pw, 0.0f), high = Larger()(ph, 0.0f), square = wide * wide + high * high;
    const float by_w = wide > 0 ? g_turn * high / square : 0.0f;
    const float by_h = high > 0 ? -g_turn * wide / square : 0.0f;
    of.x1 -= by_w, of.x2 += by_w;
    of.y1 -= by_h, of.y2 += by_h;
  }
  g_union -= ratio(g_iou * inter, whole * whole);
  of.product(g_union, pw, ph);
  Corners both;  // of the intersection
  both.product(ratio(g_iou, whole) - g_union, w, h);
  of.x1 += both.x1 * share(q.x1, p.x1), of.y1 += both.y1 * share(q.y1, p.y1);
  of.x2 += both.x2 * share(p.x2, q.x2), of.y2 += both.y2 * share(p.y2, q.y2);
  return of;
}

// A warp for each of n boxes: the sum over all m others, in double precision. The gradient of pair (i, j) is
// g[i * g_row + j * g_column].
__global__ void __launch_bounds__(kThreads)
    iou_grad_kernel(Overlap kind, int64_t n, int64_t m, const float* boxes, const float* others,
                    const float* g, int64_t g_row, int64_t g_column, float* of) {
  ptx::begin_kernel();
  const int lane = threadIdx.x % 32;
  const int64_t step = static_cast<int64_t>(gridDim.x) * (kThreads / 32);
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / 32; i < n; i += step) {
    const Box box = load_box(boxes, i);
    double sums[4] = {};
    for (int64_t j = lane; j < m; j += 32) {
      const Corners one = overlap_grad(kind, box, load_box(others, j), g[i * g_row + j * g_column]);
      sums[0] += one.x1;
      sums[1] += one.y1;
      sums[2] += one.x2;
      sums[3] += one.y2;
    }
    for (int away = 16; away > 0; away /= 2)
      for (double& sum : sums) sum += __shfl_xor_sync(~0u, sum, away);
    if (lane == 0)
      for (int c = 0; c < 4; ++c) of[4 * i + c] = static_cast<float>(sums[c]);
  }
}

// --- order -----------------------------------------------------------------------------------------

__global__ void __launch_bounds__(kThreads)
    key_kernel(int64_t n, const float* boxes, const float* scores, Key* keys) {
  ptx::begin_kernel();
  CNNFAST_EACH(i, n) {
    const bool valid = scores[i] == scores[i] && !has_nan(load_box(boxes, i));
    keys[i] = valid ? make_key(~rising_bits(scores[i]), i) : kNoKey;  // kNoKey takes no part
  }
}

// --- suppression -----------------------------------------------------------------------------------

constexpr int kChunk = 512, kWords = kChunk / 64;

struct Ordered {
  int64_t n;
  const Key* keys;         // in order
  const float* boxes;      // in order, four numbers each
  const int64_t* classes;  // in order, or null
  float threshold;

  __device__ __forceinline__ bool meet(int64_t i, int64_t j) const {
    return !classes || classes[i] == classes[j];
  }
  __device__ __forceinline__ bool valid(int64_t i) const { return keys[i] != kNoKey; }
};

__global__ void __launch_bounds__(kThreads)
    order_kernel(int64_t n, const Key* keys, const float* boxes, const int64_t* classes, float* ordered,
                 int64_t* ordered_classes, int* owner) {
  ptx::begin_kernel();
  CNNFAST_EACH(i, n) {
    owner[i] = -1;
    if (keys[i] == kNoKey) continue;
    const int64_t number = place_of(keys[i]);
    for (int k = 0; k < 4; ++k) ordered[4 * i + k] = boxes[4 * number + k];
    if (classes) ordered_classes[i] = classes[number];
  }
}

// Bit k of word w of box j: box 64 w + k of its chunk comes before it and overlaps it.
__global__ void __launch_bounds__(kThreads) bits_kernel(Ordered s, uint64_t* bits) {
  ptx::begin_kernel();
  CNNFAST_EACH(i, s.n * kWords) {
    const int64_t j = i / kWords, first = j / kChunk * kChunk + i % kWords * 64;
    uint64_t word = 0;
    if (s.valid(j)) {
      const Box box = load_box(s.boxes, j);
      for (int k = 0; k < 64 && first + k < j; ++k)
        if (s.meet(first + k, j) && Shared(load_box(s.boxes, first + k), box).iou() > s.threshold)
          word |= uint64_t{1} << k;
    }
    bits[i] = word;
  }
}

__device__ __forceinline__ int lowest(uint64_t word) { return __ffsll(static_cast<long long>(word)) - 1; }

// Decides one chunk (every block for itself; the first one writes it down), then the boxes after it. owner:
// -1 undecided, a box's own place where it is kept, else that of the first kept box that suppresses it.
__global__ void __launch_bounds__(kChunk)
    chunk_kernel(Ordered s, int64_t first, const uint64_t* bits, int* owner) {
  ptx::begin_kernel();
  CNNFAST_SHARED(uint32_t, kept, [2 * kWords]);
  CNNFAST_SHARED(uint32_t, gone, [2 * kWords]);
  CNNFAST_SHARED(float, boxes, [4 * kChunk]);
  const int t = threadIdx.x;
  const int64_t mine = first + t;
  if (t < 2 * kWords) kept[t] = gone[t] = 0;
  // Earlier chunks have decided some; the first block writes what is decided here where no other block reads
  // it but as undecided or gone for the same reason, so a value read late says the same.
  const bool inside = mine < s.n && s.valid(mine);
  bool decided = !inside;
  uint64_t words[kWords];
#pragma unroll
  for (int w = 0; w < kWords; ++w) words[w] = inside ? bits[mine * kWords + w] : 0;
  if (inside)
    for (int k = 0; k < 4; ++k) boxes[4 * t + k] = s.boxes[4 * mine + k];
  int of = inside ? owner[mine] : -1;
  const bool before = inside && of >= 0 && of < first;
  __syncthreads();
  if (before || !inside) {
    atomicOr(&gone[t / 32], 1u << (t % 32));
    decided = true;
  }
  __syncthreads();
  for (;;) {
    bool stays = false, goes = false;
    int by = -1;
    if (!decided) {
      stays = true;
#pragma unroll
      for (int w = kWords - 1; w >= 0; --w) {
        const uint64_t k = kept[2 * w] | static_cast<uint64_t>(kept[2 * w + 1]) << 32;
        const uint64_t g = gone[2 * w] | static_cast<uint64_t>(gone[2 * w + 1]) << 32;
        if (words[w] & k) goes = true, by = 64 * w + lowest(words[w] & k);
        if (words[w] & ~g) stays = false;
      }
      // Which of the kept ones is the first is known when all before it are decided.
      if (goes)
#pragma unroll
        for (int w = 0; w < kWords; ++w) {
          const uint64_t k = kept[2 * w] | static_cast<uint64_t>(kept[2 * w + 1]) << 32;
          const uint64_t g = gone[2 * w] | static_cast<uint64_t>(gone[2 * w + 1]) << 32;
          const uint64_t open = words[w] & ~k & ~g;
          const int at = open ? 64 * w + lowest(open) : kChunk;
          if (at < by) goes = false;
        }
    }
    __syncthreads();
    if (stays) atomicOr(&kept[t / 32], 1u << (t % 32)), of = static_cast<int>(mine);
    if (goes) atomicOr(&gone[t / 32], 1u << (t % 32)), of = static_cast<int>(first + by);
    if (stays || goes) decided = true;
    if (!__syncthreads_or(!decided)) break;
  }
  if (blockIdx.x == 0 && inside && !before) owner[mine] = of;
  // What is kept here against all later boxes, a box for every thread.
  const int64_t step = static_cast<int64_t>(gridDim.x) * kChunk;
  for (int64_t j = first + kChunk + static_cast<int64_t>(blockIdx.x) * kChunk + t; j < s.n; j += step) {
    if (!s.valid(j) || owner[j] != -1) continue;
    const Box box = load_box(s.boxes, j);
    int found = -1;
    for (int w = 0; w < 2 * kWords && found < 0; ++w)
      for (uint32_t rest = kept[w]; rest && found < 0; rest &= rest - 1) {
        const int k = 32 * w + __ffs(static_cast<int>(rest)) - 1;
        if (s.meet(first + k, j) && Shared(load_box(boxes, k), box).iou() > s.threshold) found = k;
      }
    if (found >= 0) owner[j] = static_cast<int>(first + found);
  }
}

// The kept numbers in order: one block, 1024 boxes at a time.
constexpr int kListThreads = 1024;
__global__ void __launch_bounds__(kListThreads) list_kernel(int64_t n, const Key* keys, const int* owner,
                                                            int64_t* kept, int64_t* places, int64_t* count) {
  ptx::begin_kernel();
  CNNFAST_SHARED(int, sums, [32]);
  const int t = threadIdx.x, lane = t % 32, warp = t / 32;
  int64_t total = 0;
  for (int64_t first = 0; first < n; first += kListThreads) {
    const int64_t i = first + t;
    const bool stays = i < n && keys[i] != kNoKey && owner[i] == i;
    const unsigned votes = __ballot_sync(~0u, stays);
    if (lane == 0) sums[warp] = __popc(votes);
    __syncthreads();
    int before = 0, all = 0;
    for (int w = 0; w < 32; ++w) {
      if (w == warp) before = all;
      all += sums[w];
    }
    if (stays) {
      const int64_t at = total + before + __popc(votes & ((1u << lane) - 1));
      kept[at] = place_of(keys[i]);
      if (places) places[at] = i;
    }
    total += all;
    __syncthreads();
  }
  if (t == 0) *count = total;
}

// A kept box and those that it suppressed, averaged by score: a warp for each, in double precision.
__global__ void __launch_bounds__(kThreads)
    fuse_kernel(Ordered s, const int* owner, const float* scores, const int64_t* places, const int64_t* count,
                float* fused) {
  ptx::begin_kernel();
  const int lane = threadIdx.x % 32;
  const int64_t step = static_cast<int64_t>(gridDim.x) * (kThreads / 32);
  for (int64_t k = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / 32; k < *count; k += step) {
    const int64_t place = places[k];
    double sums[5] = {};
    int members = 0;
    for (int64_t i = place + lane; i < s.n; i += 32) {
      if (!s.valid(i) || owner[i] != place) continue;
      const double weight = scores[place_of(s.keys[i])];
      for (int c = 0; c < 4; ++c) sums[c] += weight * s.boxes[4 * i + c];
      sums[4] += weight;
      ++members;
    }
    for (int away = 16; away > 0; away /= 2) {
      for (double& sum : sums) sum += __shfl_xor_sync(~0u, sum, away);
      members += __shfl_xor_sync(~0u, members, away);
    }
    const bool fuse = members > 1 && sums[4] > 0 && sums[4] <= DBL_MAX;
    if (lane == 0)
      for (int c = 0; c < 4; ++c)
        fused[4 * k + c] = fuse ? static_cast<float>(sums[c] / sums[4]) : s.boxes[4 * place + c];
  }
}

// Parts of the workspace, each a multiple of 16 bytes.
struct Parts {
  explicit Parts(void* start) : at(static_cast<char*>(start)) {}
  template <class T>
  T* take(int64_t count) {
    T* p = reinterpret_cast<T*>(at);
    at += (count * static_cast<int64_t>(sizeof(T)) + 15) / 16 * 16;
    return p;
  }
  char* at;
};

struct Workspace {
  Key *keys, *spare;
  float* boxes;
  int64_t *classes, *places;
  int* owner;
  uint64_t* bits;
  int64_t bytes;

  Workspace(int64_t n, void* start) {
    Parts parts(start);
    keys = parts.take<Key>(n);
    spare = parts.take<Key>(n);
    boxes = parts.take<float>(4 * n);
    classes = parts.take<int64_t>(n);
    places = parts.take<int64_t>(n);
    owner = parts.take<int>(n);
    bits = parts.take<uint64_t>(n * kWords);
    bytes = parts.at - static_cast<char*>(start);
  }
};

// --- soft suppression ------------------------------------------------------------------------------

// exp(x) for x <= 0, held at exp(-80) below that: the steps of python/cnnfast/ops/nms.py.
__device__ __forceinline__ float soft_exp(float x) {
  x = larger(x, -80.0f);
  const float n = rintf(__fmul_rn(x, 1.44269504f));
  const float r = __fsub_rn(__fsub_rn(x, __fmul_rn(n, 0.693359375f)), __fmul_rn(n, -2.12194440e-4f));
  float p = 1.0f / 5040;
  const float factors[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
#pragma unroll
  for (const float factor : factors) p = __fadd_rn(__fmul_rn(p, r), factor);
  return __fmul_rn(p, __int_as_float((static_cast<int>(n) + 127) << 23));
}

// One block: in every round the best box is taken (the first of equal ones) and all others lose score.
constexpr int kSoftThreads = 1024;
__global__ void __launch_bounds__(kSoftThreads)
    soft_kernel(int64_t n, const float* boxes, const float* scores, bool gaussian, float threshold,
                float sigma, float least, float* left, int64_t* kept, float* kept_scores, int64_t* count) {
  ptx::begin_kernel();
  CNNFAST_SHARED(float, best_scores, [32]);
  CNNFAST_SHARED(int64_t, best_places, [32]);
  const int t = threadIdx.x, lane = t % 32, warp = t / 32;
  for (int64_t i = t; i < n; i += kSoftThreads)
    left[i] = scores[i] >= least && !has_nan(load_box(boxes, i)) ? scores[i] : NAN;  // NaN: not there
  Box chosen{0, 0, 0, 0};
  for (int64_t taken = 0;; ++taken) {
    float best = 0;
    int64_t place = -1;
    for (int64_t i = t; i < n; i += kSoftThreads) {
      float score = left[i];
      if (score != score) continue;
      if (taken > 0) {
        const float iou = Shared(chosen, load_box(boxes, i)).iou();
        if (iou > 0) {
          const float weight = gaussian          ? soft_exp(__fdiv_rn(-__fmul_rn(iou, iou), sigma))
                               : iou > threshold ? __fsub_rn(1.0f, iou)
                                                 : 1.0f;
          score = weight > 0 ? __fmul_rn(score, weight) : 0.0f;  // an infinite score times 0 is 0
        }
        if (!(score >= least)) score = NAN;
        left[i] = score;
        if (score != score) continue;
      }
      if (place < 0 || score > best) best = score, place = i;
    }
    for (int away = 16; away > 0; away /= 2) {
      const float score = __shfl_xor_sync(~0u, best, away);
      const int64_t other = __shfl_xor_sync(~0u, static_cast<long long>(place), away);
      if (other >= 0 && (place < 0 || score > best || (score == best && other < place)))
        best = score, place = other;
    }
    if (lane == 0) best_scores[warp] = best, best_places[warp] = place;
    __syncthreads();
    place = -1;
    for (int w = 0; w < 32; ++w) {
      const int64_t other = best_places[w];
      if (other >= 0 && (place < 0 || best_scores[w] > best || (best_scores[w] == best && other < place)))
        best = best_scores[w], place = other;
    }
    __syncthreads();
    if (place < 0) {
      if (t == 0) *count = taken;
      return;
    }
    if (t == 0) kept[taken] = place, kept_scores[taken] = best;
    if (place % kSoftThreads == t) left[place] = NAN;  // its own thread reads it next
    chosen = load_box(boxes, place);
  }
}

}  // namespace

void box_iou(Overlap kind, int64_t n, int64_t m, const float* a, const float* b, float* y,
             cudaStream_t stream) {
  if (n * m == 0) return;
  CNNFAST_LAUNCH((iou_kernel), blocks_for(n * m, kThreads), kThreads, 0, stream, kind, n * m, Divider(m), a,
                 b, y);
}

void box_iou_grad(Overlap kind, int64_t n, int64_t m, const float* a, const float* b, const float* g,
                  float* of_a, float* of_b, cudaStream_t stream) {
  constexpr int kBoxes = kThreads / 32;
  if (n > 0)
    CNNFAST_LAUNCH((iou_grad_kernel), blocks_for(n, kBoxes), kThreads, 0, stream, kind, n, m, a, b, g, m, 1,
                   of_a);
  if (m > 0)
    CNNFAST_LAUNCH((iou_grad_kernel), blocks_for(m, kBoxes), kThreads, 0, stream, kind, m, n, b, a, g, 1, m,
                   of_b);
}

int64_t nms_workspace(int64_t n) { return Workspace(n, nullptr).bytes; }

void nms(int64_t n, const float* boxes, const float* scores, const int64_t* classes, float threshold,
         int64_t* kept, int64_t* count, float* fused, void* workspace, cudaStream_t stream) {
  if (n == 0) {
    CNNFAST_CUDA_CHECK(cudaMemsetAsync(count, 0, sizeof(int64_t), stream));
    return;
  }
  Workspace w(n, workspace);
  const unsigned blocks = blocks_for(n, kThreads);
  CNNFAST_LAUNCH((key_kernel), blocks, kThreads, 0, stream, n, boxes, scores, w.keys);
  w.keys = sort_rows(1, n, w.keys, w.spare, stream);
  CNNFAST_LAUNCH((order_kernel), blocks, kThreads, 0, stream, n, w.keys, boxes, classes, w.boxes, w.classes,
                 w.owner);
  const Ordered s{n, w.keys, w.boxes, classes ? w.classes : nullptr, threshold};
  CNNFAST_LAUNCH((bits_kernel), blocks_for(n * kWords, kThreads), kThreads, 0, stream, s, w.bits);
  for (int64_t first = 0; first < n; first += kChunk) {
    const int64_t later = n - first - kChunk;
    CNNFAST_LAUNCH((chunk_kernel), blocks_for(later, kChunk), kChunk, 0, stream, s, first, w.bits, w.owner);
  }
  CNNFAST_LAUNCH((list_kernel), 1, kListThreads, 0, stream, n, w.keys, w.owner, kept, w.places, count);
  if (fused)
    CNNFAST_LAUNCH((fuse_kernel), blocks_for(n, kThreads / 32), kThreads, 0, stream, s, w.owner, scores,
                   w.places, count, fused);
}

int64_t soft_nms_workspace(int64_t n) { return n * static_cast<int64_t>(sizeof(float)); }

void soft_nms(int64_t n, const float* boxes, const float* scores, bool gaussian, float threshold, float sigma,
              float score_threshold, int64_t* kept, float* kept_scores, int64_t* count, void* workspace,
              cudaStream_t stream) {
  CNNFAST_LAUNCH((soft_kernel), 1, kSoftThreads, 0, stream, n, boxes, scores, gaussian, threshold, sigma,
                 score_threshold, static_cast<float*>(workspace), kept, kept_scores, count);
}

}  // namespace cnnfast::cuda
