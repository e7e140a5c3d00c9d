#pragma once
#include <cstdint>

namespace cnnfast {

struct PoolKernels {
  int reserved;
};

}  // namespace cnnfast
