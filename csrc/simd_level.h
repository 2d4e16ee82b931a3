// Which instruction set the CPU kernels use, chosen when the program runs.
// Every csrc/cpu/*_cpu.cpp is compiled once per level but the last, in a
// namespace of that name (SPARSE_AASIST_SIMD); machines other than x86-64 have
// the portable one. Every csrc/tiles/*_cpu.cpp is compiled for AMX, and as
// plain loops that compute the same, for the tests of other machines.
#pragma once

namespace sparse_aasist {

// AMX multiplies tiles of bfloat16; all else is AVX-512 there.
enum class SimdLevel : int { kPortable, kAvx2, kAvx512, kAmx };

// The highest level that this CPU has, unless a lower one was asked for.
SimdLevel simd_level();

// Asks for `most` or less.
void limit_simd_level(SimdLevel most);

}  // namespace sparse_aasist

#ifdef __x86_64__
#define SPARSE_AASIST_FOR_EACH_SIMD_LEVEL(...) \
  namespace portable {                         \
  __VA_ARGS__                                  \
  }                                            \
  namespace avx2 {                             \
  __VA_ARGS__                                  \
  }                                            \
  namespace avx512 {                           \
  __VA_ARGS__                                  \
  }
// The function of that name at the level in use.
#define SPARSE_AASIST_AT_SIMD_LEVEL(function)                             \
  (::sparse_aasist::simd_level() >= SimdLevel::kAvx512 ? avx512::function \
   : ::sparse_aasist::simd_level() == SimdLevel::kAvx2 ? avx2::function   \
                                                       : portable::function)
#define SPARSE_AASIST_FOR_EACH_TILE_LEVEL(...) \
  namespace portable {                         \
  __VA_ARGS__                                  \
  }                                            \
  namespace amx {                              \
  __VA_ARGS__                                  \
  }
#define SPARSE_AASIST_AT_TILE_LEVEL(function)                       \
  (::sparse_aasist::simd_level() == SimdLevel::kAmx ? amx::function \
                                                    : portable::function)
#else
#define SPARSE_AASIST_FOR_EACH_SIMD_LEVEL(...) \
  namespace portable {                         \
  __VA_ARGS__                                  \
  }
#define SPARSE_AASIST_AT_SIMD_LEVEL(function) portable::function
#define SPARSE_AASIST_FOR_EACH_TILE_LEVEL SPARSE_AASIST_FOR_EACH_SIMD_LEVEL
#define SPARSE_AASIST_AT_TILE_LEVEL SPARSE_AASIST_AT_SIMD_LEVEL
#endif
