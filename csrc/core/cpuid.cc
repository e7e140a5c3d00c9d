#include "core/cpuid.h"

#include <cstdlib>
#include <fstream>
#include <stdexcept>

#include "kernels/table.h"

extern "C" {
#define CNNFAST_DECLARE(level) extern const cnnfast::KernelTable cnnfast_table_##level;
#if defined(CNNFAST_HAVE_SCALAR)
CNNFAST_DECLARE(scalar)
#endif
#if defined(CNNFAST_HAVE_V2)
CNNFAST_DECLARE(v2)
#endif
#if defined(CNNFAST_HAVE_V3)
CNNFAST_DECLARE(v3)
#endif
#if defined(CNNFAST_HAVE_V4)
CNNFAST_DECLARE(v4)
#endif
#if defined(CNNFAST_HAVE_NEON)
CNNFAST_DECLARE(neon)
#endif
}

namespace cnnfast {
namespace {

struct Built {
  const KernelTable* table;
  bool supported;
};

#if defined(__x86_64__)
bool has_v2() { return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt"); }
bool has_v3() {
  return has_v2() && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}
bool has_v4() {
  return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}
#endif

std::vector<Built> built() {
  std::vector<Built> all;
#if defined(CNNFAST_HAVE_SCALAR)
  all.push_back({&cnnfast_table_scalar, true});
#endif
#if defined(CNNFAST_HAVE_V2)
  all.push_back({&cnnfast_table_v2, has_v2()});
#endif
#if defined(CNNFAST_HAVE_V3)
  all.push_back({&cnnfast_table_v3, has_v3()});
#endif
#if defined(CNNFAST_HAVE_V4)
  all.push_back({&cnnfast_table_v4, has_v4()});
#endif
#if defined(CNNFAST_HAVE_NEON)
  all.push_back({&cnnfast_table_neon, true});
#endif
  return all;
}

const KernelTable* choose() {
  const char* forced = std::getenv("CNNFAST_ISA");
  const KernelTable* best = nullptr;
  std::string names;
  for (const Built& level : built()) {
    if (forced && *forced && std::string(forced) == level.table->level) {
      if (!level.supported)
        throw std::runtime_error(std::string("CNNFAST_ISA=") + forced +
                                 ": this CPU does not have that level");
      return level.table;
    }
    if (level.supported) best = level.table;
    names += names.empty() ? level.table->level : std::string(", ") + level.table->level;
  }
  if (forced && *forced)
    throw std::runtime_error(std::string("CNNFAST_ISA=") + forced + ": expected one of " + names);
  return best;
}

}  // namespace

const KernelTable& kernels() {
  static const KernelTable* const table = choose();
  return *table;
}

std::vector<Level> levels() {
  std::vector<Level> all;
  for (const Built& level : built()) all.push_back({level.table->level, level.supported});
  return all;
}

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line))
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  return "unknown";
}

}  // namespace cnnfast
