// A linear layer of a few rows, by a block: a lane has an output, a warp a few
// rows; the weight passes through shared memory.
#pragma once

#include <cstdint>

#include "graph_attention_tile.cuh"

namespace sparse_aasist {

constexpr int32_t kProjectionOutputs = 32;  // at a time

// sums[i] += weight of output `output` + lane, times row
// first + warp + i * warps, of `count` rows and of `outputs`; what is summed
// for absent ones is of no use. `room` is for kProjectionOutputs rows of the
// weight. It may be in use, and the rows be written, until this is called,
// which begins with a barrier; afterwards it is until the block has met.
template <int32_t kThreads, int32_t kRows>
__device__ __forceinline__ void add_projection(const RowReader<float>& rows,
                                               int64_t first,
                                               int32_t count,
                                               const RowReader<float>& weight,
                                               int32_t outputs,
                                               int32_t output,
                                               float* room,
                                               float (&sums)[kRows]) {
  static_assert(kPack<float> == kQuad, "read together");
  const int32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int32_t depth = 0; depth < rows.width; depth += kDepth<float>) {
    __syncthreads();
    stage_weight<kThreads, kProjectionOutputs>(weight, outputs, output, depth,
                                               room);
    __syncthreads();
    const int32_t left = rows.width - depth;
    const int32_t most = left < kDepth<float> ? left : kDepth<float>;
    for (int32_t d = 0; d < most; d += kQuad) {
      const Pack<float> factor = load_pack(room + lane * kRow<float> + d);
#pragma unroll
      for (int32_t i = 0; i < kRows; ++i) {
        const int32_t r = warp + i * (kThreads / 32);
        if (r >= count)
          continue;
        const Quad<float> value = rows.quad(first + r, depth + d);
#pragma unroll
        for (int32_t e = 0; e < kQuad; ++e)
          sums[i] += value.of[e] * factor.of[e];
      }
    }
  }
}

}  // namespace sparse_aasist
