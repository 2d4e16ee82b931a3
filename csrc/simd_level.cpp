// What the CPU has, and the level in use.
#include "simd_level.h"

#include <atomic>

namespace sparse_aasist {
namespace {

SimdLevel level_of_cpu() {
#ifdef __x86_64__
  // What the flags of the levels in build_backend/toolchain.py allow.
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
      !__builtin_cpu_supports("bmi") || !__builtin_cpu_supports("bmi2") ||
      !__builtin_cpu_supports("popcnt"))
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

}  // namespace

SimdLevel simd_level() {
  return current().load(std::memory_order_relaxed);
}

void limit_simd_level(SimdLevel most) {
  const SimdLevel highest = level_of_cpu();
  current().store(most < highest ? most : highest, std::memory_order_relaxed);
}

}  // namespace sparse_aasist
