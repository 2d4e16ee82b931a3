// Tasks on threads, each thread with scratch of its own.
#pragma once

#include <cstdint>
#include <memory>

#include <torch/csrc/stable/ops.h>

namespace sparse_aasist {

// Calls run(begin, end, scratch) for parts of [0, count), `grain` tasks or more
// each; scratch is `bytes` from a multiple of 64 on.
template <class Run>
void run_with_scratch(int64_t count,
                      int64_t grain,
                      int64_t bytes,
                      const Run& run) {
  constexpr int64_t kAlignment = 64;
  torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<char[]> room(new char[bytes + kAlignment]);
    const auto address = reinterpret_cast<uintptr_t>(room.get());
    void* const scratch =
        room.get() + (kAlignment - address % kAlignment) % kAlignment;
    run(begin, end, scratch);
  });
}

// The threads of torch, for GraphPassesCpu.
struct TorchThreads {
  template <class Run>
  void operator()(int64_t count,
                  int64_t grain,
                  int64_t bytes,
                  const Run& run) const {
    run_with_scratch(count, grain, bytes, run);
  }
};

}  // namespace sparse_aasist
