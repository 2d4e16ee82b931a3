// How a block scores the rows of a group with all nodes of their clip, takes
// the softmax, and sums up the nodes. The pairs of a group are numbered with
// the rows fastest, so that a node that is read serves all rows; the block's
// warps do not wait for each other while the weights stay in shared memory.
#pragma once

#include <cmath>
#include <cstdint>

#include "graph_attention_tile.cuh"
#include "warp_sum.cuh"

namespace sparse_aasist {

// Rows of a group: where they are, and how they score.
template <class T>
struct Readers {
  RowGroup group;
  RowReader<T> rows;
  int64_t first;  // row of the group in them
  GraphScore score;
  int32_t types;
};

template <class T>
__device__ __forceinline__ Readers<T> readers_of(
    const GraphAttentionParams& params,
    const RowGroup& group) {
  if (group.master)
    return {group,
            {params.master, params.format, params.dim, params.master_stride},
            group.clip,
            params.master_score,
            1};
  return {group, node_rows<T>(params, params.x),
          group.clip * params.nodes + group.first, params.pairs, params.types};
}

// What the outputs from `output` on give to the scores of the warp's pairs.
template <class Tile, class T = typename Tile::Real>
__device__ __forceinline__ void add_scores(
    const GraphAttentionParams& params,
    const Readers<T>& readers,
    int32_t shift,
    int32_t begin,
    int32_t output,
    const T* layer,
    const T (&sums)[Tile::kRows][Tile::kColumns],
    T* scores) {
  const LanePlace place = lane_place();
  const bool last = output + Tile::kOutputs >= params.hidden;
#pragma unroll
  for (int32_t i = 0; i < Tile::kRows; ++i) {
    const int32_t pair = begin + place.row + 4 * i;
    const int32_t r = pair & ((1 << shift) - 1), j = pair >> shift;
    const int32_t type = readers.types == 1 ? 0
                                            : pair_type(readers.group.first + r,
                                                        j, params.num_type1);
    const T* vector = layer + (1 + type) * Tile::kOutputs;
    T score = 0;
#pragma unroll
    for (int32_t c = 0; c < Tile::kColumns; ++c) {
      const int32_t o = place.column + 8 * c;
      // An absent output may be NaN, where a node is infinite.
      if (output + o < params.hidden)
        score += vector[o] * std::tanh(sums[i][c] + layer[o]);
    }
    score = sum_columns(score);
    if (place.column == 0 && j < params.nodes) {
      T& total = scores[r * params.nodes + j];
      if (output > 0)
        score += total;
      total = last ? score / static_cast<T>(params.temperature) : score;
    }
  }
}

template <class Tile, class T = typename Tile::Real>
__device__ __forceinline__ void score_rows(const GraphAttentionParams& params,
                                           const Readers<T>& readers,
                                           int32_t shift,
                                           T* products,
                                           T* weight,
                                           T* layer,
                                           T* scores) {
  const int32_t warp = threadIdx.x / 32;
  const int32_t nodes = params.nodes, dim = params.dim;
  const int32_t pairs = nodes << shift;
  const int64_t first_node = readers.group.clip * nodes;
  const RowReader<T> node_reader = node_rows<T>(params, params.x);
  products += warp * Tile::kWarpPairs * kRow<T>;
  for (int32_t output = 0; output < params.hidden; output += Tile::kOutputs) {
    for (int32_t chunk = 0; chunk < pairs; chunk += Tile::kPairs) {
      const int32_t begin = chunk + warp * Tile::kWarpPairs;
      // The weights of a shallow layer stay where they are.
      const bool new_weight = chunk == 0 || dim > kDepth<T>;
      // Absent rows and nodes repeat the last; nobody reads their scores.
      const auto pair_of = [&](int32_t p) -> RowPair {
        const int32_t r = (begin + p) & ((1 << shift) - 1);
        const int32_t j = (begin + p) >> shift, last = readers.group.count - 1;
        return {readers.first + (r < last ? r : last),
                first_node + (j < nodes ? j : nodes - 1)};
      };
      T sums[Tile::kRows][Tile::kColumns] = {};
      for (int32_t depth = 0; depth < dim; depth += kDepth<T>) {
        if (new_weight) {
          // The other warps may still read the last weights.
          __syncthreads();
          stage_weight<kAttentionThreads, Tile::kOutputs>(
              node_rows<T>(params, readers.score.weight), params.hidden, output,
              depth, weight);
          if (chunk == 0 && depth == 0)
            stage_layer<Tile>(params, readers.score, readers.types, output,
                              layer);
        } else {
          __syncwarp();
        }
        if (begin < pairs)
          stage_products<Tile>(readers.rows, node_reader, depth, pair_of,
                               products, static_cast<T*>(nullptr));
        if (new_weight)
          __syncthreads();
        else
          __syncwarp();
        const int32_t left = dim - depth;
        if (begin < pairs)
          multiply_add<Tile>(products, weight,
                             left < kDepth<T> ? left : kDepth<T>, sums);
      }
      if (begin < pairs)
        add_scores<Tile>(params, readers, shift, begin, output, layer, sums,
                         scores);
    }
  }
}

// The softmax of a row, by a warp, in place and to `attention` unless that is
// null.
template <class T>
__device__ __forceinline__ void softmax_row(int32_t nodes,
                                            T* scores,
                                            T* attention) {
  const int32_t lane = threadIdx.x % 32;
  // A NaN is passed over here, and makes the sum NaN below.
  T highest = scores[0];
  for (int32_t j = lane; j < nodes; j += 32)
    highest = scores[j] > highest ? scores[j] : highest;
#pragma unroll
  for (int32_t distance = 16; distance > 0; distance /= 2) {
    const T other = __shfl_xor_sync(kAllLanes, highest, distance);
    highest = other > highest ? other : highest;
  }
  T sum = 0;
  for (int32_t j = lane; j < nodes; j += 32) {
    const T power = std::exp(scores[j] - highest);
    scores[j] = power;
    sum += power;
  }
  const T scale = 1 / warp_sum(sum);
  for (int32_t j = lane; j < nodes; j += 32) {
    scores[j] *= scale;
    if (attention != nullptr)
      attention[j] = scores[j];
  }
}

// Shared memory of a block beside the scores.
template <class Tile, class T = typename Tile::Real>
struct GroupRoom {
  T* products;  // kPairs rows
  T* weight;    // kOutputs rows
  T* layer;     // 4 * kOutputs
};

// Calls emit(r, d, value) for what row r of the group reads. The first of the
// products' kWeightedSumRoom are in use until the block has met again, and the
// scores.
template <class Tile, class Emit, class T = typename Tile::Real>
__device__ __forceinline__ void attend_group(const GraphAttentionParams& params,
                                             const RowGroup& group,
                                             int32_t shift,
                                             const GroupRoom<Tile>& room,
                                             T* scores,
                                             const Emit& emit) {
  static_assert(Tile::kPairs * kRow<T> >= kWeightedSumRoom, "room");
  static_assert((kRow<T> * (Tile::kPairs + Tile::kOutputs) +
                 4 * Tile::kOutputs + kMostScores) *
                        sizeof(T) <=
                    (48 << 10),
                "shared memory");
  const int32_t nodes = params.nodes;
  score_rows<Tile>(params, readers_of<T>(params, group), shift, room.products,
                   room.weight, room.layer, scores);
  __syncthreads();
  const int64_t first_node = group.clip * nodes;
  T* attention = group.master ? at<T>(params.master_attention, first_node)
                              : at<T>(params.attention,
                                      (first_node + group.first) * nodes);
  for (int32_t r = threadIdx.x / 32; r < group.count; r += kAttentionWarps)
    softmax_row<T>(
        nodes, scores + r * nodes,
        attention == nullptr ? nullptr : attention + int64_t{r} * nodes);
  __syncthreads();
  weighted_sums<T>(scores, group.count, nodes, node_rows<T>(params, params.x),
                   first_node, room.products, emit);
}

}  // namespace sparse_aasist
