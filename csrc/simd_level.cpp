// What the CPU has, and the level in use.
#include "simd_level.h"

#include <atomic>

#ifdef SPARSE_AASIST_HAS_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace sparse_aasist {
namespace {

// Intel's Software Developer's Manual, volume 1, chapter 18: what the CPU has,
// that the operating system keeps the tiles' registers, and its permission for
// this process (arch_prctl(2), ARCH_REQ_XCOMP_PERM). A compiler that does not
// know AMX has made plain loops of what is called so.
bool has_amx() {
#ifdef SPARSE_AASIST_HAS_AMX
  constexpr unsigned kBfloat16Tiles = 1u << 22, kTiles = 1u << 24;
  constexpr unsigned kBfloat16Vectors = 1u << 5, kSavesRegisters = 1u << 27;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || (c & kSavesRegisters) == 0)
    return false;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kBfloat16Tiles) == 0 ||
      (d & kTiles) == 0)
    return false;
  if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || (a & kBfloat16Vectors) == 0)
    return false;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

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
  return has_amx() ? SimdLevel::kAmx : SimdLevel::kAvx512;
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
