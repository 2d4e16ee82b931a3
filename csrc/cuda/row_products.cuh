// Products of rows and a weight, by a block: 16 rows times 32 outputs in
// registers. The tile is that of graph_attention_tile.cuh.
#pragma once

#include <cstdint>
#include <type_traits>

#include "graph_attention_tile.cuh"
#include "row_batches.cuh"
#include "row_passes.h"

namespace sparse_aasist {

using RowTile = Tile<float, 32, 1>;
constexpr int32_t kTileRows = RowTile::kPairs;
constexpr int32_t kTileOutputs = RowTile::kOutputs;

// Whether rows of `width`, `stride` entries apart, can be read by four entries.
SPARSE_AASIST_INLINE bool are_quads(const void* values,
                                    int64_t stride,
                                    int32_t width) {
  return reinterpret_cast<uintptr_t>(values) % sizeof(Quad<float>) == 0 &&
         stride % kQuad == 0 && width % kQuad == 0;
}

// Four values `step` entries apart, of which `left` are there, else 0. kWhole:
// all are or none, in one access.
template <bool kWhole>
__device__ __forceinline__ Quad<float> quad_from(const float* from,
                                                 int64_t step,
                                                 int32_t left) {
  Quad<float> quad{};
  if constexpr (kWhole) {
    if (left > 0)
      quad = *reinterpret_cast<const Quad<float>*>(from);
  } else {
#pragma unroll
    for (int32_t e = 0; e < kQuad; ++e)
      if (e < left)
        quad.of[e] = from[e * step];
  }
  return quad;
}

// A row of all clips.
struct RowPlace {
  int64_t clip;
  int32_t i;

  __device__ __forceinline__ int64_t entry(int64_t stride,
                                           int32_t width) const {
    return clip * stride + int64_t{i} * width;
  }

  __device__ __forceinline__ RowPlace plus(int32_t rows, int32_t count) const {
    const int32_t sum = i + rows;
    return {clip + sum / count, sum % count};
  }
};

__device__ __forceinline__ RowPlace row_place(int64_t row, int32_t count) {
  return {row / count, static_cast<int32_t>(row % count)};
}

// kCount rows of a tile on their way to shared memory, kDepth values of each:
// loaded all before they are stored, so that their latencies overlap.
template <int32_t kCount>
struct StagedRows {
  static constexpr int32_t kUnits = kCount * kPacks / kAttentionThreads;
  Quad<float> quads[kUnits];

  // load(row, index) gives four values. With `across`, neighbouring lanes have
  // neighbouring rows.
  template <class Load>
  __device__ __forceinline__ void fetch(bool across, const Load& load) {
#pragma unroll
    for (int32_t u = 0; u < kUnits; ++u)
      quads[u] = load(row_of(u, across), index_of(u, across));
  }

  __device__ __forceinline__ void store(bool across, float* to) const {
#pragma unroll
    for (int32_t u = 0; u < kUnits; ++u)
      store_row_quad(to + row_of(u, across) * kRow<float> + index_of(u, across),
                     quads[u]);
  }

 private:
  static __device__ __forceinline__ int32_t row_of(int32_t u, bool across) {
    const int32_t unit = threadIdx.x + u * kAttentionThreads;
    return across ? unit % kCount : unit / kPacks;
  }
  static __device__ __forceinline__ int32_t index_of(int32_t u, bool across) {
    const int32_t unit = threadIdx.x + u * kAttentionThreads;
    return (across ? unit / kCount : unit % kPacks) * kQuad;
  }
};

// A tile of a task: from this row and this output on.
struct RowTileOf {
  RowPlace first;
  int32_t rows;  // that are left
  int32_t output;
};

using StagedWeight = StagedRows<kTileOutputs>;

__device__ __forceinline__ void fetch_rows(const LinearRows& task,
                                           const ClipRows& rows,
                                           const RowTileOf& tile,
                                           int32_t depth,
                                           StagedRows<kTileRows>& to) {
  const auto fetch = [&](auto whole) {
    to.fetch(false, [&](int32_t row, int32_t index) {
      const RowPlace place = tile.first.plus(row, task.count);
      const float* from = at<float>(
          rows.values, place.entry(rows.stride, task.inputs) + depth + index);
      const int32_t left = task.inputs - depth - index;
      return quad_from<decltype(whole)::value>(from, 1,
                                               row < tile.rows ? left : 0);
    });
  };
  if (are_quads(rows.values, rows.stride, task.inputs))
    fetch(std::true_type{});
  else
    fetch(std::false_type{});
}

__device__ __forceinline__ void fetch_weight(const LinearRows& task,
                                             const void* weight,
                                             int32_t output,
                                             int32_t depth,
                                             StagedWeight& to) {
  const bool across = task.transposed;
  const int64_t row_step = across ? 1 : task.inputs;
  const int64_t step = across ? task.outputs : 1;
  const auto fetch = [&](auto whole) {
    to.fetch(across, [&](int32_t row, int32_t index) {
      const float* from =
          at<float>(weight, (output + row) * row_step + (depth + index) * step);
      const int32_t left = task.inputs - depth - index;
      return quad_from<decltype(whole)::value>(
          from, step, output + row < task.outputs ? left : 0);
    });
  };
  if (!across && are_quads(weight, 0, task.inputs))
    fetch(std::true_type{});
  else
    fetch(std::false_type{});
}

}  // namespace sparse_aasist
