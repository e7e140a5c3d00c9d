#pragma once
#include <cstdint>

namespace cnnfast {

struct BoxKernels {
  int reserved;
};

}  // namespace cnnfast
