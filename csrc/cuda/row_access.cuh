// Rows of tensors as the kernels see them: four neighbours at a time where
// the addresses allow, and lanes that add up.
#pragma once

#include <cstdint>

#include "kept_rows.h"
#include "launch.h"

namespace sparse_aasist {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int32_t kQuad = 4;

template <class T>
struct alignas(kQuad * sizeof(T)) Quad {
  T of[kQuad];
};

// One access of 16 (8, 32) bytes if the address allows it and all four are
// inside the row, else one access per element; `fill` stands past the end.
template <class T>
__device__ __forceinline__ Quad<T> load_quad(const T* row,
                                             int32_t index,
                                             int32_t dim,
                                             T fill) {
  const T* from = row + index;
  if (index + kQuad <= dim &&
      reinterpret_cast<uintptr_t>(from) % sizeof(Quad<T>) == 0)
    return *reinterpret_cast<const Quad<T>*>(from);
  Quad<T> quad;
#pragma unroll
  for (int32_t e = 0; e < kQuad; ++e)
    quad.of[e] = index + e < dim ? from[e] : fill;
  return quad;
}

template <class T>
__device__ __forceinline__ void store_quad(T* row,
                                           int32_t index,
                                           int32_t dim,
                                           Quad<T> quad) {
  T* to = row + index;
  if (index + kQuad <= dim &&
      reinterpret_cast<uintptr_t>(to) % sizeof(Quad<T>) == 0) {
    *reinterpret_cast<Quad<T>*>(to) = quad;
    return;
  }
#pragma unroll
  for (int32_t e = 0; e < kQuad; ++e)
    if (index + e < dim)
      to[e] = quad.of[e];
}

// Sum of a small count over the lanes before this one, and over all of them.
struct LaneSum {
  int32_t before;
  int32_t total;
};

// `count` is 0 .. 7.
__device__ __forceinline__ LaneSum sum_over_lanes(int32_t count) {
  const unsigned before = (1u << (threadIdx.x % 32)) - 1u;
  LaneSum sum{0, 0};
#pragma unroll
  for (int32_t bit = 0; bit < 3; ++bit) {
    const unsigned lanes = __ballot_sync(kAllLanes, count >> bit & 1);
    sum.before += __popc(lanes & before) << bit;
    sum.total += __popc(lanes) << bit;
  }
  return sum;
}

// The lowest `count` set bits.
__device__ __forceinline__ unsigned first_bits(unsigned bits, int32_t count) {
  unsigned first = 0;
  for (; bits != 0 && count > 0; bits &= bits - 1, --count)
    first |= bits & (0u - bits);
  return first;
}

}  // namespace sparse_aasist
