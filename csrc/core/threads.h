// A small thread pool: workers spin briefly, then sleep. Fork-safe; one job at a time, and a caller
// that finds the pool busy runs its job alone, so many Python threads may call at once.
#pragma once
#include <cstdint>
#include <string>
#include <utility>

namespace cnnfast {

// What set_num_threads or the environment allows, less where a ThreadLimit says so.
int num_threads();
void set_num_threads(int n);
// Why the pool has the size it has, e.g. "2: CPU affinity of the process".
std::string thread_reason();

// Called now and then on the calling thread during long jobs; true asks the job to stop.
using InterruptHook = bool (*)();
void set_interrupt_hook(InterruptHook hook);
struct Interrupted {};
// Asks the hook, about every 20 ms: it may cost a lock.
class InterruptClock {
 public:
  InterruptClock() : last_(milliseconds()) {}
  bool asked();

 private:
  // Of a coarse clock: the steps of a small network take no longer than a look at an exact one.
  static int64_t milliseconds();

  int64_t last_;
};

// Jobs of this thread use at most `threads` threads (0: as many as num_threads says) while it lives.
class ThreadLimit {
 public:
  explicit ThreadLimit(int threads);
  ~ThreadLimit();
  ThreadLimit(const ThreadLimit&) = delete;

 private:
  int before_;
};

using TaskFn = void (*)(void* context, int64_t task);
// Runs fn(context, 0..tasks-1), each once, in any order, on at most `threads` threads. Throws
// std::bad_alloc if a task did, Interrupted if the hook asked to stop.
void run_tasks(int64_t tasks, int threads, TaskFn fn, void* context);

template <class F>
void parallel_for(int64_t tasks, int threads, F&& body) {
  run_tasks(tasks, threads, [](void* context, int64_t task) { (*static_cast<F*>(context))(task); }, &body);
}

// Threads worth waking for a job of this many nanoseconds on one thread.
inline int threads_for(double nanoseconds) {
  if (nanoseconds < 8000) return 1;
  double useful = nanoseconds / 4000;
  int n = num_threads();
  return useful < n ? static_cast<int>(useful) : n;
}

}  // namespace cnnfast
