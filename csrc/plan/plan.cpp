#include "plan/plan.h"

#include <chrono>

#include "core/threads.h"

namespace cnnfast {

void Plan::run(float* const* arrays) const {
  const ThreadLimit limit(threads_);
  const Buffer buffer = arena();
  const Memory memory(buffer.floats(), arrays);
  InterruptClock clock;
  for (const Step& step : steps_) {
    step.run(memory);
    if (clock.asked()) throw Interrupted{};
  }
}

void Plan::run_timed(float* const* arrays, double* seconds) const {
  const ThreadLimit limit(threads_);
  const Buffer buffer = arena();
  const Memory memory(buffer.floats(), arrays);
  auto before = std::chrono::steady_clock::now();
  for (size_t i = 0; i < steps_.size(); ++i) {
    steps_[i].run(memory);
    const auto now = std::chrono::steady_clock::now();
    seconds[i] = std::chrono::duration<double>(now - before).count();
    before = now;
  }
}

}  // namespace cnnfast
