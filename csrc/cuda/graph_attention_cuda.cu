// graph_attention on a GPU, forward, in one launch. A block owns a few rows of
// a clip, or its master, which is a row with weights of its own. It scores the
// pairs of its rows with all nodes tile by tile, its warps without waiting for
// each other while the weights stay in shared memory; then a warp takes the
// softmax of a row, and all threads sum up the nodes. The pairs of a group are
// numbered with the rows fastest, so that a node that is read serves all rows.
#include <cmath>

#include "graph_attention.h"
#include "graph_attention_tile.cuh"
#include "warp_sum.cuh"

namespace sparse_aasist {
namespace {

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
          stage_weight<Tile>(params, readers.score, output, depth, weight);
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

// The softmax of a row, by a warp, in place and to `attention`.
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
    attention[j] = scores[j];
  }
}

template <class Tile>
__global__ void __launch_bounds__(kAttentionThreads, 4)
    graph_attention_kernel(GraphAttentionParams params, RowGroups groups) {
  using T = typename Tile::Real;
  SPARSE_AASIST_DYNAMIC_SHARED(T, scores);  // (rows of a group, nodes)
  SPARSE_AASIST_SHARED(Pack<T>, product_room, Tile::kPairs * kRowPacks);
  SPARSE_AASIST_SHARED(Pack<T>, weight_room, Tile::kOutputs * kRowPacks);
  SPARSE_AASIST_SHARED(T, layer, 4 * Tile::kOutputs);
  T* const products = reinterpret_cast<T*>(product_room);
  T* const weight = reinterpret_cast<T*>(weight_room);
  static_assert(Tile::kPairs * kRow<T> >= kWeightedSumRoom, "room");
  static_assert(sizeof(product_room) + sizeof(weight_room) + sizeof(layer) +
                        kMostScores * sizeof(T) <=
                    (48 << 10),
                "shared memory");
  const int32_t nodes = params.nodes, warp = threadIdx.x / 32;
  for (int64_t item = blockIdx.x; item < groups.count; item += gridDim.x) {
    const RowGroup group = row_group(params, groups, item);
    score_rows<Tile>(params, readers_of<T>(params, group), groups.shift,
                     products, weight, layer, scores);
    __syncthreads();
    const int64_t first_node = group.clip * nodes;
    T* attention = at<T>(params.attention, (first_node + group.first) * nodes);
    if (group.master)
      attention = at<T>(params.master_attention, first_node);
    for (int32_t r = warp; r < group.count; r += kAttentionWarps)
      softmax_row<T>(nodes, scores + r * nodes, attention + int64_t{r} * nodes);
    __syncthreads();
    void* const out = group.master ? params.summary : params.out;
    const int64_t first_row =
        group.master ? group.clip : first_node + group.first;
    weighted_sums<T>(scores, group.count, nodes, node_rows<T>(params, params.x),
                     first_node, products, [&](int32_t r, int32_t d, T value) {
                       write_value(out, params.format,
                                   (first_row + r) * params.dim + d, value);
                     });
  }
}

}  // namespace

const char* graph_attention_cuda(const GraphAttentionParams& params,
                                 void* stream) {
  if (params.batch == 0)
    return nullptr;
  return with_tile<4>(params, [&](auto tile) {
    using Tile = decltype(tile);
    const RowGroups groups = row_groups(params);
    const size_t bytes = static_cast<size_t>(params.nodes << groups.shift) *
                         sizeof(typename Tile::Real);
    return SPARSE_AASIST_LAUNCH(
        (graph_attention_kernel<Tile>), attention_blocks(groups.count),
        kAttentionThreads, bytes, stream, params, groups);
  });
}

}  // namespace sparse_aasist
