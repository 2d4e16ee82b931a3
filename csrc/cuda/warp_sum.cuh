// Sums over the lanes of a warp.
#pragma once

#include <cstdint>

#include "launch.h"

namespace sparse_aasist {

// The sum of `value` over all 32 lanes, in every lane; one order for all.
template <class T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
  for (int32_t distance = 16; distance > 0; distance /= 2)
    value += __shfl_xor_sync(0xffffffffu, value, distance);
  return value;
}

}  // namespace sparse_aasist
