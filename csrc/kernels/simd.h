// One vector type per instruction level, written with compiler vector extensions; intrinsics only
// where the extensions fall short (FMA, masked tails, min/max with a defined NaN rule).
//
// The files that include this are compiled once per level: everything in them is static, and no
// inline function of another header may be used, or code for a newer CPU could be linked in for all.
#pragma once
#include <stdint.h>
#include <stddef.h>

#if defined(CNNFAST_LEVEL_V4)
#define CNNFAST_VL 16
#include <immintrin.h>
#elif defined(CNNFAST_LEVEL_V3)
#define CNNFAST_VL 8
#include <immintrin.h>
#elif defined(CNNFAST_LEVEL_V2)
#define CNNFAST_VL 4
#include <immintrin.h>
#elif defined(CNNFAST_LEVEL_NEON)
#define CNNFAST_VL 4
#include <arm_neon.h>
#else
#define CNNFAST_VL 4  // the portable level: the compiler turns vectors into whatever the CPU has
#endif

namespace {

constexpr int VL = CNNFAST_VL;
typedef float vf __attribute__((vector_size(VL * 4)));
typedef int32_t vi __attribute__((vector_size(VL * 4)));
typedef uint32_t vu __attribute__((vector_size(VL * 4)));  // sums that may wrap
typedef float vf_unaligned __attribute__((vector_size(VL * 4), aligned(4), may_alias));
typedef int32_t vi_unaligned __attribute__((vector_size(VL * 4), aligned(4), may_alias));

#define CNNFAST_INLINE static inline __attribute__((always_inline))
#define CNNFAST_INLINE_MEMBER inline __attribute__((always_inline))
#define CNNFAST_UNROLL _Pragma("GCC unroll 32")

CNNFAST_INLINE vf load(const float* p) { return *reinterpret_cast<const vf_unaligned*>(p); }
CNNFAST_INLINE void store(float* p, vf v) { *reinterpret_cast<vf_unaligned*>(p) = v; }
// Past the caches, to an address that is a multiple of the vector; other threads see it after the fence.
CNNFAST_INLINE void store_past_cache(float* p, vf v) {
#if defined(CNNFAST_LEVEL_V4)
  _mm512_stream_ps(p, v);
#elif defined(CNNFAST_LEVEL_V3)
  _mm256_stream_ps(p, v);
#elif defined(CNNFAST_LEVEL_V2)
  _mm_stream_ps(p, v);
#else
  store(p, v);
#endif
}
CNNFAST_INLINE void finish_past_cache() {
#if defined(CNNFAST_LEVEL_V4) || defined(CNNFAST_LEVEL_V3) || defined(CNNFAST_LEVEL_V2)
  _mm_sfence();
#endif
}
CNNFAST_INLINE vf splat(float s) { return s - vf{}; }
CNNFAST_INLINE vi splat_int(int32_t s) { return s - vi{}; }
// Bits of a comparison: all ones where true.
CNNFAST_INLINE vf select(vi mask, vf yes, vf no) {
  return reinterpret_cast<vf>((mask & reinterpret_cast<vi>(yes)) | (~mask & reinterpret_cast<vi>(no)));
}

// a * b + c, fused where the level has it.
CNNFAST_INLINE vf fma(vf a, vf b, vf c) {
#if defined(CNNFAST_LEVEL_V4)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(CNNFAST_LEVEL_V3)
  return _mm256_fmadd_ps(a, b, c);
#elif defined(CNNFAST_LEVEL_NEON)
  return vfmaq_f32(c, a, b);
#else
  return a * b + c;
#endif
}

// vmax(a, x) = a > x ? a : x and vmin(a, x) = a < x ? a : x: a NaN in x comes through.
CNNFAST_INLINE vf vmax(vf a, vf x) {
#if defined(CNNFAST_LEVEL_V4)
  return _mm512_max_ps(a, x);
#elif defined(CNNFAST_LEVEL_V3)
  return _mm256_max_ps(a, x);
#elif defined(CNNFAST_LEVEL_V2)
  return _mm_max_ps(a, x);
#else
  return select(a > x, a, x);
#endif
}
CNNFAST_INLINE vf vmin(vf a, vf x) {
#if defined(CNNFAST_LEVEL_V4)
  return _mm512_min_ps(a, x);
#elif defined(CNNFAST_LEVEL_V3)
  return _mm256_min_ps(a, x);
#elif defined(CNNFAST_LEVEL_V2)
  return _mm_min_ps(a, x);
#else
  return select(a < x, a, x);
#endif
}

// The larger or smaller one, NaN where either is: each order of operands keeps one side's NaN, and NaN |
// number is NaN.
CNNFAST_INLINE vf maximum(vf a, vf b) {
  return reinterpret_cast<vf>(reinterpret_cast<vi>(vmax(a, b)) | reinterpret_cast<vi>(vmax(b, a)));
}
CNNFAST_INLINE vf minimum(vf a, vf b) {
  return reinterpret_cast<vf>(reinterpret_cast<vi>(vmin(a, b)) | reinterpret_cast<vi>(vmin(b, a)));
}

// The first n lanes (0 <= n <= VL); the others read as zero, and nothing past them is touched.
CNNFAST_INLINE vf load_n(const float* p, int n) {
#if defined(CNNFAST_LEVEL_V4)
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
#elif defined(CNNFAST_LEVEL_V3)
  const vi lanes = {0, 1, 2, 3, 4, 5, 6, 7};
  return _mm256_maskload_ps(p, reinterpret_cast<__m256i>(lanes < splat_int(n)));
#else
  vf v = {};
  for (int i = 0; i < VL; ++i)
    if (i < n) v[i] = p[i];
  return v;
#endif
}
CNNFAST_INLINE void store_n(float* p, vf v, int n) {
#if defined(CNNFAST_LEVEL_V4)
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), v);
#elif defined(CNNFAST_LEVEL_V3)
  const vi lanes = {0, 1, 2, 3, 4, 5, 6, 7};
  _mm256_maskstore_ps(p, reinterpret_cast<__m256i>(lanes < splat_int(n)), v);
#else
  for (int i = 0; i < VL; ++i)
    if (i < n) p[i] = v[i];
#endif
}

// The same by type, for kernels that are templates over the vector.
template <class V>
inline __attribute__((always_inline)) V load_as(const float* p);
template <class V>
inline __attribute__((always_inline)) V load_n_as(const float* p, int n);
template <class V>
inline __attribute__((always_inline)) V splat_as(float s) {
  return s - V{};
}
template <>
inline __attribute__((always_inline)) vf load_as<vf>(const float* p) {
  return load(p);
}
template <>
inline __attribute__((always_inline)) vf load_n_as<vf>(const float* p, int n) {
  return load_n(p, n);
}

#if defined(CNNFAST_LEVEL_V4)
// Half vectors. Narrow tiles are better off with them: a core that splits 512-bit operations in two
// does twice as many 256-bit ones, and may broadcast twice as often.
typedef float vh __attribute__((vector_size(32)));
typedef float vh_unaligned __attribute__((vector_size(32), aligned(4), may_alias));
template <>
inline __attribute__((always_inline)) vh load_as<vh>(const float* p) {
  return *reinterpret_cast<const vh_unaligned*>(p);
}
template <>
inline __attribute__((always_inline)) vh load_n_as<vh>(const float* p, int n) {
  return _mm256_maskz_loadu_ps(static_cast<__mmask8>((1u << n) - 1), p);
}
CNNFAST_INLINE void store(float* p, vh v) { *reinterpret_cast<vh_unaligned*>(p) = v; }
CNNFAST_INLINE void store_n(float* p, vh v, int n) {
  _mm256_mask_storeu_ps(p, static_cast<__mmask8>((1u << n) - 1), v);
}
CNNFAST_INLINE vh fma(vh a, vh b, vh c) { return _mm256_fmadd_ps(a, b, c); }
CNNFAST_INLINE vh vmax(vh a, vh x) { return _mm256_max_ps(a, x); }
CNNFAST_INLINE vh vmin(vh a, vh x) { return _mm256_min_ps(a, x); }
#endif

// Lane l is lane Pick(l) of a, or of b for VL and more; what Pick gives is known at compile time.
template <int (*Pick)(int)>
CNNFAST_INLINE vf pick_lanes(vf a, vf b) {
  struct Lanes {
    int32_t at[VL] = {};
    constexpr Lanes() {
      for (int l = 0; l < VL; ++l) at[l] = Pick(l);
    }
  };
  alignas(sizeof(vi)) static constexpr Lanes kLanes;
  return __builtin_shuffle(a, b, *reinterpret_cast<const vi*>(kLanes.at));
}

// Within every four lanes: pairs (a, b) of single lanes, and pairs of two lanes of a and two of b.
constexpr int low_pairs(int l) { return l / 4 * 4 + l % 4 / 2 + l % 2 * VL; }
constexpr int high_pairs(int l) { return low_pairs(l) + 2; }
constexpr int low_halves(int l) { return l / 4 * 4 + l % 2 + l % 4 / 2 * VL; }
constexpr int high_halves(int l) { return low_halves(l) + 2; }
// Every other run of W lanes: those of a stay or come, those of b come or stay.
template <int W>
constexpr int low_runs(int l) {
  return l & W ? l - W + VL : l;
}
template <int W>
constexpr int high_runs(int l) {
  return l & W ? l + VL : l + W;
}

template <int W>
CNNFAST_INLINE void exchange_runs(vf* v) {
  if constexpr (W < VL) {
    CNNFAST_UNROLL
    for (int i = 0; i < VL; ++i) {
      if (i & W) continue;
      const vf a = v[i], b = v[i + W];
      v[i] = pick_lanes<low_runs<W>>(a, b);
      v[i + W] = pick_lanes<high_runs<W>>(a, b);
    }
    exchange_runs<2 * W>(v);
  }
}

// Four vectors: within every four lanes, lane l of vector i changes places with lane i of vector l. One
// instruction a step at every level.
CNNFAST_INLINE void turn_fours(vf* v) {
  const vf a = pick_lanes<low_pairs>(v[0], v[1]), b = pick_lanes<low_pairs>(v[2], v[3]);
  const vf c = pick_lanes<high_pairs>(v[0], v[1]), d = pick_lanes<high_pairs>(v[2], v[3]);
  v[0] = pick_lanes<low_halves>(a, b), v[1] = pick_lanes<high_halves>(a, b);
  v[2] = pick_lanes<low_halves>(c, d), v[3] = pick_lanes<high_halves>(c, d);
}

// VL vectors: lane l of vector i changes places with lane i of vector l.
CNNFAST_INLINE void transpose(vf* v) {
  CNNFAST_UNROLL
  for (int i = 0; i < VL; i += 4) turn_fours(v + i);
  exchange_runs<4>(v);
}

// Sum of the lanes, in a fixed order.
CNNFAST_INLINE float sum_lanes(vf v) {
  float lane[VL];
  store(lane, v);
  for (int width = VL / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
  return lane[0];
}

CNNFAST_INLINE int64_t min_int(int64_t a, int64_t b) { return a < b ? a : b; }
CNNFAST_INLINE int64_t max_int(int64_t a, int64_t b) { return a > b ? a : b; }

}  // namespace
