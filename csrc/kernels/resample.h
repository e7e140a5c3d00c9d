#pragma once
#include <cstdint>

namespace cnnfast {

struct ResampleKernels {
  int reserved;
};

}  // namespace cnnfast
