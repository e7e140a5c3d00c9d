// Box overlaps and non-maximum suppression. Algorithm: one box against VL boxes at a time, stored in
// columns. Everything is plain float32 arithmetic in one order and without FMA, so that every level
// (and the NumPy definition, which does the same) finds the same IoU to the last bit:
//   inter = iw * ih where both are positive, else 0;  union = (area_a + area_b) - inter;  inter / union.
// Suppression wants only inter / union > t. As rounding is monotone, that implies
// inter >= round(t * union): a multiplication rules out nearly every vector, the rest is divided.
// Accumulators: none. Tile: 4 vectors per branch in long lists.
#pragma once
#include "kernels/boxes.h"
#include "kernels/simd.h"

namespace {

CNNFAST_INLINE bool any_lane(vi mask) {
#if defined(CNNFAST_LEVEL_V4)
  return _mm512_movepi32_mask(reinterpret_cast<__m512i>(mask)) != 0;
#elif defined(CNNFAST_LEVEL_V3)
  return _mm256_movemask_ps(reinterpret_cast<__m256>(mask)) != 0;
#elif defined(CNNFAST_LEVEL_V2)
  return _mm_movemask_ps(reinterpret_cast<__m128>(mask)) != 0;
#elif defined(CNNFAST_LEVEL_NEON)
  return vmaxvq_u32(reinterpret_cast<uint32x4_t>(mask)) != 0;
#else
  int32_t all = 0;
  for (int i = 0; i < VL; ++i) all |= mask[i];
  return all != 0;
#endif
}

// num / den, or 0 where den is not positive or the quotient is no number.
CNNFAST_INLINE vf ratio(vf num, vf den) {
  const vf q = num / den;
  return select((den > vf{}) & (q == q), q, vf{});
}

struct BoxVector {
  vf x1, y1, x2, y2, area;
};

CNNFAST_INLINE BoxVector splat_box(const float* a) {
  return {splat(a[cnnfast::kX1]), splat(a[cnnfast::kY1]), splat(a[cnnfast::kX2]), splat(a[cnnfast::kY2]),
          splat(a[cnnfast::kArea])};
}

CNNFAST_INLINE vf intersection(const BoxVector& a, const float* const* b, int64_t j) {
  const vf iw = vmin(load(b[cnnfast::kX2] + j), a.x2) - vmax(load(b[cnnfast::kX1] + j), a.x1);
  const vf ih = vmin(load(b[cnnfast::kY2] + j), a.y2) - vmax(load(b[cnnfast::kY1] + j), a.y1);
  return select((iw > vf{}) & (ih > vf{}), iw * ih, vf{});
}

template <int Kind>
static void box_iou_row(const float* const* b, const float* a_values, int64_t m, float* out) {
  using namespace cnnfast;
  const BoxVector a = splat_box(a_values);
  const vf low_x = splat(a_values[kLowX]), low_y = splat(a_values[kLowY]);
  const vf high_x = splat(a_values[kHighX]), high_y = splat(a_values[kHighY]);
  const vf center_x = a.x1 + a.x2, center_y = a.y1 + a.y2, angle = splat(a_values[kAngle]);
  for (int64_t j = 0; j < m; j += VL) {
    const vf inter = intersection(a, b, j);
    vf result = {}, whole = {};
    if (Kind == kGiou || any_lane(inter > vf{})) {
      whole = (a.area + load(b[kArea] + j)) - inter;
      result = ratio(inter, whole);
    }
    if (Kind != kIou) {
      const vf cw = vmax(load(b[kHighX] + j), high_x) - vmin(load(b[kLowX] + j), low_x);
      const vf ch = vmax(load(b[kHighY] + j), high_y) - vmin(load(b[kLowY] + j), low_y);
      if (Kind == kGiou) {
        const vf hull = cw * ch;
        result -= ratio(hull - whole, hull);
      } else {
        const vf iou = result;
        const vf dx = (center_x - (load(b[kX1] + j) + load(b[kX2] + j))) * splat(0.5f);
        const vf dy = (center_y - (load(b[kY1] + j) + load(b[kY2] + j))) * splat(0.5f);
        result -= ratio(dx * dx + dy * dy, cw * cw + ch * ch);
        if (Kind == kCiou) {
          const vf turn = angle - load(b[kAngle] + j);
          const vf v = splat(0.40528473456935109f) * (turn * turn);  // 4 / pi^2
          result -= v * ratio(v, (splat(1.0f) - iou) + v);
        }
      }
    }
    if (m - j >= VL)
      store(out + j, result);
    else
      store_n(out + j, result, static_cast<int>(m - j));
  }
}

static void iou_row(const float* const* columns, const float* a, int64_t m, int kind, float* out) {
  if (kind == cnnfast::kIou) box_iou_row<cnnfast::kIou>(columns, a, m, out);
  if (kind == cnnfast::kGiou) box_iou_row<cnnfast::kGiou>(columns, a, m, out);
  if (kind == cnnfast::kDiou) box_iou_row<cnnfast::kDiou>(columns, a, m, out);
  if (kind == cnnfast::kCiou) box_iou_row<cnnfast::kCiou>(columns, a, m, out);
}

// The kept boxes at `j` against one box. All of them have positive finite areas, or are zero where a
// place is free. Where both sides are negative or one is, the product is no larger than 0 or belongs
// to a width clamped to 0, and the test fails: one clamp is enough.
struct Overlap {
  vf inter, whole;
  vi near;
};
CNNFAST_INLINE Overlap overlap(const BoxVector& a, float* const* b, int64_t j, vf threshold) {
  const vf iw = vmin(load(b[cnnfast::kX2] + j), a.x2) - vmax(load(b[cnnfast::kX1] + j), a.x1);
  const vf ih = vmin(load(b[cnnfast::kY2] + j), a.y2) - vmax(load(b[cnnfast::kY1] + j), a.y1);
  Overlap o;
  o.inter = vmax(iw, vf{}) * ih;
  o.whole = (load(b[cnnfast::kArea] + j) + a.area) - o.inter;
  o.near = o.inter >= threshold * o.whole;
  return o;
}
CNNFAST_INLINE vi above(const Overlap& o, vf threshold) { return (o.inter / o.whole) > threshold; }

CNNFAST_INLINE bool suppressed(const BoxVector& a, float* const* b, int64_t j, int64_t end, vf threshold) {
  for (; j + 4 * VL <= end; j += 4 * VL) {
    Overlap o[4];
    CNNFAST_UNROLL
    for (int k = 0; k < 4; ++k) o[k] = overlap(a, b, j + k * VL, threshold);
    if (__builtin_expect(any_lane(o[0].near | o[1].near | o[2].near | o[3].near), 0))
      for (int k = 0; k < 4; ++k)
        if (any_lane(above(o[k], threshold))) return true;
  }
  for (; j < end; j += VL) {
    const Overlap o = overlap(a, b, j, threshold);
    if (any_lane(o.near) && any_lane(above(o, threshold))) return true;
  }
  return false;
}

// Width, height and area of one box; false if it can neither suppress nor be suppressed, because its
// area is 0 or not finite.
CNNFAST_INLINE bool measure_box(const float* box, float* values) {
  const float w = box[2] - box[0], h = box[3] - box[1];
  values[cnnfast::kX1] = box[0];
  values[cnnfast::kY1] = box[1];
  values[cnnfast::kX2] = box[2];
  values[cnnfast::kY2] = box[3];
  values[cnnfast::kArea] = w > 0 && h > 0 ? w * h : 0.0f;
  return values[cnnfast::kArea] > 0 && values[cnnfast::kArea] <= __FLT_MAX__;
}

static int64_t nms_list(cnnfast::NmsJob* job, int64_t begin, int64_t end) {
  const vf threshold = splat(job->threshold);
  for (int64_t i = begin; i < end; ++i) {
    const uint32_t number = static_cast<uint32_t>(job->keys[i]);
    float values[cnnfast::kArea + 1];
    if (measure_box(job->boxes + 4 * static_cast<int64_t>(number), values)) {
      if (suppressed(splat_box(values), job->columns, 0, job->listed, threshold)) continue;
      const int64_t at = job->listed++;
      for (int k = 0; k <= cnnfast::kArea; ++k) {
        if (at % VL == 0) store(job->columns[k] + at, vf{});
        job->columns[k][at] = values[k];
      }
    }
    job->kept[job->kept_count++] = number;
    if (job->listed == job->listed_limit && job->listed) return i + 1;
  }
  return end;
}

CNNFAST_INLINE int64_t grid_cell(double place, double origin, double scale, int64_t cells) {
  const double cell = (place - origin) * scale;
  return cell <= 0 ? 0 : cell >= static_cast<double>(cells - 1) ? cells - 1 : static_cast<int64_t>(cell);
}

static int64_t nms_grid(cnnfast::NmsJob* job, int64_t begin, int64_t end) {
  const cnnfast::NmsGrid& grid = job->grid;
  const vf threshold = splat(job->threshold);
  for (int64_t i = begin; i < end; ++i) {
    const uint32_t number = static_cast<uint32_t>(job->keys[i]);
    const float* box = job->boxes + 4 * static_cast<int64_t>(number);
    float values[cnnfast::kArea + 1];
    if (measure_box(box, values)) {
      const BoxVector a = splat_box(values);
      const double x1 = box[0], y1 = box[1], x2 = box[2], y2 = box[3];
      const double cx = 0.5 * (x1 + x2), cy = 0.5 * (y1 + y2);
      const double dx = grid.reach * (x2 - x1), dy = grid.reach * (y2 - y1);
      const int64_t left = grid_cell(cx - dx, grid.x0, grid.x_scale, grid.nx);
      const int64_t right = grid_cell(cx + dx, grid.x0, grid.x_scale, grid.nx);
      const int64_t top = grid_cell(cy - dy, grid.y0, grid.y_scale, grid.ny);
      const int64_t bottom = grid_cell(cy + dy, grid.y0, grid.y_scale, grid.ny);
      bool dropped = false;
      for (int64_t row = top; row <= bottom && !dropped; ++row)
        for (int64_t cell = row * grid.nx + left; cell <= row * grid.nx + right && !dropped; ++cell)
          dropped =
              suppressed(a, job->columns, grid.start[cell], grid.start[cell] + grid.count[cell], threshold);
      if (dropped) continue;
      const int64_t cell = grid_cell(cy, grid.y0, grid.y_scale, grid.ny) * grid.nx +
                           grid_cell(cx, grid.x0, grid.x_scale, grid.nx);
      const int64_t at = grid.start[cell] + grid.count[cell]++;
      for (int k = 0; k <= cnnfast::kArea; ++k) job->columns[k][at] = values[k];
    }
    job->kept[job->kept_count++] = number;
  }
  return end;
}

static int64_t nms_first(const cnnfast::NmsJob* job, const float* box) {
  const vf threshold = splat(job->threshold);
  float values[cnnfast::kArea + 1];
  if (!measure_box(box, values)) return -1;
  const BoxVector a = splat_box(values);
  for (int64_t j = 0; j < job->listed; j += VL) {
    const Overlap o = overlap(a, job->columns, j, threshold);
    if (!any_lane(o.near)) continue;
    const vi hit = above(o, threshold);
    for (int k = 0; k < VL; ++k)
      if (hit[k]) return j + k;
  }
  return -1;
}

// exp(x) for x <= 0, held at exp(-80) below that; within 2 units in the last place. The NumPy
// definition takes the same steps.
CNNFAST_INLINE vf soft_exp(vf x) {
  x = vmax(splat(-80.0f), x);
  const vf magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
  const vf n = (x * splat(1.44269504f) + magic) - magic;
  const vf r = (x - n * splat(0.693359375f)) - n * splat(-2.12194440e-4f);
  vf p = splat(1.0f / 5040);
  p = p * r + splat(1.0f / 720);
  p = p * r + splat(1.0f / 120);
  p = p * r + splat(1.0f / 24);
  p = p * r + splat(1.0f / 6);
  p = p * r + splat(0.5f);
  p = p * r + splat(1.0f);
  p = p * r + splat(1.0f);
  return p * reinterpret_cast<vf>((__builtin_convertvector(n, vi) + 127) << 23);
}

static int64_t soft_nms_round(cnnfast::SoftNmsJob* job) {
  const BoxVector a = splat_box(job->chosen);
  const vf threshold = splat(job->threshold), one = splat(1.0f), none = splat(__builtin_nanf(""));
  vf best = none;
  vi best_place = splat_int(0), live = {}, place;
  for (int i = 0; i < VL; ++i) place[i] = i;
  for (int64_t j = 0; j < job->n; j += VL) {
    vf score = load(job->score + j);
    const vf inter = intersection(a, job->columns, j);
    if (any_lane(inter > vf{})) {
      const vf iou = ratio(inter, (a.area + load(job->columns[cnnfast::kArea] + j)) - inter);
      const vf weight = job->gaussian ? soft_exp(-(iou * iou) / splat(job->sigma))
                                      : select(iou > threshold, one - iou, one);
      // An infinite score times 0 is 0.
      score = select(score == score, select(weight > vf{}, score * weight, vf{}), score);
    }
    const vi in = score >= splat(job->score_threshold);
    score = select(in, score, none);
    store(job->score + j, score);
    live -= in;
    const vi better = (score > best) | (in & (best != best));
    best = select(better, score, best);
    best_place = (better & place) | (~better & best_place);
    place += VL;
  }
  int64_t found = -1;
  job->live = 0;
  for (int i = 0; i < VL; ++i) {
    job->live += live[i];
    if (best[i] != best[i]) continue;
    if (found < 0 || best[i] > job->score[found] || (best[i] == job->score[found] && best_place[i] < found))
      found = best_place[i];
  }
  return found;
}

// atan(w / h) for sides clamped to 0, within 3 units in the last place: a polynomial for the shorter
// side over the longer one, fitted at Chebyshev points; 0 where both are 0.
static void angles(float* const* columns, int64_t n) {
  for (int64_t j = 0; j < n; j += VL) {
    vf w = load(columns[cnnfast::kX2] + j) - load(columns[cnnfast::kX1] + j);
    vf h = load(columns[cnnfast::kY2] + j) - load(columns[cnnfast::kY1] + j);
    w = select(w > vf{}, w, vf{});
    h = select(h > vf{}, h, vf{});
    const vi steep = h > w;
    const vf longer = select(steep, h, w);
    vf x = select(steep, w, h) / longer;
    x = select(x == x, x, select(longer > vf{}, splat(1.0f), vf{}));  // inf / inf: the diagonal
    const vf z = x * x;
    vf p = splat(-0.00174370114f);
    p = p * z + splat(0.0106807194f);
    p = p * z + splat(-0.0307175089f);
    p = p * z + splat(0.0574635578f);
    p = p * z + splat(-0.0837206395f);
    p = p * z + splat(0.10940199f);
    p = p * z + splat(-0.142615737f);
    p = p * z + splat(0.199982306f);
    p = p * z + splat(-0.333332823f);
    p = p * z + splat(0.999999998f);
    const vf angle = p * x;
    store(columns[cnnfast::kAngle] + j, select(steep | (longer == vf{}), angle, splat(1.57079633f) - angle));
  }
}

constexpr cnnfast::BoxKernels box_kernels() {
  return {iou_row, nms_list, nms_grid, nms_first, soft_nms_round, angles};
}

}  // namespace
