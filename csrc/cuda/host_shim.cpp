#include "cuda/host_shim.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "cuda/check.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace cnnfast::shim {

Thread* current_thread = nullptr;
Block* current_block = nullptr;

namespace {

constexpr int kMostThreads = 1024, kWarp = 32;
constexpr size_t kStaticLimit = 48 * 1024, kSharedLimit = 227 * 1024;
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStack = 256 * 1024;
#else
constexpr size_t kStack = 64 * 1024;
#endif

// --- switching stacks ------------------------------------------------------------------------------

#if defined(__x86_64__)
using Context = void*;
extern "C" void cnnfast_shim_switch(Context* from, Context to);
asm(R"(
.text
.type cnnfast_shim_switch,@function
.hidden cnnfast_shim_switch
.globl cnnfast_shim_switch
cnnfast_shim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cnnfast_shim_switch,.-cnnfast_shim_switch
)");
void prepare(Context* context, char* stack, size_t bytes, void (*entry)()) {
  auto* top = reinterpret_cast<void**>(stack + bytes);
  *--top = nullptr;  // the caller of entry, which never returns
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  *context = top;
}
void jump(Context* from, Context* to) { cnnfast_shim_switch(from, *to); }
#else
using Context = ucontext_t;
void prepare(Context* context, char* stack, size_t bytes, void (*entry)()) {
  getcontext(context);
  context->uc_stack.ss_sp = stack;
  context->uc_stack.ss_size = bytes;
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
}
void jump(Context* from, Context* to) { swapcontext(from, to); }
#endif

// Stacks of all threads of a block, each above a page that nothing may touch; made once.
char* stacks() {
  static char* const all = [] {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    void* p = mmap(nullptr, kStack * kMostThreads, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    auto* bytes = static_cast<char*>(p);
    for (int i = 0; i < kMostThreads; ++i) mprotect(bytes + kStack * i, page, PROT_NONE);
    return bytes;
  }();
  return all;
}

// --- the block that runs ---------------------------------------------------------------------------

enum class State { kReady, kBarrier, kCollective, kWaiting, kDone };

struct Copy {
  char* to;
  const char* from;
  int bytes;
  bool valid;
};

struct Fiber : Thread {
  Context context{};
  State state = State::kReady;
  Place place{};
  unsigned mask = 0;
  LaneArguments arguments{};
  int value = 0;  // for barrier_sum, then its result
  std::vector<Copy> open;
  std::vector<std::vector<Copy>> groups;
  void* fake_stack = nullptr;
};

struct Free {
  void operator()(void* p) const { std::free(p); }
};
using Memory = std::unique_ptr<unsigned char, Free>;
Memory shared_memory(size_t bytes) {
  void* p = nullptr;
  if (posix_memalign(&p, 1024, bytes ? bytes : 1) != 0) throw std::bad_alloc();
  return Memory(static_cast<unsigned char*>(p));
}
struct StaticShared {
  const void* key;
  size_t bytes;
  Memory memory;
};

enum class Order { kWarpGreedy, kReverse, kShuffled };
const char* const kOrders[] = {"warp-greedy", "reverse", "shuffled"};

struct Launch {
  const char* kernel;
  const std::function<void()>* body;
  std::vector<Fiber> fibers;
  Block block;
  std::vector<StaticShared> statics;
  std::vector<std::pair<const void*, std::function<void()>>> put_off;
  int alive = 0, at_barrier = 0;
  const Fiber* first_at_barrier = nullptr;
  Context scheduler{};
  std::string failure;
  // AddressSanitizer's: the stack of the scheduler.
  void* fake_stack = nullptr;
  const void* stack_bottom = nullptr;
  size_t stack_bytes = 0;
};

std::mutex launching;
Launch* running = nullptr;
Order order = Order::kWarpGreedy;
std::mt19937 random_order;

Fiber& self() { return *static_cast<Fiber*>(current_thread); }

// From a thread to the scheduler.
void leave([[maybe_unused]] bool for_good = false) {
  Fiber& me = self();
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(for_good ? nullptr : &me.fake_stack, running->stack_bottom,
                                 running->stack_bytes);
#endif
  jump(&me.context, &running->scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(me.fake_stack, nullptr, nullptr);
#endif
}

void release_barrier() {
  int sum = 0;
  for (const Fiber& f : running->fibers) sum += f.state == State::kBarrier ? f.value : 0;
  for (Fiber& f : running->fibers) {
    if (f.state != State::kBarrier) continue;
    f.value = sum;
    f.state = State::kReady;
  }
  running->at_barrier = 0;
}

void thread_main() noexcept {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &running->stack_bottom, &running->stack_bytes);
#endif
  (*running->body)();
  Fiber& me = self();
  if (!me.begun) fail("a kernel that does not begin with ptx::begin_kernel");
  me.state = State::kDone;
  --running->alive;
  if (running->at_barrier > 0 && running->at_barrier == running->alive) release_barrier();
  for (const Fiber& f : running->fibers)
    if (f.state == State::kCollective && f.warp == me.warp && (f.mask >> me.lane & 1))
      fail_at("a lane returned that others wait for", f.place);
  leave(true);
  std::abort();
}

// From the scheduler to a thread.
void resume(Fiber& fiber) {
  current_thread = &fiber;
#if defined(__SANITIZE_ADDRESS__)
  const auto index = static_cast<size_t>(&fiber - running->fibers.data());
  __sanitizer_start_switch_fiber(&running->fake_stack, stacks() + kStack * index, kStack);
#endif
  jump(&running->scheduler, &fiber.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(running->fake_stack, nullptr, nullptr);
#endif
  current_thread = nullptr;
}

std::string name_of(const Place& place) {
  std::string file = place.file;
  if (const size_t at = file.rfind("csrc/"); at != std::string::npos) file.erase(0, at);
  return std::string(place.what) + " at " + file + ":" + std::to_string(place.line);
}
std::string name_of(dim3 d) {
  return "(" + std::to_string(d.x) + "," + std::to_string(d.y) + "," + std::to_string(d.z) + ")";
}

void start_block(Launch& launch, dim3 id) {
  launch.block.id = id;
  const dim3 size = launch.block.block;
  launch.alive = static_cast<int>(launch.fibers.size());
  launch.at_barrier = 0;
  for (StaticShared& s : launch.statics) std::memset(s.memory.get(), 0xff, s.bytes);
  for (unsigned i = 0; i < launch.fibers.size(); ++i) {
    Fiber& f = launch.fibers[i];
    f.tid = dim3(i % size.x, i / size.x % size.y, i / size.x / size.y);
    f.lane = static_cast<int>(i % kWarp);
    f.warp = static_cast<int>(i / kWarp);
    f.state = State::kReady;
    f.begun = false;
    f.open.clear();
    f.groups.clear();
    char* stack = stacks() + kStack * i;
    const size_t guard = 4096, stagger = i * 320 % 4096;  // or all stacks would lie in the same cache sets
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(stack + guard, kStack - guard);
#endif
    prepare(&f.context, stack + guard, kStack - guard - stagger, thread_main);
  }
}

[[noreturn]] void report_deadlock(const Launch& launch) {
  std::string text = "threads wait for others that never come:";
  const char* join = " ";
  for (const State state : {State::kBarrier, State::kCollective, State::kWaiting}) {
    int count = 0;
    const Fiber* one = nullptr;
    for (const Fiber& f : launch.fibers)
      if (f.state == state) {
        ++count;
        if (!one) one = &f;
      }
    if (!one) continue;
    text += join + std::to_string(count) + " in " + name_of(one->place) + ", the first " + name_of(one->tid);
    join = "; ";
  }
  throw cuda::CudaError("cudaErrorLaunchFailure", text,
                        std::string("kernel ") + launch.kernel + ", block " + name_of(launch.block.id));
}

// One warp as far as it gets; whether it did anything.
bool run_warp(Launch& launch, unsigned warp) {
  const unsigned begin = warp * kWarp;
  const unsigned lanes = std::min<unsigned>(kWarp, static_cast<unsigned>(launch.fibers.size()) - begin);
  unsigned turn[kWarp];
  for (unsigned i = 0; i < lanes; ++i) turn[i] = order == Order::kReverse ? lanes - 1 - i : i;
  bool ran = false;
  for (bool again = true; again;) {
    again = false;
    if (order == Order::kShuffled) std::shuffle(turn, turn + lanes, random_order);
    for (unsigned i = 0; i < lanes; ++i) {
      Fiber& f = launch.fibers[begin + turn[i]];
      if (f.state != State::kReady) continue;
      ran = again = true;
      resume(f);
      if (!launch.failure.empty())
        throw cuda::CudaError("cudaErrorLaunchFailure", launch.failure,
                              std::string("kernel ") + launch.kernel + ", block " + name_of(launch.block.id) +
                                  ", thread " + name_of(f.tid));
    }
    if (order == Order::kShuffled && random_order() % 4 == 0) break;
  }
  return ran;
}

void run_block(Launch& launch, dim3 id, size_t shared_bytes) {
  const Memory dynamic = shared_memory(shared_bytes);
  std::memset(dynamic.get(), 0xff, shared_bytes ? shared_bytes : 1);
  launch.block.dynamic = dynamic.get();
  start_block(launch, id);
  const auto warps = static_cast<unsigned>((launch.fibers.size() + kWarp - 1) / kWarp);
  std::vector<unsigned> turn(warps);
  for (unsigned i = 0; i < warps; ++i) turn[i] = order == Order::kReverse ? warps - 1 - i : i;
  while (launch.alive) {
    if (order == Order::kShuffled) std::shuffle(turn.begin(), turn.end(), random_order);
    bool ran = false;
    for (const unsigned warp : turn) ran = run_warp(launch, warp) || ran;
    if (!ran && launch.alive) report_deadlock(launch);
  }
  if (!launch.put_off.empty())
    throw cuda::CudaError("cudaErrorLaunchFailure", "a block ended before what it had started",
                          std::string("kernel ") + launch.kernel + ", block " + name_of(id));
}

void run(const char* kernel, const std::function<void()>& body, dim3 grid, dim3 block, size_t shared_bytes) {
  const std::lock_guard<std::mutex> lock(launching);
  Launch launch;
  launch.kernel = kernel;
  launch.body = &body;
  launch.fibers.resize(static_cast<size_t>(block.x) * block.y * block.z);
  launch.block.grid = grid;
  launch.block.block = block;
  running = &launch;
  current_block = &launch.block;
  struct Done {
    ~Done() {
      running = nullptr;
      current_block = nullptr;
    }
  } done;
  const uint64_t blocks = static_cast<uint64_t>(grid.x) * grid.y * grid.z;
  std::vector<uint64_t> turn(blocks);
  for (uint64_t i = 0; i < blocks; ++i) turn[i] = order == Order::kReverse ? blocks - 1 - i : i;
  if (order == Order::kShuffled) std::shuffle(turn.begin(), turn.end(), random_order);
  for (const uint64_t i : turn)
    run_block(launch,
              dim3(static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
                   static_cast<unsigned>(i / grid.x / grid.y)),
              shared_bytes);
  check_red_zones(kernel);
}

}  // namespace

void fail(const char* text) {
  running->failure = text;
  leave(true);
  std::abort();
}
void fail_at(const char* text, const Place& place) {
  running->failure = std::string(text) + ": " + name_of(place);
  leave(true);
  std::abort();
}

int barrier_sum(int value, const Place& place) {
  Fiber& me = self();
  if (running->at_barrier == 0) running->first_at_barrier = &me;
  const Fiber& first = *running->first_at_barrier;
  if (&first != &me && (first.place.line != place.line || std::strcmp(first.place.file, place.file) != 0)) {
    const std::string text = "threads of a block came to different barriers: " + name_of(place) + ", and " +
                             name_of(first.place) + " in thread " + name_of(first.tid);
    fail(text.c_str());
  }
  me.place = place;
  me.value = value;
  me.state = State::kBarrier;
  if (++running->at_barrier == running->alive) release_barrier();
  leave();
  return me.value;
}
void barrier(const Place& place) { barrier_sum(0, place); }

void collective(unsigned mask, const void* in, void* out, Combine combine, const Place& place) {
  Fiber& me = self();
  me.place = place;
  if (!(mask >> me.lane & 1)) fail_at("the calling lane is not in its own mask", place);
  me.mask = mask;
  me.arguments = {in, out};
  me.state = State::kCollective;
  const size_t begin = static_cast<size_t>(me.warp) * kWarp;
  const size_t end = std::min(begin + kWarp, running->fibers.size());
  const LaneArguments* lanes[kWarp] = {};
  bool all = true;
  for (size_t i = begin; i < end; ++i) {
    const Fiber& f = running->fibers[i];
    if (!(mask >> f.lane & 1)) continue;
    if (f.state == State::kDone) fail_at("a lane of the mask has returned already", place);
    if (f.state != State::kCollective || f.mask != mask) {
      all = false;
      continue;
    }
    if (f.place.line != place.line || std::strcmp(f.place.what, place.what) != 0 ||
        std::strcmp(f.place.file, place.file) != 0) {
      const std::string text = "lanes of a warp came to different operations: " + name_of(place) + ", and " +
                               name_of(f.place) + " in thread " + name_of(f.tid);
      fail(text.c_str());
    }
    lanes[f.lane] = &f.arguments;
  }
  if (all) {
    combine(lanes);
    for (size_t i = begin; i < end; ++i) {
      Fiber& f = running->fibers[i];
      if (mask >> f.lane & 1) f.state = State::kReady;
    }
  }
  leave();
}

void put_off(const void* key, std::function<void()> work) {
  running->put_off.emplace_back(key, std::move(work));
  wake();
}
bool catch_up(const void* key, int most) {
  bool any = false;
  for (auto& all = running->put_off; most > 0; --most) {
    const auto first = std::find_if(all.begin(), all.end(), [key](const auto& w) { return w.first == key; });
    if (first == all.end()) break;
    const std::function<void()> work = std::move(first->second);
    all.erase(first);
    work();
    any = true;
  }
  return any;
}
void wait(const Place& place) {
  Fiber& me = self();
  me.place = place;
  me.state = State::kWaiting;
  leave();
}
void wake() {
  for (Fiber& f : running->fibers)
    if (f.state == State::kWaiting) f.state = State::kReady;
}

void* static_shared(const void* key, size_t bytes) {
  size_t total = bytes;
  for (const StaticShared& s : running->statics) {
    if (s.key == key) return s.memory.get();
    total += s.bytes;
  }
  if (total > kStaticLimit) fail("more than 48 KiB of static shared memory");
  running->statics.push_back({key, bytes, shared_memory(bytes)});
  std::memset(running->statics.back().memory.get(), 0xff, bytes);
  return running->statics.back().memory.get();
}

void copy_async(void* shared, const void* global, int bytes, bool valid) {
  const auto multiple = static_cast<uintptr_t>(bytes);
  if (reinterpret_cast<uintptr_t>(shared) % multiple || reinterpret_cast<uintptr_t>(global) % multiple)
    fail("cp.async: an address is not aligned to the size of the copy");
  std::memset(shared, 0xff, multiple);
#if defined(__SANITIZE_ADDRESS__)
  if (valid) {
    volatile const char* source = static_cast<const char*>(global);
    (void)source[0];
    (void)source[bytes - 1];
  }
#endif
  self().open.push_back({static_cast<char*>(shared), static_cast<const char*>(global), bytes, valid});
}
void copy_commit() {
  Fiber& me = self();
  me.groups.push_back(std::move(me.open));
  me.open.clear();
}
void copy_wait(int groups) {
  auto& waiting = self().groups;
  const size_t done = waiting.size() > static_cast<size_t>(groups) ? waiting.size() - groups : 0;
  for (size_t i = 0; i < done; ++i)
    for (const Copy& c : waiting[i]) {
      if (c.valid)
        std::memcpy(c.to, c.from, static_cast<size_t>(c.bytes));
      else
        std::memset(c.to, 0, static_cast<size_t>(c.bytes));
    }
  waiting.erase(waiting.begin(), waiting.begin() + static_cast<ptrdiff_t>(done));
}

void launch(const char* kernel, const char* file, int line, dim3 grid, dim3 block, size_t shared_bytes,
            cudaStream_t stream, std::function<void()> body) {
  const uint64_t threads = static_cast<uint64_t>(block.x) * block.y * block.z;
  if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535 ||
      threads < 1 || threads > kMostThreads || block.z > 64 || shared_bytes > kSharedLimit) {
    const std::string what = std::string(kernel) + " of grid " + name_of(grid) + ", block " + name_of(block) +
                             ", " + std::to_string(shared_bytes) + " bytes of shared memory";
    cuda::throw_error(cudaErrorInvalidConfiguration, what.c_str(), file, line);
  }
  submit(stream, [=, body = std::move(body)] { run(kernel, body, grid, block, shared_bytes); });
}

void set_schedule(const char* name, unsigned seed) {
  for (int i = 0; i < 3; ++i)
    if (std::string(name) == kOrders[i]) {
      order = static_cast<Order>(i);
      random_order.seed(seed);
      return;
    }
  throw std::invalid_argument(std::string("expected warp-greedy, reverse or shuffled, got ") + name);
}
const char* schedule() { return kOrders[static_cast<int>(order)]; }

}  // namespace cnnfast::shim
