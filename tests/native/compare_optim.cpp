// Steps of optimisers.
#include "harness.h"

CNNFAST_EXPECT_KERNELS(OptimKernels, void (*sgd)(); void (*rmsprop)(); void (*adam)(); void (*approach)();
                       void (*add_scaled)(); double (*dot)();)

namespace compare {
namespace {

const int64_t kSizes[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 130};

Floats copy_of(const Floats& x, Guard guard) {
  Floats made(x.size(), guard);
  std::memcpy(made.data(), x.data(), static_cast<size_t>(x.size()) * sizeof(float));
  return made;
}

// All arrays of a step, twice: for the portable level and for the other one.
struct Arrays {
  Arrays(int64_t n, Guard guard, Random& random) {
    const Floats start[] = {random.floats(n, guard), random.floats(n, guard, 0.1f, 2),
                            random.floats(n, guard, -0.2f, 0.2f), random.floats(n, guard)};
    for (int side = 0; side < 2; ++side)
      for (const Floats& x : start) held[side].push_back(copy_of(x, guard));
  }
  float* get(int side, int which) const { return held[side][static_cast<size_t>(which)].data(); }
  std::vector<Floats> held[2];
};

// Values of order one with at most a dozen roundings, of which the root and the quotient magnify by less
// than eight (squares are at least .01).
void report_all(const char* what, const Arrays& arrays, int64_t n, Report& report) {
  const std::vector<double> bounds(static_cast<size_t>(n), 200 * kUnit);
  for (int which = 0; which < 4; ++which)
    report.same(what, arrays.get(0, which), arrays.get(1, which), n, &bounds);
}

}  // namespace

void compare_optim(const KernelTable& base, const KernelTable& level, Guard guard, Report& report) {
  Random random(11);
  const KernelTable* tables[2] = {&base, &level};
  for (int64_t n : kSizes)
    for (float decay : {0.0f, 0.125f})
      for (int mode = 0; mode < 4; ++mode) {
        const Floats g = random.floats(n, guard);
        Arrays sgd(n, guard, random), rmsprop(n, guard, random), adam(n, guard, random);
        for (int side = 0; side < 2; ++side) {
          const cnnfast::OptimKernels& k = tables[side]->optim;
          const cnnfast::SgdStep s{0.5f, 0.75f, 0.9f, decay, mode == 1 ? -1.0f : 1.0f, mode == 2, mode == 3};
          k.sgd(&s, sgd.get(side, 0), g.data(), mode ? sgd.get(side, 1) : nullptr, n);
          const cnnfast::RmspropStep r{0.5f, 0.9f, 0.1f, 1e-4f, decay, 0.75f, 1.0f};
          k.rmsprop(&r, rmsprop.get(side, 0), g.data(), rmsprop.get(side, 1),
                    mode & 1 ? rmsprop.get(side, 2) : nullptr, mode & 2 ? rmsprop.get(side, 3) : nullptr, n);
          const cnnfast::AdamStep a{0.5f, 0.1f, 0.9f, 0.1f, 0.5f, 1e-4f, decay, 0.99f, 1.0f};
          k.adam(&a, adam.get(side, 0), g.data(), adam.get(side, 2), adam.get(side, 1),
                 mode & 1 ? adam.get(side, 3) : nullptr, n);
        }
        report_all("sgd", sgd, n, report);
        report_all("rmsprop", rmsprop, n, report);
        report_all("adam", adam, n, report);
      }
  for (int64_t n : {1, 5, 16, 17, 64, 65, 129, 4096}) {
    const Floats x = random.floats(n, guard);
    Arrays near(n, guard, random), sums(n, guard, random);
    float dots[2];
    for (int side = 0; side < 2; ++side) {
      const cnnfast::OptimKernels& k = tables[side]->optim;
      k.approach(0.3f, near.get(side, 0), x.data(), n);
      k.add_scaled(-1.7f, sums.get(side, 0), x.data(), n);
      dots[side] = static_cast<float>(k.dot(x.data(), near.get(side, 1), n));
    }
    report_all("approach", near, n, report);
    report_all("add scaled", sums, n, report);
    const std::vector<double> bound(1, static_cast<double>(n + 4) * 2 * static_cast<double>(n) * kUnit);
    report.same("dot", &dots[0], &dots[1], 1, &bound);
  }
}

}  // namespace compare
