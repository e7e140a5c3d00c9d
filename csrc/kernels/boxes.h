#pragma once
#include <cstdint>

namespace cnnfast {

enum BoxKind { kIou, kGiou, kDiou, kCiou };

// Columns of a list of boxes. The corners as given and the area (0 for an empty box) serve the
// intersection; the ordered corners serve the enclosing box; the angle is atan(width / height).
enum BoxColumn { kX1, kY1, kX2, kY2, kArea, kLowX, kLowY, kHighX, kHighY, kAngle, kBoxColumns };

// Columns are read in whole vectors: each is padded by kBoxPadding zeros.
constexpr int kBoxPadding = 16;

// A grid over the centres of the kept boxes. Cell c owns the places start[c] .. start[c + 1] of the
// columns, of which the first count[c] are taken.
struct NmsGrid {
  const int32_t* start;
  int32_t* count;
  int64_t nx, ny;
  double x0, y0;            // corner of the grid
  double x_scale, y_scale;  // cells per unit
  double reach;             // centres of boxes that may suppress a box lie within reach * its size
};

struct NmsJob {
  const float* boxes;    // x1, y1, x2, y2 of every box
  const uint64_t* keys;  // low 32 bits: box numbers in the order of falling scores
  float threshold;
  float* columns[kArea + 1];  // of the kept boxes that can suppress others
  int64_t listed;             // how many those are (without a grid)
  int64_t listed_limit;       // the list stops when it has this many; 0: never
  int64_t* kept;              // numbers of all kept boxes
  int64_t kept_count;
  NmsGrid grid;
};

// One round of soft suppression: decay by the chosen box, drop, find the next.
struct SoftNmsJob {
  float* columns[kArea + 1];
  float* score;  // NaN: not in the running
  int64_t n;
  float chosen[kArea + 1];
  int gaussian;
  float threshold, sigma, score_threshold;
  int64_t live;  // out: boxes still in the running
};

struct BoxKernels {
  // out[j] for every box of the columns; `a` has one value per column.
  void (*iou_row)(const float* const* columns, const float* a, int64_t m, int kind, float* out);
  // Boxes keys[begin..end) one after the other; the job carries what was kept so far. They give the
  // first box not looked at.
  int64_t (*nms_list)(NmsJob*, int64_t begin, int64_t end);
  int64_t (*nms_grid)(NmsJob*, int64_t begin, int64_t end);
  // First listed box whose IoU with `box` is above the threshold, or -1.
  int64_t (*nms_first)(const NmsJob*, const float* box);
  // Place of the best score (the first of equal ones), or -1.
  int64_t (*soft_nms_round)(SoftNmsJob*);
  // Fills column kAngle of n boxes from their corners, in whole vectors.
  void (*angles)(float* const* columns, int64_t n);
};

}  // namespace cnnfast
