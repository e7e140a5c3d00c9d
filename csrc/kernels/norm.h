#pragma once
#include <cstdint>

namespace cnnfast {

struct NormKernels {
  int reserved;
};

}  // namespace cnnfast
