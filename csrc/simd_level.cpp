// The level in use, and the op by which Python reads and limits it.
#include "simd_level.h"

#include <atomic>
#include <cstdint>

#include <torch/csrc/stable/library.h>

namespace sparse_aasist {
namespace {

SimdLevel level_of_cpu() {
#ifdef __x86_64__
  // What the flags of the levels in build_backend/toolchain.py allow.
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("bmi2") ||
      !__builtin_cpu_supports("fma"))
    return SimdLevel::kPortable;
  if (!__builtin_cpu_supports("avx512f") ||
      !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") ||
      !__builtin_cpu_supports("avx512vl"))
    return SimdLevel::kAvx2;
  return SimdLevel::kAvx512;
#else
  return SimdLevel::kPortable;
#endif
}

std::atomic<SimdLevel>& current() {
  static std::atomic<SimdLevel> level{level_of_cpu()};
  return level;
}

// Number of the level in use; asks for `most` first unless that is negative.
int64_t simd_level_op(int64_t most) {
  if (most >= 0)
    limit_simd_level(static_cast<SimdLevel>(most));
  return static_cast<int64_t>(simd_level());
}

STABLE_TORCH_LIBRARY_FRAGMENT(sparse_aasist, m) {
  m.def("simd_level(int most) -> int");
}

STABLE_TORCH_LIBRARY_IMPL(sparse_aasist, CompositeExplicitAutograd, m) {
  m.impl("simd_level", TORCH_BOX(&simd_level_op));
}

}  // namespace

SimdLevel simd_level() {
  return current().load(std::memory_order_relaxed);
}

void limit_simd_level(SimdLevel most) {
  const SimdLevel highest = level_of_cpu();
  current().store(most < highest ? most : highest, std::memory_order_relaxed);
}

}  // namespace sparse_aasist
