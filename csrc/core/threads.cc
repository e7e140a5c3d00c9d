#include "core/threads.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <ctime>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#include <fstream>
#include <sstream>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <unistd.h>
#define CNNFAST_HAVE_FORK 1
#endif

namespace cnnfast {
namespace {

constexpr int kMaxThreads = 256;
// How often a worker looks for the next job before it sleeps: about a quarter of a millisecond, longer than a
// program in Python needs from one call to the next.
constexpr int kSpins = 10000;

inline void cpu_relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

#if defined(__linux__)
// A scheduler may wake a worker on the very processor its caller keeps busy, and let it wait there for
// milliseconds. So the caller bars its own processor to the workers, whenever it has moved to another.
class Placement {
 public:
  // On the worker, when it begins.
  void begin() {
    if (sched_getaffinity(0, sizeof set_, &set_) != 0) return;
    allowed_ = set_;
    thread_.store(static_cast<pid_t>(syscall(SYS_gettid)), std::memory_order_release);
  }
  // On the caller.
  void keep_off(int cpu) {
    const pid_t thread = thread_.load(std::memory_order_acquire);
    if (cpu == barred_ || thread == 0 || cpu < 0 || cpu >= CPU_SETSIZE) return;
    barred_ = cpu;
    cpu_set_t now;
    if (sched_getaffinity(thread, sizeof now, &now) != 0) return;
    if (!CPU_EQUAL(&now, &set_)) allowed_ = now;  // somebody else chose anew
    set_ = allowed_;
    CPU_CLR(cpu, &set_);
    if (CPU_COUNT(&set_) == 0) set_ = allowed_;
    if (!CPU_EQUAL(&now, &set_) && sched_setaffinity(thread, sizeof set_, &set_) != 0) set_ = now;
  }

 private:
  std::atomic<pid_t> thread_{0};
  cpu_set_t allowed_, set_;
  int barred_ = -1;
};
int this_cpu() { return sched_getcpu(); }
#else
class Placement {
 public:
  void begin() {}
  void keep_off(int) {}
};
int this_cpu() { return -1; }
#endif

// state_ = epoch << 32 | closed << 31 | number of workers inside the job. A worker enters by raising
// the count while the job is open; the caller closes it and waits for the count to fall to zero, so
// it never waits for a worker that is still asleep.
class Pool {
 public:
  explicit Pool(int workers) : size_(workers), placements_(workers <= kPlaced ? workers : 0) {
    for (int i = 0; i < workers; ++i) std::thread([this, i] { work(i); }).detach();
  }

  int size() const { return size_; }
  bool try_acquire() { return busy_.try_lock(); }
  void release() { busy_.unlock(); }

  void run(int64_t tasks, int helpers, TaskFn fn, void* context);

 private:
  static constexpr uint64_t kClosed = uint64_t{1} << 31;
  static constexpr uint64_t kCount = kClosed - 1;
  // On machines with many processors an idle one is found without help.
  static constexpr int kPlaced = 7;

  void work(int index);
  void take_tasks(bool caller);

  const int size_;
  std::mutex busy_;
  std::atomic<uint64_t> state_{kClosed};
  std::atomic<int> sleepers_{0};
  std::vector<Placement> placements_;
  std::mutex mutex_;
  std::condition_variable wake_;

  TaskFn fn_ = nullptr;
  void* context_ = nullptr;
  int64_t tasks_ = 0;
  std::atomic<uint64_t> helpers_{0};  // a worker that comes late may still look at it
  // The caller takes tasks from the front and the workers from the back, so that calls of like size
  // leave like parts of their arrays in each core's cache.
  std::atomic<int64_t> claimed_{0}, from_back_{0};
  std::atomic<bool> out_of_memory_{false};
  bool interrupted_ = false;
};

std::atomic<InterruptHook> g_hook{nullptr};
thread_local bool t_inside = false;
thread_local int t_limit = 0;

void Pool::take_tasks(bool caller) {
  InterruptClock clock;
  for (int64_t from_front = 0; claimed_.fetch_add(1, std::memory_order_relaxed) < tasks_;) {
    const int64_t task =
        caller ? from_front++ : tasks_ - 1 - from_back_.fetch_add(1, std::memory_order_relaxed);
    try {
      fn_(context_, task);
    } catch (...) {
      out_of_memory_.store(true, std::memory_order_relaxed);
      claimed_.store(tasks_, std::memory_order_relaxed);
    }
    if (caller && clock.asked()) {
      interrupted_ = true;
      claimed_.store(tasks_, std::memory_order_relaxed);
    }
  }
}

void Pool::work(int index) {
  t_inside = true;
  if (!placements_.empty()) placements_[index].begin();
  uint64_t seen = 0;
  for (;;) {
    uint64_t state = state_.load(std::memory_order_acquire);
    for (int spin = 0; (state >> 32) == seen && spin < kSpins; ++spin) {
      cpu_relax();
      state = state_.load(std::memory_order_acquire);
    }
    if ((state >> 32) == seen) {
      std::unique_lock<std::mutex> lock(mutex_);
      sleepers_.fetch_add(1);
      wake_.wait(lock, [&] { return (state_.load() >> 32) != seen; });
      sleepers_.fetch_sub(1);
      state = state_.load(std::memory_order_acquire);
    }
    seen = state >> 32;
    bool entered = false;
    while ((state >> 32) == seen && !(state & kClosed) &&
           (state & kCount) < helpers_.load(std::memory_order_relaxed)) {
      if (state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) {
        entered = true;
        break;
      }
    }
    if (!entered) continue;
    take_tasks(false);
    state_.fetch_sub(1, std::memory_order_acq_rel);
  }
}

void Pool::run(int64_t tasks, int helpers, TaskFn fn, void* context) {
  fn_ = fn;
  context_ = context;
  tasks_ = tasks;
  helpers_.store(static_cast<uint64_t>(helpers), std::memory_order_relaxed);
  interrupted_ = false;
  out_of_memory_.store(false, std::memory_order_relaxed);
  claimed_.store(0, std::memory_order_relaxed);
  from_back_.store(0, std::memory_order_relaxed);
  if (!placements_.empty()) {
    const int cpu = this_cpu();
    for (Placement& placement : placements_) placement.keep_off(cpu);
  }
  state_.store(((state_.load() >> 32) + 1) << 32);
  if (sleepers_.load() > 0) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
    }
    wake_.notify_all();
  }
  t_inside = true;
  take_tasks(true);
  t_inside = false;
  state_.fetch_or(kClosed, std::memory_order_acq_rel);
  for (int spin = 0; state_.load(std::memory_order_acquire) & kCount; ++spin) {
    // A worker may have lost its core to another process: do not burn ours for it for ever.
    if (spin < 4000)
      cpu_relax();
    else
      std::this_thread::yield();
  }
  if (out_of_memory_.load(std::memory_order_relaxed)) throw std::bad_alloc();
  if (interrupted_) throw Interrupted{};
}

std::string g_reason;

#if defined(__linux__)
// CPUs that the cgroup's bandwidth quota amounts to, or 0 without a quota.
int cgroup_quota() {
  auto v2 = [](const std::string& folder) -> int {
    std::ifstream file(folder + "/cpu.max");
    std::string quota;
    double period = 0;
    if (!(file >> quota >> period) || quota == "max" || period <= 0) return 0;
    double cpus = std::atof(quota.c_str()) / period;
    return cpus <= 0 ? 0 : cpus < 1 ? 1 : static_cast<int>(cpus + 0.999);
  };
  auto v1 = [](const std::string& folder) -> int {
    std::ifstream quota_file(folder + "/cpu.cfs_quota_us"), period_file(folder + "/cpu.cfs_period_us");
    double quota = 0, period = 0;
    if (!(quota_file >> quota) || !(period_file >> period) || quota <= 0 || period <= 0) return 0;
    double cpus = quota / period;
    return cpus < 1 ? 1 : static_cast<int>(cpus + 0.999);
  };
  int best = 0;
  auto consider = [&](int cpus) {
    if (cpus > 0 && (best == 0 || cpus < best)) best = cpus;
  };
  std::ifstream file("/proc/self/cgroup");
  std::string line;
  while (std::getline(file, line)) {
    size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    std::string controllers = line.substr(first + 1, second - first - 1), path = line.substr(second + 1);
    // A parent's quota binds its children, so every folder up to the root counts.
    for (;;) {
      if (path == "/") path.clear();
      if (controllers.empty()) consider(v2("/sys/fs/cgroup" + path));
      if (("," + controllers + ",").find(",cpu,") != std::string::npos)
        consider(v1("/sys/fs/cgroup/" + controllers + path));
      if (path.empty()) break;
      path.resize(path.rfind('/'));
    }
  }
  consider(v2("/sys/fs/cgroup"));
  consider(v1("/sys/fs/cgroup/cpu"));
  return best;
}

int affinity_count() {
  // Machines with more CPUs than cpu_set_t holds need a larger mask.
  for (int cpus = 1024; cpus <= (1 << 18); cpus *= 4) {
    cpu_set_t* set = CPU_ALLOC(cpus);
    if (!set) return 0;
    size_t bytes = CPU_ALLOC_SIZE(cpus);
    int n = sched_getaffinity(0, bytes, set) == 0 ? CPU_COUNT_S(bytes, set) : 0;
    CPU_FREE(set);
    if (n > 0) return n;
  }
  return 0;
}
#endif

int positive_env(const char* name) {
  const char* text = std::getenv(name);
  if (!text || !*text) return 0;
  char* end = nullptr;
  long value = std::strtol(text, &end, 10);
  // OMP_NUM_THREADS may be a list, one number per nesting level; the first counts.
  if (end == text || (*end != '\0' && *end != ',') || value < 1) return 0;
  return value > kMaxThreads ? kMaxThreads : static_cast<int>(value);
}

int default_threads() {
  if (int n = positive_env("CNNFAST_NUM_THREADS")) {
    g_reason = "CNNFAST_NUM_THREADS";
    return n;
  }
  if (int n = positive_env("OMP_NUM_THREADS")) {
    g_reason = "OMP_NUM_THREADS";
    return n;
  }
  int n = static_cast<int>(std::thread::hardware_concurrency());
  g_reason = "hardware threads";
#if defined(__linux__)
  if (int allowed = affinity_count()) {
    n = allowed;
    g_reason = "CPU affinity of the process";
  }
  int quota = cgroup_quota();
  if (quota > 0 && quota < n) {
    n = quota;
    g_reason = "cgroup CPU quota";
  }
#endif
  return n < 1 ? 1 : n > kMaxThreads ? kMaxThreads : n;
}

std::mutex g_mutex;  // guards g_threads, g_reason and the making of g_pool
std::atomic<int> g_threads{0};
std::atomic<Pool*> g_pool{nullptr};

#if defined(CNNFAST_HAVE_FORK)
void before_fork() { g_mutex.lock(); }
void after_fork_parent() { g_mutex.unlock(); }
void after_fork_child() {
  // Threads do not survive a fork: leave the old pool behind, the next job makes a new one.
  g_pool.store(nullptr, std::memory_order_relaxed);
  t_inside = false;
  g_mutex.unlock();
}
#endif

Pool* pool_with(int workers) {
  Pool* pool = g_pool.load(std::memory_order_acquire);
  if (pool && pool->size() >= workers) return pool;
  std::lock_guard<std::mutex> lock(g_mutex);
#if defined(CNNFAST_HAVE_FORK)
  static bool registered = false;
  if (!registered) {
    registered = true;
    pthread_atfork(before_fork, after_fork_parent, after_fork_child);
  }
#endif
  pool = g_pool.load(std::memory_order_acquire);
  // A larger pool replaces a smaller one, which stays asleep: pools are never destroyed.
  if (!pool || pool->size() < workers) {
    try {
      pool = new Pool(workers);
    } catch (...) {
      return nullptr;  // no thread to be had: the caller works alone
    }
    g_pool.store(pool, std::memory_order_release);
  }
  return pool;
}

}  // namespace

static int all_threads() {
  int n = g_threads.load(std::memory_order_relaxed);
  if (n) return n;
  std::lock_guard<std::mutex> lock(g_mutex);
  if (!g_threads.load(std::memory_order_relaxed)) g_threads.store(default_threads());
  return g_threads.load(std::memory_order_relaxed);
}

int num_threads() {
  const int n = all_threads();
  return t_limit && t_limit < n ? t_limit : n;
}

ThreadLimit::ThreadLimit(int threads) : before_(t_limit) { t_limit = threads; }
ThreadLimit::~ThreadLimit() { t_limit = before_; }

void set_num_threads(int n) {
  std::lock_guard<std::mutex> lock(g_mutex);
  g_threads.store(n < 1 ? 1 : n > kMaxThreads ? kMaxThreads : n);
  g_reason = "set_num_threads";
}

std::string thread_reason() {
  all_threads();
  std::lock_guard<std::mutex> lock(g_mutex);
  return g_reason;
}

void set_interrupt_hook(InterruptHook hook) { g_hook.store(hook); }

int64_t InterruptClock::milliseconds() {
#if defined(CLOCK_MONOTONIC_COARSE)
  timespec now;
  if (clock_gettime(CLOCK_MONOTONIC_COARSE, &now) == 0)
    return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1000000;
#endif
  using namespace std::chrono;
  return duration_cast<std::chrono::milliseconds>(steady_clock::now().time_since_epoch()).count();
}

bool InterruptClock::asked() {
  InterruptHook hook = g_hook.load(std::memory_order_relaxed);
  if (!hook) return false;
  const int64_t now = milliseconds();
  if (now - last_ < 20) return false;
  last_ = now;
  return hook();
}

void run_tasks(int64_t tasks, int threads, TaskFn fn, void* context) {
  if (tasks <= 0) return;
  if (tasks == 1) return fn(context, 0);
  int limit = threads < num_threads() ? threads : num_threads();
  if (limit > tasks) limit = static_cast<int>(tasks);
  Pool* pool = limit > 1 && !t_inside ? pool_with(all_threads() - 1) : nullptr;
  if (!pool || !pool->try_acquire()) {
    InterruptClock clock;
    for (int64_t task = 0; task < tasks; ++task) {
      fn(context, task);
      if (!t_inside && task + 1 < tasks && clock.asked()) throw Interrupted{};
    }
    return;
  }
  struct Release {
    Pool* pool;
    ~Release() { pool->release(); }
  } release{pool};
  pool->run(tasks, limit - 1, fn, context);
}

}  // namespace cnnfast
