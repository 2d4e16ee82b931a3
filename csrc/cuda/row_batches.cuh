// Values of float32 tensors, and many of them on their way at a time.
#pragma once

#include <cstdint>

#include "kept_rows.h"
#include "launch.h"

namespace sparse_aasist {

__device__ __forceinline__ float value_at(const void* array, int64_t i) {
  return *at<float>(array, i);
}

// Calls use(r, load(r)) for every `step`-th r of [first, count). kBatch of them
// are loaded before the first is used, so that their latencies overlap.
template <int32_t kBatch, class Index, class Load, class Use>
__device__ __forceinline__ void in_batches(Index first,
                                           Index count,
                                           Index step,
                                           const Load& load,
                                           const Use& use) {
  for (Index begin = first; begin < count; begin += kBatch * step) {
    decltype(load(begin)) values[kBatch] = {};
#pragma unroll
    for (int32_t u = 0; u < kBatch; ++u)
      if (begin + u * step < count)
        values[u] = load(begin + u * step);
#pragma unroll
    for (int32_t u = 0; u < kBatch; ++u)
      if (begin + u * step < count)
        use(begin + u * step, values[u]);
  }
}

}  // namespace sparse_aasist
