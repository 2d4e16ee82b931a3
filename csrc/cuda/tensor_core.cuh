// Tensor cores multiply bfloat16 tiles: the instructions of sm_80 and later,
// one wrapper each. The shim has its own (tests/simt/simt_tensor_core.h).
//
// A warp holds a tile in fragments: lane 4 g + t holds pairs of neighbouring
// entries. PTX ISA, "Matrix fragments for mma.m16n8k16":
//
//   a (16 x 16)  [0] row g, columns 2t, 2t + 1   [1] row g + 8
//                [2], [3] the same rows, columns 2t + 8, 2t + 9
//   b (16 x 8)   [0] rows 2t, 2t + 1, column g   [1] rows 2t + 8, 2t + 9
//   c (16 x 8)   [0], [1] row g, columns 2t, 2t + 1   [2], [3] row g + 8
#pragma once

#include <cstdint>

#include "float_format.h"
#include "launch.h"

#ifdef __CUDACC__

namespace sparse_aasist {

// Four matrices of 8 rows of 16 bytes in shared memory: lane 8 i + r names row
// r of matrix i; it gets the 4 bytes at row g, 4 t of each.
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4],
                                              const void* row) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile(
      "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
      : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
      : "r"(address)
      : "memory");
}

// The same, of matrices of 16-bit entries transposed: rows 2t, 2t + 1 of
// column g.
__device__ __forceinline__ void load_transposed(uint32_t (&to)[4],
                                                const void* row) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile(
      "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
      : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
      : "r"(address)
      : "memory");
}

// c += a b, in float32.
__device__ __forceinline__ void multiply_add(float (&c)[4],
                                             const uint32_t (&a)[4],
                                             uint32_t b0,
                                             uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two values as bfloat16, rounded to nearest; `low` in the low bits.
__device__ __forceinline__ uint32_t pack_bfloat16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

// 2^x to some 2 units in the last place.
__device__ __forceinline__ float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace sparse_aasist

#else

#include "simt_tensor_core.h"

#endif
