// Selection with a warp per row, for rows of up to 2,048 entries: the keys
// stay in registers, and the warp bisects on them.
//
// A row is read once and written once. A step of the bisection is one
// comparison per register and one reduction over the warp; it ends when
// exactly k keys lie above the pivot, or when the key of the k-th is known.
// Lane l holds, for every group g, the entries 128 g + 4 l .. + 3.
#pragma once

#include "launch.h"
#include "row_access.cuh"
#include "topk_activation.h"

namespace sparse_aasist {

constexpr int32_t kWarpsPerBlock = 4;
constexpr int32_t kGroup = 32 * kQuad;

template <class Format>
__device__ __forceinline__ typename Format::Bits key_of(
    typename Format::Bits bits,
    RankBy by) {
  switch (by) {
    case RankBy::kAbs:
      return order_key<Format, RankBy::kAbs>(bits);
    case RankBy::kRelu:
      return order_key<Format, RankBy::kRelu>(bits);
    default:
      return order_key<Format, RankBy::kValue>(bits);
  }
}

// Writes the kept entry `index` of a row to place `position` of the compact
// form; returns what the dense form gets.
template <class Format>
__device__ __forceinline__ typename Format::Bits keep(
    const TopkActivationParams& params,
    int64_t row,
    int32_t index,
    int32_t position) {
  using Bits = typename Format::Bits;
  const Bits x = at<Bits>(params.x, row * params.x_stride)[index];
  const bool dead =
      params.by == RankBy::kRelu && order_key<Format, RankBy::kRelu>(x) == 0;
  const Bits value = dead ? Bits{0} : x;
  if (params.indices != nullptr) {
    const int64_t offset = row * params.k + position;
    at<Bits>(params.values, offset)[0] = value;
    params.indices[offset] = dead ? ~index : index;
  }
  return value;
}

// What is kept: keys above `pivot`, and the first `ties` keys equal to it.
struct WarpCut {
  int32_t pivot;
  int32_t ties;
};

// Stands past the end of the row, below `below_all` of every format.
constexpr int32_t kNothing = KeyRange<Float32>::kNothing;

__device__ __forceinline__ int32_t lower_of(int32_t a, int32_t b) {
  return a < b ? a : b;
}
__device__ __forceinline__ int32_t higher_of(int32_t a, int32_t b) {
  return a > b ? a : b;
}

// Bisects for the cut of the k highest keys, k < dim.
template <class Format, int kItems>
__device__ __forceinline__ WarpCut find_cut(const int32_t (&keys)[kItems],
                                            int32_t k) {
  // Of g disjoint groups with g >= k, each has a key that is at least the
  // lowest of the groups' highest keys. A lane has up to four groups.
  int32_t best[kQuad];
#pragma unroll
  for (int32_t e = 0; e < kQuad; ++e)
    best[e] = keys[e];
#pragma unroll
  for (int32_t i = kQuad; i < kItems; ++i)
    best[i % kQuad] = higher_of(best[i % kQuad], keys[i]);
  const int32_t pair0 = higher_of(best[0], best[1]);
  const int32_t pair1 = higher_of(best[2], best[3]);
  int32_t high = higher_of(pair0, pair1);
  int32_t low = high;
  if (k > 64)
    low = lower_of(lower_of(best[0], best[1]), lower_of(best[2], best[3]));
  else if (k > 32)
    low = lower_of(pair0, pair1);
  high = __reduce_max_sync(kAllLanes, high);
  low = __reduce_min_sync(kAllLanes, low);
  constexpr int32_t kBelowAll = KeyRange<Format>::kBelowAll;
  low = k <= 128 && low > kBelowAll ? low - 1 : kBelowAll;

  int32_t above_high = 0;
  for (int32_t step = 0; !are_neighbours(low, high); ++step) {
    const int32_t middle = middle_key<Format, int32_t>(low, high, step);
    int32_t above = 0;
#pragma unroll
    for (int32_t i = 0; i < kItems; ++i)
      above += keys[i] > middle;
    above = __reduce_add_sync(kAllLanes, above);
    if (above == k)
      return {middle, 0};
    if (above > k) {
      low = middle;
    } else {
      high = middle;
      above_high = above;
    }
  }
  return {high, k - above_high};
}

template <class Format, int kGroups>
__device__ __forceinline__ void select_row(const TopkActivationParams& params,
                                           int64_t row) {
  using Bits = typename Format::Bits;
  const int32_t lane = threadIdx.x % 32;
  const int32_t dim = params.dim;
  const Bits* x = at<Bits>(params.x, row * params.x_stride);
  int32_t keys[kGroups * kQuad];
#pragma unroll
  for (int32_t g = 0; g < kGroups; ++g) {
    const int32_t index = g * kGroup + lane * kQuad;
    const Quad<Bits> quad = load_quad<Bits>(x, index, dim, 0);
#pragma unroll
    for (int32_t e = 0; e < kQuad; ++e)
      keys[g * kQuad + e] =
          index + e < dim ? key_of<Format>(quad.of[e], params.by) : kNothing;
  }
  WarpCut cut{KeyRange<Format>::kBelowAll, 0};
  if (params.k < dim)
    cut = find_cut<Format>(keys, params.k);

  Bits* y = at<Bits>(params.y, row * dim);
  int32_t position = 0;
#pragma unroll
  for (int32_t g = 0; g < kGroups; ++g) {
    const int32_t index = g * kGroup + lane * kQuad;
    unsigned kept = 0, equal = 0;
#pragma unroll
    for (int32_t e = 0; e < kQuad; ++e) {
      kept |= static_cast<unsigned>(keys[g * kQuad + e] > cut.pivot) << e;
      equal |= static_cast<unsigned>(keys[g * kQuad + e] == cut.pivot) << e;
    }
    if (cut.ties > 0) {
      const LaneSum sum = sum_over_lanes(__popc(equal));
      kept |= first_bits(equal, cut.ties - sum.before);
      cut.ties -= sum.total;
    }
    int32_t place = 0;
    if (params.indices != nullptr) {
      const LaneSum sum = sum_over_lanes(__popc(kept));
      place = position + sum.before;
      position += sum.total;
    }
    Quad<Bits> quad{};
#pragma unroll
    for (int32_t e = 0; e < kQuad; ++e)
      if (kept >> e & 1u)
        quad.of[e] = keep<Format>(params, row, index + e, place++);
    if (y != nullptr)
      store_quad<Bits>(y, index, dim, quad);
  }
}

// `finish(row, warp, warps)` runs behind each row, whose compact form is then
// visible to the warps that work on it: here one.
template <class Format, int kGroups, class Finish>
__global__ void __launch_bounds__(32 * kWarpsPerBlock, 4)
    topk_warp_kernel(TopkActivationParams params, Finish finish) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarpsPerBlock;
  int64_t row = static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock +
                static_cast<int32_t>(threadIdx.x) / 32;
  for (; row < params.rows; row += step) {
    select_row<Format, kGroups>(params, row);
    __syncwarp();
    finish(row, 0, 1);
  }
}

}  // namespace sparse_aasist
