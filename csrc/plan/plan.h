// A compiled network: steps in order, each with its algorithm, weights and places chosen, that run
// without Python. One plan may run on many threads at once: a run writes to nothing but its own memory.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/arena.h"

namespace cnnfast {

// Where an operand lies: in the plan's arena, in an input or an output of the run, or fixed.
struct Place {
  enum Space : int32_t { kNone = -2, kConstant = -1, kArena = 0, kFirstArray = 1 };

  int32_t space = kNone;  // from kFirstArray on: the inputs, then the outputs
  int64_t offset = 0;     // in floats
  const float* constant = nullptr;
  std::shared_ptr<const void> owner;  // of the constant
};

// What one run reads and writes.
class Memory {
 public:
  Memory(float* arena, float* const* arrays) : arena_(arena), arrays_(arrays) {}
  // Null for no place.
  float* operator[](const Place& place) const {
    if (place.space >= Place::kFirstArray) return arrays_[place.space - Place::kFirstArray] + place.offset;
    if (place.space == Place::kArena) return arena_ + place.offset;
    return const_cast<float*>(place.constant);  // steps write to the other spaces only
  }

 private:
  float* arena_;
  float* const* arrays_;
};

struct Step {
  std::string algorithm;
  std::function<void(const Memory&)> run;
};

class Plan {
 public:
  // threads: at most so many for a run, 0 for no limit of its own.
  Plan(int64_t arena_floats, int threads) : arena_floats_(arena_floats), threads_(threads) {}

  void add(std::string algorithm, std::function<void(const Memory&)> run) {
    steps_.push_back({std::move(algorithm), std::move(run)});
  }
  const std::vector<Step>& steps() const { return steps_; }
  int64_t arena_floats() const { return arena_floats_; }

  // `arrays`: the inputs, then the outputs. Throws as run_tasks does.
  void run(float* const* arrays) const;
  // The same, and how long each step took.
  void run_timed(float* const* arrays, double* seconds) const;

 private:
  Buffer arena() const { return Buffer(static_cast<size_t>(arena_floats_) * sizeof(float)); }

  std::vector<Step> steps_;
  int64_t arena_floats_;
  int threads_;
};

}  // namespace cnnfast
