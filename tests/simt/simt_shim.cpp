// The scheduler of the SIMT shim: fibers, and what they wait for.
#include "simt_shim.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

// Saves the callee-saved registers and the stack pointer at *save, and goes on
// where the stack `load` was left. A system call as in swapcontext() would
// make every switch thirty times slower.
extern "C" void simt_switch(void** save, void* load);
asm(R"(
.text
.type simt_switch,@function
simt_switch:
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
.size simt_switch,.-simt_switch
)");

namespace sparse_aasist::simt {

Index block_index, thread_index, grid_size, block_size;

namespace {

constexpr unsigned kMaxThreads = 1024;
constexpr unsigned kWarp = 32;
constexpr size_t kStackBytes = 256 << 10;
constexpr size_t kMaxStaticShared = 48 << 10;
constexpr int kPoison = 0xff;  // NaN in every float format

struct Fiber {
  char* stack = nullptr;
  void* stack_pointer = nullptr;
  bool done = true;
  Collective waits = Collective::kNone;
  unsigned mask = 0;
  uint64_t value = 0;  // given, then received
  int source = 0;
};

struct Shared {
  void* data;
  size_t bytes;
};

Fiber fibers[kMaxThreads];
std::map<const void*, size_t> dynamic_limits;  // of kernels that raised it
Fiber* running = nullptr;
void* scheduler_stack_pointer = nullptr;
int64_t launches = 0;
const std::function<void()>* kernel_body = nullptr;
Schedule schedule = Schedule::kAscending;
std::vector<Shared> static_shared;
char* dynamic_shared_memory = nullptr;
size_t dynamic_shared_bytes = 0;

[[noreturn]] void fail(const char* what, unsigned thread) {
  std::fprintf(stderr, "simt: block %u: %s (thread %u)\n", block_index.x, what,
               thread);
  for (unsigned t = 0; t < block_size.x; ++t)
    if (!fibers[t].done)
      std::fprintf(stderr, "  thread %u waits for collective %d, mask %08x\n",
                   t, static_cast<int>(fibers[t].waits), fibers[t].mask);
  std::fflush(nullptr);
  std::_Exit(70);
}

#ifdef __SANITIZE_ADDRESS__
const void* scheduler_stack = nullptr;
size_t scheduler_stack_bytes = 0;

void switch_to(void** save, void* load, const void* stack, size_t bytes) {
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, stack, bytes);
  simt_switch(save, load);
  const void* from = nullptr;
  size_t from_bytes = 0;
  __sanitizer_finish_switch_fiber(fake_stack, &from, &from_bytes);
  if (running != nullptr) {  // now in a fiber: came from the scheduler
    scheduler_stack = from;
    scheduler_stack_bytes = from_bytes;
  }
}

void arrive_first_time() {
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack,
                                  &scheduler_stack_bytes);
}
#else
const void* scheduler_stack = nullptr;
size_t scheduler_stack_bytes = 0;

void switch_to(void** save, void* load, const void*, size_t) {
  simt_switch(save, load);
}

void arrive_first_time() {}
#endif

void leave_fiber() {
  Fiber& fiber = *running;
  running = nullptr;
  switch_to(&fiber.stack_pointer, scheduler_stack_pointer, scheduler_stack,
            scheduler_stack_bytes);
}

void resume(unsigned thread) {
  Fiber& fiber = fibers[thread];
  thread_index.x = thread;
  running = &fiber;
  switch_to(&scheduler_stack_pointer, fiber.stack_pointer, fiber.stack,
            kStackBytes);
}

// A fiber runs one kernel thread after another and never returns.
void fiber_main() {
  arrive_first_time();
  for (;;) {
    (*kernel_body)();
    running->done = true;
    leave_fiber();
  }
}

void prepare(Fiber& fiber) {
  fiber.done = false;
  fiber.waits = Collective::kNone;
  if (fiber.stack != nullptr)
    return;  // waits in fiber_main for the next kernel thread
  void* memory = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED)
    fail("no memory for its stack", 0);
  mprotect(memory, 4096, PROT_NONE);
  fiber.stack = static_cast<char*>(memory);
  // Six registers, the address to return to, and an empty slot that gives
  // fiber_main the alignment of a called function.
  void** top = reinterpret_cast<void**>(fiber.stack + kStackBytes) - 8;
  std::fill(top, top + 8, nullptr);
  top[6] = reinterpret_cast<void*>(&fiber_main);
  fiber.stack_pointer = top;
}

bool waits_for_block(const Fiber& fiber) {
  return fiber.waits == Collective::kSyncThreads ||
         fiber.waits == Collective::kSyncThreadsCount;
}

uint64_t shuffled(const std::vector<unsigned>& threads,
                  const Fiber& fiber,
                  unsigned first) {
  const unsigned source = first + static_cast<unsigned>(fiber.source);
  if (std::find(threads.begin(), threads.end(), source) == threads.end())
    fail("a shuffle reads a lane outside its mask", source);
  return fibers[source].value;
}

// The result of votes, sums and extremes, the same for all.
uint32_t combined(Collective collective,
                  const std::vector<unsigned>& threads,
                  unsigned first) {
  uint32_t total = 0;
  for (unsigned t : threads) {
    const uint32_t value = static_cast<uint32_t>(fibers[t].value);
    const bool less = static_cast<int32_t>(value) < static_cast<int32_t>(total);
    if (collective == Collective::kBallot)
      total |= value << (t - first);
    else if (collective != Collective::kMin && collective != Collective::kMax)
      total += value;
    else if (t == threads[0] || less == (collective == Collective::kMin))
      total = value;
  }
  return total;
}

void release(const std::vector<unsigned>& threads, unsigned first) {
  const Collective collective = fibers[threads[0]].waits;
  if (collective == Collective::kShuffle) {
    std::vector<uint64_t> results;
    for (unsigned t : threads)
      results.push_back(shuffled(threads, fibers[t], first));
    for (size_t i = 0; i < threads.size(); ++i)
      fibers[threads[i]].value = results[i];
  } else {
    const uint32_t result = combined(collective, threads, first);
    for (unsigned t : threads)
      fibers[t].value = result;
  }
  for (unsigned t : threads)
    fibers[t].waits = Collective::kNone;
}

// Lets the lanes of one warp go on that have all arrived; tells whether any.
bool release_warp(unsigned first, unsigned end) {
  for (unsigned t = first; t < end; ++t) {
    if (fibers[t].done || fibers[t].waits == Collective::kNone ||
        waits_for_block(fibers[t]))
      continue;
    std::vector<unsigned> threads;
    for (unsigned other = first; other < first + kWarp; ++other) {
      if ((fibers[t].mask >> (other - first) & 1u) == 0)
        continue;
      if (other >= end || fibers[other].done)
        fail("a mask names a lane that has exited", t);
      if (fibers[other].waits != fibers[t].waits ||
          fibers[other].mask != fibers[t].mask)
        fail("lanes of a warp wait for different collectives", t);
      threads.push_back(other);
    }
    if (std::find(threads.begin(), threads.end(), t) == threads.end())
      fail("a mask does not name the lane that uses it", t);
    release(threads, first);
    return true;
  }
  return false;
}

std::vector<unsigned> order(unsigned count, unsigned salt) {
  std::vector<unsigned> ids(count);
  std::iota(ids.begin(), ids.end(), 0u);
  if (schedule == Schedule::kDescending)
    std::reverse(ids.begin(), ids.end());
  if (schedule == Schedule::kShuffled)
    std::shuffle(ids.begin(), ids.end(), std::mt19937(salt));
  return ids;
}

// Runs a warp until all of its threads have exited or wait for the block.
// Going as far as possible with one warp shows missing barriers best.
void run_warp(unsigned first, unsigned end) {
  unsigned salt = first;
  do {
    for (unsigned lane : order(end - first, ++salt)) {
      Fiber& fiber = fibers[first + lane];
      if (!fiber.done && fiber.waits == Collective::kNone)
        resume(first + lane);
    }
  } while (release_warp(first, end));
}

void run_block(unsigned threads) {
  for (const Shared& shared : static_shared)
    std::memset(shared.data, kPoison, shared.bytes);
  if (dynamic_shared_bytes > 0)
    std::memset(dynamic_shared_memory, kPoison, dynamic_shared_bytes);
  for (unsigned t = 0; t < threads; ++t)
    prepare(fibers[t]);
  const unsigned warps = (threads + kWarp - 1) / kWarp;
  for (unsigned salt = block_index.x;; ++salt) {
    for (unsigned warp : order(warps, salt))
      run_warp(warp * kWarp, std::min(threads, (warp + 1) * kWarp));
    std::vector<unsigned> waiting;
    for (unsigned t = 0; t < threads; ++t)
      if (!fibers[t].done)
        waiting.push_back(t);
    if (waiting.empty())
      return;
    for (unsigned t : waiting)
      if (fibers[t].waits != fibers[waiting[0]].waits)
        fail("threads of a block wait for different barriers", t);
    release(waiting, 0);
  }
}

}  // namespace

void set_schedule(Schedule wanted) {
  schedule = wanted;
}

int64_t launch_count() {
  return launches;
}

const char* run_grid(unsigned grid,
                     unsigned block,
                     size_t shared_bytes,
                     const std::function<void()>& body) {
  if (grid == 0 || block == 0 || block > kMaxThreads)
    return "invalid configuration argument";
  ++launches;
  // Of the exact size, so that the address sanitizer sees what lies behind.
  const std::unique_ptr<char[]> dynamic(new char[shared_bytes]);
  dynamic_shared_memory = dynamic.get();
  dynamic_shared_bytes = shared_bytes;
  kernel_body = &body;
  grid_size.x = grid;
  block_size.x = block;
  for (block_index.x = 0; block_index.x < grid; ++block_index.x)
    run_block(block);
  return nullptr;
}

size_t dynamic_limit(const void* kernel) {
  const auto found = dynamic_limits.find(kernel);
  return found == dynamic_limits.end() ? kMaxStaticShared : found->second;
}

const char* raise_dynamic_limit(const void* kernel, size_t bytes) {
  if (bytes > kMostDynamicShared)
    return "invalid argument";
  dynamic_limits[kernel] = std::max(bytes, kMaxStaticShared);
  return nullptr;
}

uint64_t wait_for(Collective collective,
                  unsigned mask,
                  uint64_t value,
                  int source) {
  Fiber& fiber = *running;
  fiber.waits = collective;
  fiber.mask = mask;
  fiber.value = value;
  fiber.source = source;
  leave_fiber();
  return fiber.value;
}

void* dynamic_shared() {
  return dynamic_shared_memory;
}

SharedArray::SharedArray(void* data, size_t bytes) {
  if (bytes > kMaxStaticShared)
    fail("static shared memory exceeds 48 KB", thread_index.x);
  std::memset(data, kPoison, bytes);
  static_shared.push_back({data, bytes});
}

}  // namespace sparse_aasist::simt
