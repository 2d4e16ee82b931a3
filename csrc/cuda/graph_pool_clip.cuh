// How a block pools the nodes of a clip: a warp scores a node, a thread counts
// how many keys come before that of its node, and warps write what is kept.
#pragma once

#include <cmath>

#include "graph_pool.h"
#include "kept_rows.h"
#include "launch.h"
#include "order_key.h"
#include "warp_sum.cuh"

namespace sparse_aasist {

constexpr int32_t kPoolThreads = 256;
constexpr int32_t kPoolWarps = kPoolThreads / 32;

template <class Format>
__device__ __forceinline__ double rounded(double score) {
  return Format::to_double(Format::from_double(score));
}

// Of shared memory for `count` values: an even number, because nvcc has them
// read two at a time, the last one with what lies behind it.
inline size_t paired_bytes(int32_t count) {
  return (static_cast<size_t>(count) + 1) / 2 * 2 * sizeof(double);
}

// `all_scores` is for those of all nodes, in shared memory. The block has to
// meet before it is used again.
template <class Format>
__device__ __forceinline__ void pool_clip(const GraphPoolParams& params,
                                          int64_t clip,
                                          double* all_scores) {
  using Bits = typename Format::Bits;
  const int32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int32_t nodes = params.nodes, kept = params.kept;
  const int64_t dim = params.dim;
  const Bits* weight = static_cast<const Bits*>(params.weight);
  const double bias = Format::to_double(*static_cast<const Bits*>(params.bias));
  for (int32_t i = warp; i < nodes; i += kPoolWarps) {
    const Bits* h = at<Bits>(params.h, clip * params.h_stride + i * dim);
    const Bits* scale = at<Bits>(params.scale, (clip * nodes + i) * dim);
    double sum = 0;
    for (int32_t d = lane; d < dim; d += 32) {
      const double factor =
          scale == nullptr ? 1.0 : Format::to_double(scale[d]);
      sum += Format::to_double(h[d]) * factor * Format::to_double(weight[d]);
    }
    sum = warp_sum(sum);
    if (lane == 0)
      all_scores[i] = 1 / (1 + exp(-sum - bias));
  }
  __syncthreads();
  int32_t* indices = params.indices + clip * kept;
  for (int32_t i = threadIdx.x; i < nodes; i += kPoolThreads) {
    const auto key_of = [&](int32_t j) {
      return order_key<Format, RankBy::kValue, Bits>(
          Format::from_double(all_scores[j]));
    };
    const Bits key = key_of(i);
    int32_t rank = 0;
    for (int32_t j = 0; j < nodes; ++j) {
      const Bits other = key_of(j);
      rank += other > key || (other == key && j < i);
    }
    if (rank < kept) {
      indices[rank] = i;
      params.scores[clip * kept + rank] = all_scores[i];
    }
  }
  __syncthreads();
  for (int32_t r = warp; r < kept; r += kPoolWarps) {
    const int32_t i = indices[r];
    const Bits* h = at<Bits>(params.h, clip * params.h_stride + i * dim);
    Bits* out = at<Bits>(params.out, (clip * kept + r) * dim);
    const double score = rounded<Format>(all_scores[i]);
    for (int32_t d = lane; d < dim; d += 32)
      out[d] = Format::from_double(Format::to_double(h[d]) * score);
  }
}

}  // namespace sparse_aasist
