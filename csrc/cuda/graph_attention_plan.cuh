// How the backward pass of graph_attention is cut up: into runs of rows, and
// tiles of the weight; what lies where in its workspace; and which pairs a run
// has.
#pragma once

#include <cstdint>

#include "graph_attention_tile.cuh"

namespace sparse_aasist {

// Rows that one block walks, one run behind the other.
struct Runs {
  int64_t rows;
  int64_t length;  // of a run, in rows
  int32_t count;
};

inline Runs make_runs(int64_t rows, int64_t most) {
  const int64_t length = (rows + most - 1) / most;
  const int64_t count = length > 0 ? (rows + length - 1) / length : 0;
  return {rows, length, static_cast<int32_t>(count)};
}

// Blocks on a multiprocessor: as many as registers allow.
constexpr int32_t kGradientBlocks = 3;
// Runs times tiles, of the pairs: all at once on the 132 multiprocessors of an
// H100. Their sums take 7 MB at most.
constexpr int64_t kMostGradientBlocks = 132 * kGradientBlocks;
constexpr int64_t kMostMasterRuns = 64;

// How the work is cut up and where its parts lie in `partials`; a function of
// the sizes alone. Offsets and sizes are in entries.
struct BackwardPlan {
  int32_t output_tiles;
  int32_t depth_tiles;
  Runs pairs;
  Runs masters;
  int64_t pair_sum_size;  // of a run
  int64_t master_sum_size;
  int64_t layer_values;   // layer_size()
  int64_t node_values;    // of all clips
  int64_t master_values;  // likewise
  int64_t pair_sums;
  int64_t master_sums;
  int64_t master_scores;  // dS, (batch, nodes)
  int64_t read_dx;        // (batch, nodes, dim), from out and summary
  int64_t pair_dx;        // (output tiles, batch, nodes, dim)
  int64_t master_dx;      // likewise, from the master's scores
  int64_t dmaster;        // (output tiles, batch, dim)
  int64_t size;
};

inline BackwardPlan backward_plan(const GraphAttentionParams& params) {
  BackwardPlan plan{};
  const int32_t outputs = tile_outputs(params);
  const int32_t depth =
      is_double(params.format) ? kDepth<double> : kDepth<float>;
  const int64_t masters = has_master(params) ? params.batch : 0;
  const int64_t rows = params.batch * params.nodes;
  plan.output_tiles = (params.hidden + outputs - 1) / outputs;
  plan.depth_tiles = (params.dim + depth - 1) / depth;
  plan.pairs = make_runs(
      rows, kMostGradientBlocks / (plan.output_tiles * plan.depth_tiles));
  plan.masters = make_runs(masters, kMostMasterRuns);
  plan.pair_sum_size = score_size(params, params.types);
  plan.master_sum_size = score_size(params, 1);
  plan.layer_values = layer_size(params);
  plan.node_values = rows * params.dim;
  plan.master_values = masters * params.dim;
  int64_t end = 0;
  const auto take = [&end](int64_t entries) {
    end += entries;
    return end - entries;
  };
  plan.pair_sums = take(plan.pairs.count * plan.pair_sum_size);
  plan.master_sums = take(plan.masters.count * plan.master_sum_size);
  plan.master_scores = take(masters * params.nodes);
  plan.read_dx = take(plan.node_values);
  plan.pair_dx = take(plan.output_tiles * plan.node_values);
  plan.master_dx = take(masters > 0 ? plan.output_tiles * plan.node_values : 0);
  plan.dmaster = take(plan.output_tiles * plan.master_values);
  plan.size = end;
  return plan;
}

// A tile of the weight.
struct TilePlace {
  int32_t output;
  int32_t depth;
  int32_t output_tile;
};

// Who scores the nodes: the nodes of all clips, or the masters.
template <class T>
struct Side {
  bool master;
  RowReader<T> rows;
  int32_t rows_per_clip;
  GraphScore score;
  int32_t types;
  T share;   // of a pair in dW: the nodes have it in both orders
  T* drows;  // (rows, dim)
  T* sums;   // of the run
};

template <class T>
__device__ __forceinline__ Side<T> side_of(
    const GraphAttentionBackwardParams& params,
    const BackwardPlan& plan,
    const TilePlace& tile,
    int32_t run,
    bool master) {
  const GraphAttentionParams& forward = params.forward;
  T* const partials = static_cast<T*>(params.partials);
  if (master)
    return {
        true,
        {forward.master, forward.format, forward.dim, forward.master_stride},
        1,
        forward.master_score,
        1,
        static_cast<T>(1),
        partials + plan.dmaster + tile.output_tile * plan.master_values,
        partials + plan.master_sums + run * plan.master_sum_size};
  return {false,
          node_rows<T>(forward, forward.x),
          forward.nodes,
          forward.pairs,
          forward.types,
          static_cast<T>(0.5),
          partials + plan.pair_dx + tile.output_tile * plan.node_values,
          partials + plan.pair_sums + run * plan.pair_sum_size};
}

// A pair in shared memory.
template <class T>
struct PairEntry {
  RowPair rows;
  T coefficient;  // gradient of the score, of both orders
  T gradient;     // of this order
  int32_t type;
};

// The pair of a row, within its clip, and a node.
struct PairPlace {
  int64_t clip;
  int32_t row;
  int32_t node;

  __device__ __forceinline__ PairPlace after(int32_t pairs,
                                             int32_t rows_per_clip,
                                             int32_t nodes) const {
    const int32_t to = node + pairs, rows = row + to / nodes;
    return {clip + rows / rows_per_clip, rows % rows_per_clip, to % nodes};
  }
};

// A lane looks up a pair of its warp.
template <class T>
__device__ __forceinline__ PairEntry<T> look_up(
    const GraphAttentionBackwardParams& params,
    const BackwardPlan& plan,
    const Side<T>& side,
    const PairPlace& pair) {
  const int32_t nodes = params.forward.nodes;
  const int64_t first = pair.clip * nodes;
  PairEntry<T> entry;
  entry.rows = {pair.clip * side.rows_per_clip + pair.row, first + pair.node};
  if (side.master) {
    entry.gradient =
        *at<T>(params.partials, plan.master_scores + entry.rows.right);
    entry.coefficient = entry.gradient;
    entry.type = 0;
    return entry;
  }
  const T* ds = at<T>(params.score_gradients, first * nodes);
  entry.gradient = ds[int64_t{pair.row} * nodes + pair.node];
  entry.coefficient =
      entry.gradient + ds[int64_t{pair.node} * nodes + pair.row];
  entry.type = pair_type(pair.row, pair.node, params.forward.num_type1);
  return entry;
}

}  // namespace sparse_aasist
