#pragma once
#include <cstdint>

namespace cnnfast {

struct PointwiseKernels {
  int reserved;
};

}  // namespace cnnfast
