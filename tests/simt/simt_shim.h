// A stand-in for CUDA that runs kernels on a CPU, so that the device source is
// tested where there is no GPU: one fiber per CUDA thread, all on one thread
// of the operating system, block after block.
//
// Understood: threadIdx.x and its like, shared memory (filled with NaN bits
// before every block), __syncthreads and its count, warp shuffles, votes,
// reductions and __syncwarp, atomics. A kernel that would hang, or that calls
// a collective differently in different threads, ends the program with a
// message; so do, with the sanitizers, accesses out of bounds.
// Not understood: inline PTX, two-dimensional grids, waiting between blocks.
// Threads run one at a time until they wait, so a missing barrier shows as a
// wrong result in one of the schedules (set_schedule), not as a race.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

namespace sparse_aasist {

// Few, so that kernels which walk over their rows with all blocks do walk.
constexpr int64_t kMaxBlocks = 3;

// What one block of an sm_80 may have of shared memory. The limit of a kernel
// is then this one.
constexpr size_t kMostDynamicShared = 163 << 10;

}  // namespace sparse_aasist

namespace sparse_aasist::simt {

struct Index {
  unsigned x = 0;
};

extern Index block_index, thread_index, grid_size, block_size;

enum class Schedule { kAscending, kDescending, kShuffled };

// In which order warps, and the lanes of a warp, run.
void set_schedule(Schedule schedule);

// Of kernels, since the program began.
int64_t launch_count();

// Runs `body` in every thread of every block; nullptr, or CUDA's complaint.
const char* run_grid(unsigned grid,
                     unsigned block,
                     size_t shared_bytes,
                     const std::function<void()>& body);

// How much dynamic shared memory launches of a kernel may ask for.
size_t dynamic_limit(const void* kernel);
const char* raise_dynamic_limit(const void* kernel, size_t bytes);

// What threads wait for together.
enum class Collective {
  kNone,
  kSyncWarp,
  kBallot,
  kShuffle,
  kAdd,
  kMin,
  kMax,
  kSyncThreads,
  kSyncThreadsCount,
};

// Waits for the lanes of `mask` (for kSyncThreads*: for the block); returns
// this thread's result. `source` is the lane that a shuffle reads.
uint64_t wait_for(Collective collective,
                  unsigned mask,
                  uint64_t value,
                  int source = 0);

void* dynamic_shared();

// Static shared memory: known to the shim, which fills it before every block.
struct SharedArray {
  SharedArray(void* data, size_t bytes);
};

template <class Kernel, class... Args>
const char* launch(Kernel kernel,
                   unsigned grid,
                   unsigned block,
                   size_t shared_bytes,
                   Args... args) {
  if (shared_bytes > dynamic_limit(reinterpret_cast<const void*>(kernel)))
    return "invalid configuration argument";
  return run_grid(grid, block, shared_bytes, [&] { kernel(args...); });
}

template <class T>
T shuffle(unsigned mask, T value, int source) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = wait_for(Collective::kShuffle, mask, bits, source);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

inline int lane() {
  return static_cast<int>(thread_index.x % 32);
}

inline int reduce(Collective collective, unsigned mask, int value) {
  return static_cast<int>(static_cast<uint32_t>(
      wait_for(collective, mask, static_cast<uint32_t>(value))));
}

}  // namespace sparse_aasist::simt

namespace sparse_aasist {

template <class Kernel>
const char* allow_dynamic_shared(Kernel* kernel, size_t bytes) {
  return simt::raise_dynamic_limit(reinterpret_cast<const void*>(kernel),
                                   bytes);
}

}  // namespace sparse_aasist

#define blockIdx (::sparse_aasist::simt::block_index)
#define threadIdx (::sparse_aasist::simt::thread_index)
#define gridDim (::sparse_aasist::simt::grid_size)
#define blockDim (::sparse_aasist::simt::block_size)

#define SPARSE_AASIST_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  ((void)(stream), ::sparse_aasist::simt::launch(kernel, grid, block,        \
                                                 shared_bytes, __VA_ARGS__))

#define SPARSE_AASIST_SHARED(type, name, count)                     \
  static type name[count];                                          \
  static const ::sparse_aasist::simt::SharedArray name##_is_shared( \
      name, sizeof(name))

#define SPARSE_AASIST_DYNAMIC_SHARED(type, name) \
  type* const name = static_cast<type*>(::sparse_aasist::simt::dynamic_shared())

inline void __syncthreads() {
  using namespace sparse_aasist::simt;
  wait_for(Collective::kSyncThreads, 0, 0);
}

inline int __syncthreads_count(int predicate) {
  using namespace sparse_aasist::simt;
  return static_cast<int>(
      wait_for(Collective::kSyncThreadsCount, 0, predicate != 0));
}

inline void __syncwarp(unsigned mask = 0xffffffffu) {
  using namespace sparse_aasist::simt;
  wait_for(Collective::kSyncWarp, mask, 0);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  using namespace sparse_aasist::simt;
  return static_cast<unsigned>(
      wait_for(Collective::kBallot, mask, predicate != 0));
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes) {
  using namespace sparse_aasist::simt;
  return shuffle(mask, value, lane() ^ lanes);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance) {
  using namespace sparse_aasist::simt;
  const int source = lane() - static_cast<int>(distance);
  return shuffle(mask, value, source < 0 ? lane() : source);
}

inline int __reduce_add_sync(unsigned mask, int value) {
  using namespace sparse_aasist::simt;
  return reduce(Collective::kAdd, mask, value);
}

inline int __reduce_min_sync(unsigned mask, int value) {
  using namespace sparse_aasist::simt;
  return reduce(Collective::kMin, mask, value);
}

inline int __reduce_max_sync(unsigned mask, int value) {
  using namespace sparse_aasist::simt;
  return reduce(Collective::kMax, mask, value);
}

template <class T>
T atomicAdd(T* address, T value) {
  return std::exchange(*address, static_cast<T>(*address + value));
}

template <class T>
T atomicOr(T* address, T value) {
  return std::exchange(*address, static_cast<T>(*address | value));
}

inline int __popc(unsigned bits) {
  return __builtin_popcount(bits);
}

inline int __ffs(int bits) {
  return __builtin_ffs(bits);
}
