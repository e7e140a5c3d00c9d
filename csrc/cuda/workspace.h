#pragma once
#include <cstdint>

namespace cnnfast::cuda {

// Memory for the length of a launcher's call, in the order of its stream; whoever calls has it.
class Workspace {
 public:
  virtual ~Workspace() = default;
  virtual float* floats(int64_t count) = 0;
};

}  // namespace cnnfast::cuda
