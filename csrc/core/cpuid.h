// Instruction levels: which are built in, which this CPU runs, which one is in use.
#pragma once
#include <string>
#include <vector>

namespace cnnfast {

struct Level {
  std::string name;
  bool supported;
};
std::vector<Level> levels();  // slowest first
std::string cpu_name();

}  // namespace cnnfast
