#pragma once
#include <cstdint>

namespace cnnfast {

struct RoiKernels {
  int reserved;
};

}  // namespace cnnfast
