// Calls every kernel of every instruction level that this CPU runs and compares it with the portable
// level on the same random data: plain, tail and strided shapes, arrays that end or begin at an
// unreadable page. Without FMA the bits must be equal, with it the difference stays below the bound
// that follows from the number of roundings. No Python; runs under qemu-user as well.
// Usage: compare_levels [level ...]     (default: all)
#include <string>

#include "core/cpuid.h"
#include "harness.h"

using namespace compare;

#define CNNFAST_TABLES(F) F(scalar) F(v2) F(v3) F(v4) F(neon)
#define CNNFAST_DECLARE(level) \
  extern "C" __attribute__((weak)) const cnnfast::KernelTable cnnfast_table_##level;
CNNFAST_TABLES(CNNFAST_DECLARE)

CNNFAST_EXPECT_KERNELS(KernelTable, const char* level; int vl; cnnfast::GemmKernels gemm;
                       cnnfast::DepthwiseKernels depthwise; cnnfast::PixelKernels pixels;
                       cnnfast::PoolKernels pool; cnnfast::PointwiseKernels pointwise;
                       cnnfast::NormKernels norm; cnnfast::ReduceKernels reduce;
                       cnnfast::ResampleKernels resample; cnnfast::BoxKernels boxes; cnnfast::RoiKernels roi;
                       cnnfast::WinogradKernels winograd; cnnfast::RowWinogradKernels row_winograd;
                       cnnfast::StrassenKernels strassen; cnnfast::OuterKernels outer;
                       cnnfast::DepthwiseGradKernels depthwise_grad; cnnfast::PoolGradKernels pool_grad;
                       cnnfast::TrainKernels train; cnnfast::OptimKernels optim; double (*spin_fma)(int64_t);)

namespace {

const std::pair<const char*, Compare> kFamilies[] = {
    {"gemm", compare_gemm},
    {"depthwise", compare_depthwise},
    {"pixels", compare_pixels},
    {"pool", compare_pool},
    {"pointwise", compare_pointwise},
    {"norm", compare_norm},
    {"reduce", compare_reduce},
    {"resample", compare_resample},
    {"boxes", compare_boxes},
    {"roi", compare_roi},
    {"winograd", compare_winograd},
    {"row_winograd", compare_row_winograd},
    {"strassen", compare_strassen},
    {"outer", compare_outer},
    {"depthwise_grad", compare_depthwise_grad},
    {"pool_grad", compare_pool_grad},
    {"train", compare_train},
    {"optim", compare_optim},
};

const KernelTable* table_of(const std::string& name) {
#define CNNFAST_FIND(level) \
  if (name == #level) return &cnnfast_table_##level;
  CNNFAST_TABLES(CNNFAST_FIND)
  return nullptr;
}

int compare_level(const KernelTable& base, const KernelTable& level) {
  Report report(level.level);
  for (const auto& [name, compare] : kFamilies) {
    report.family(name);
    for (Guard guard : {Guard::kEnd, Guard::kBegin}) compare(base, level, guard, report);
  }
  if (level.spin_fma(100) <= 0) return 1;
  return report.finish();
}

}  // namespace

int main(int argc, char** argv) {
  const KernelTable* base = table_of("scalar");
  if (!base) {
    std::printf("the portable level is not built in\n");
    return 1;
  }
  int bad = 0, done = 0;
  for (const cnnfast::Level& level : cnnfast::levels()) {
    bool asked = argc == 1 && level.name != "scalar";
    for (int i = 1; i < argc; ++i) asked = asked || level.name == argv[i];
    if (!asked) continue;
    if (!level.supported) {
      std::printf("%s: not on this CPU\n", level.name.c_str());
      bad |= argc > 1;
      continue;
    }
    bad |= compare_level(*base, *table_of(level.name));
    std::fflush(stdout);
    ++done;
  }
  if (!done) std::printf("no level was compared\n");
  return bad || !done;
}
