// The gradients that one run of rows gives, on one tile of the weight; see
// graph_attention_backward_cuda.cu for the formulas.
#pragma once

#include <cmath>
#include <cstdint>

#include "graph_attention_plan.cuh"
#include "graph_attention_tile.cuh"

namespace sparse_aasist {

// Pairs of a lane in the widest tile: with more, shared memory would not do.
constexpr int32_t kWideGradientRows = 2;

template <class T>
struct GradientRoom {
  T* products;  // of a chunk of pairs, then Z, its gradients
  T* nodes;     // of the chunk, in the dimensions of the tile
  T* weight;
  T* layer;
  T* row;   // a row in the dimensions of the tile, then its gradient by warps
  T* sums;  // of bias and vectors, by warps
  PairEntry<T>* entries;
};

// A lane's part of sums over (outputs, depth): 4 outputs times kDims.
template <class Tile>
struct Outer {
  using T = typename Tile::Real;
  static constexpr int32_t kWarpRows = Tile::kOutputs / 16;
  static constexpr int32_t kColumns = 8 * kAttentionWarps / kWarpRows;
  static constexpr int32_t kDims = kPacks / kColumns * kPack<T>;
  int32_t warp_row;
  int32_t output;
  int32_t column;

  __device__ __forceinline__ static Outer here() {
    const int32_t warp = threadIdx.x / 32;
    const LanePlace place = lane_place();
    return {warp % kWarpRows, 4 * (place.row + 4 * (warp % kWarpRows)),
            place.column + 8 * (warp / kWarpRows)};
  }
  __device__ __forceinline__ int32_t dim(int32_t e) const {
    return (column + e / kPack<T> * kColumns) * kPack<T> + e % kPack<T>;
  }
};

// What a thread sums up.
template <class Tile>
struct OuterSums {
  using T = typename Tile::Real;
  T moments[4][Outer<Tile>::kDims] = {};  // M, of the present row
  T weight[4][Outer<Tile>::kDims] = {};   // of the run
};

// W (x_k * x_j) of the warp's pairs over the products in shared memory. The
// weights of the tile itself are multiplied last, and stay, as do its nodes.
template <class Tile, class T = typename Tile::Real>
__device__ __forceinline__ void hidden_sums(const GraphAttentionParams& forward,
                                            const BackwardPlan& plan,
                                            const TilePlace& tile,
                                            const Side<T>& side,
                                            int32_t count,
                                            bool new_weight,
                                            const GradientRoom<T>& room) {
  const int32_t first = threadIdx.x / 32 * Tile::kWarpPairs;
  T* const products = room.products + first * kRow<T>;
  const PairEntry<T>* const entries = room.entries + first;
  T sums[Tile::kRows][Tile::kColumns] = {};
  int32_t depth = tile.depth;
  for (int32_t slab = 0; slab < plan.depth_tiles; ++slab) {
    depth += kDepth<T>;
    depth = depth < forward.dim ? depth : 0;
    if (slab > 0)
      __syncthreads();  // all have multiplied with the last weights
    if (new_weight)
      stage_weight<kAttentionThreads, Tile::kOutputs>(
          node_rows<T>(forward, side.score.weight), forward.hidden, tile.output,
          depth, room.weight);
    if (first < count)
      stage_products<Tile>(
          side.rows, node_rows<T>(forward, forward.x), depth,
          [&](int32_t p) { return entries[p].rows; }, products,
          depth == tile.depth ? room.nodes + first * kRow<T> : nullptr);
    if (new_weight)
      __syncthreads();
    else
      __syncwarp();
    const int32_t left = forward.dim - depth;
    if (first < count)
      multiply_add<Tile>(products, room.weight,
                         left < kDepth<T> ? left : kDepth<T>, sums);
  }
  __syncwarp();
  const LanePlace place = lane_place();
#pragma unroll
  for (int32_t i = 0; i < Tile::kRows; ++i)
#pragma unroll
    for (int32_t c = 0; c < Tile::kColumns; ++c)
      products[(place.row + 4 * i) * kRow<T> + place.column + 8 * c] =
          sums[i][c];
  __syncwarp();
}

// Turns those sums into Z, of the warp's pairs; a lane has its outputs.
template <class Tile, class T = typename Tile::Real>
__device__ __forceinline__ void hidden_gradients(
    const GraphAttentionParams& forward,
    const TilePlace& tile,
    int32_t count,
    const GradientRoom<T>& room) {
  const int32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int32_t first = warp * Tile::kWarpPairs;
  T* const sums = room.sums + warp * 4 * Tile::kOutputs;
  const int32_t left = count - first;
  const int32_t pairs = left < Tile::kWarpPairs ? left : Tile::kWarpPairs;
  for (int32_t p = 0; p < pairs; ++p) {
    const PairEntry<T>& entry = room.entries[first + p];
    const int32_t vector = (1 + entry.type) * Tile::kOutputs;
#pragma unroll
    for (int32_t o = lane; o < Tile::kOutputs; o += 32) {
      T& place = room.products[(first + p) * kRow<T> + o];
      const T h = std::tanh(place + room.layer[o]);
      // An absent output may be NaN, where a node is infinite.
      const T z = tile.output + o < forward.hidden
                      ? entry.coefficient * room.layer[vector + o] * (1 - h * h)
                      : static_cast<T>(0);
      sums[o] += z;
      sums[vector + o] += entry.gradient * h;
      place = z;
    }
  }
}

// M += Z_j x_j^T for pairs [begin, end) of the chunk.
template <class Tile, class T = typename Tile::Real>
__device__ __forceinline__ void add_moments(int32_t begin,
                                            int32_t end,
                                            const GradientRoom<T>& room,
                                            OuterSums<Tile>& sums) {
  const Outer<Tile> outer = Outer<Tile>::here();
  for (int32_t p = begin; p < end; ++p) {
    T z[4], x[Outer<Tile>::kDims];
#pragma unroll
    for (int32_t i = 0; i < 4; i += kPack<T>) {
      const Pack<T> pack =
          load_pack(room.products + p * kRow<T> + outer.output + i);
#pragma unroll
      for (int32_t e = 0; e < kPack<T>; ++e)
        z[i + e] = pack.of[e];
    }
#pragma unroll
    for (int32_t d = 0; d < Outer<Tile>::kDims; d += kPack<T>) {
      const Pack<T> pack = load_pack(room.nodes + p * kRow<T> + outer.dim(d));
#pragma unroll
      for (int32_t e = 0; e < kPack<T>; ++e)
        x[d + e] = pack.of[e];
    }
#pragma unroll
    for (int32_t i = 0; i < 4; ++i)
#pragma unroll
      for (int32_t d = 0; d < Outer<Tile>::kDims; ++d)
        sums.moments[i][d] += z[i] * x[d];
  }
}

// All pairs of a row are in M: writes what the tile gives to the row, adds to
// dW, and clears M.
template <class Tile, class T = typename Tile::Real>
__device__ __forceinline__ void finish_row(const GraphAttentionParams& forward,
                                           const TilePlace& tile,
                                           const Side<T>& side,
                                           int64_t row,
                                           const GradientRoom<T>& room,
                                           OuterSums<Tile>& sums) {
  const Outer<Tile> outer = Outer<Tile>::here();
  const int32_t dim = threadIdx.x;
  if (dim < kDepth<T>)
    room.row[dim] = side.rows.value(row, tile.depth + dim);
  T* const drows = room.row + kDepth<T>;
#pragma unroll
  for (int32_t d = 0; d < Outer<Tile>::kDims; ++d) {
    T drow = 0;
#pragma unroll
    for (int32_t i = 0; i < 4; ++i)
      drow += room.weight[(outer.output + i) * kRow<T> + outer.dim(d)] *
              sums.moments[i][d];
    drow = sum_rows(drow);
    if (lane_place().row == 0)
      drows[outer.warp_row * kDepth<T> + outer.dim(d)] = drow;
  }
  __syncthreads();
  if (dim < kDepth<T> && tile.depth + dim < forward.dim) {
    T drow = 0;
    for (int32_t w = 0; w < Outer<Tile>::kWarpRows; ++w)
      drow += drows[w * kDepth<T> + dim];
    side.drows[row * forward.dim + tile.depth + dim] = drow;
  }
#pragma unroll
  for (int32_t d = 0; d < Outer<Tile>::kDims; ++d) {
    const T value = room.row[outer.dim(d)];
#pragma unroll
    for (int32_t i = 0; i < 4; ++i) {
      sums.weight[i][d] += sums.moments[i][d] * value;
      sums.moments[i][d] = 0;
    }
  }
  // The next row is summed up in the same place.
  __syncthreads();
}

// What the master's scores give to the nodes of the chunk: (Z W) * master.
template <class Tile, class T = typename Tile::Real>
__device__ __forceinline__ void write_node_gradients(
    const GraphAttentionParams& forward,
    const TilePlace& tile,
    const Side<T>& side,
    int32_t count,
    const GradientRoom<T>& room,
    T* dx) {
  constexpr int32_t kStep = kAttentionThreads / kPacks;
  constexpr int32_t kEach = Tile::kPairs / kStep;
  const int32_t first = threadIdx.x / kPacks;
  const int32_t dim = threadIdx.x % kPacks * kPack<T>;
  T sums[kEach][kPack<T>] = {};
  // Unrolling loops that are not hot would take registers from those that are.
#pragma unroll 1
  for (int32_t o = 0; o < Tile::kOutputs; ++o) {
    const Pack<T> weight = load_pack(room.weight + o * kRow<T> + dim);
#pragma unroll
    for (int32_t i = 0; i < kEach; ++i) {
      const T z = room.products[(first + i * kStep) * kRow<T> + o];
#pragma unroll
      for (int32_t e = 0; e < kPack<T>; ++e)
        sums[i][e] += z * weight.of[e];
    }
  }
#pragma unroll
  for (int32_t i = 0; i < kEach; ++i) {
    const int32_t p = first + i * kStep;
    if (p >= count)
      continue;
    const RowPair rows = room.entries[p].rows;
#pragma unroll
    for (int32_t e = 0; e < kPack<T>; ++e) {
      const int32_t d = tile.depth + dim + e;
      if (d < forward.dim)
        dx[rows.right * forward.dim + d] =
            sums[i][e] * side.rows.value(rows.left, d);
    }
  }
}

// Writes the sums of a run, by way of the place of the weights; those of bias
// and vectors, which do not depend on the dimensions, only in the first tile.
template <class Tile, class T = typename Tile::Real>
__device__ __forceinline__ void write_run_sums(
    const GraphAttentionParams& forward,
    const TilePlace& tile,
    const Side<T>& side,
    const OuterSums<Tile>& sums,
    const GradientRoom<T>& room) {
  constexpr int32_t kOutputs = Tile::kOutputs;
  const int64_t dim = forward.dim, hidden = forward.hidden;
  const Outer<Tile> outer = Outer<Tile>::here();
#pragma unroll
  for (int32_t i = 0; i < 4; ++i)
#pragma unroll
    for (int32_t d = 0; d < Outer<Tile>::kDims; ++d)
      room.weight[(outer.output + i) * kRow<T> + outer.dim(d)] =
          side.share * sums.weight[i][d];
  __syncthreads();
#pragma unroll 1
  for (int32_t i = threadIdx.x; i < kOutputs * kDepth<T>;
       i += kAttentionThreads) {
    const int32_t row = i / kDepth<T>, column = i % kDepth<T>;
    const int32_t o = tile.output + row, d = tile.depth + column;
    if (o < hidden && d < dim)
      side.sums[o * dim + d] = room.weight[row * kRow<T> + column];
  }
  if (tile.depth > 0)
    return;
  for (int32_t i = threadIdx.x; i < (1 + side.types) * kOutputs;
       i += kAttentionThreads) {
    const int32_t o = tile.output + i % kOutputs;
    if (o >= hidden)
      continue;
    T sum = 0;
#pragma unroll 1
    for (int32_t w = 0; w < kAttentionWarps; ++w)
      sum += room.sums[w * 4 * kOutputs + i];
    side.sums[hidden * (dim + i / kOutputs) + o] =
        i < kOutputs ? side.share * sum : sum;
  }
}

template <class Tile, bool kMaster, class T = typename Tile::Real>
__device__ __forceinline__ void run_gradients(
    const GraphAttentionBackwardParams& params,
    const BackwardPlan& plan,
    const TilePlace& tile,
    int32_t run,
    const GradientRoom<T>& room) {
  const GraphAttentionParams& forward = params.forward;
  const int32_t nodes = forward.nodes;
  const Side<T> side = side_of<T>(params, plan, tile, run, kMaster);
  const Runs& runs = kMaster ? plan.masters : plan.pairs;
  const int64_t first_row = run * runs.length;
  const int64_t rows = runs.rows - first_row;
  int64_t left = (rows < runs.length ? rows : runs.length) * nodes;
  PairPlace place = {first_row / side.rows_per_clip,
                     static_cast<int32_t>(first_row % side.rows_per_clip), 0};
  OuterSums<Tile> sums;
#pragma unroll 1
  for (int32_t i = threadIdx.x; i < kAttentionWarps * 4 * Tile::kOutputs;
       i += kAttentionThreads)
    room.sums[i] = 0;
  stage_layer<Tile>(forward, side.score, side.types, tile.output, room.layer);
  for (bool first = true; left > 0; first = false) {
    const int32_t count =
        static_cast<int32_t>(left < Tile::kPairs ? left : Tile::kPairs);
    // Absent pairs repeat the last; nobody reads what comes of them.
    if (threadIdx.x < Tile::kPairs) {
      const int32_t p = threadIdx.x, last = count - 1;
      room.entries[p] =
          look_up(params, plan, side,
                  place.after(p < last ? p : last, side.rows_per_clip, nodes));
    }
    __syncthreads();
    // The weights of a shallow layer stay where they are.
    hidden_sums<Tile>(forward, plan, tile, side, count,
                      first || plan.depth_tiles > 1, room);
    hidden_gradients<Tile>(forward, tile, count, room);
    __syncthreads();
    if (kMaster)
      write_node_gradients<Tile>(
          forward, tile, side, count, room,
          at<T>(params.partials,
                plan.master_dx + tile.output_tile * plan.node_values));
    for (int32_t p = 0, node = place.node; p < count;) {
      const int32_t rest = nodes - node;
      const int32_t end = rest < count - p ? p + rest : count;
      add_moments<Tile>(p, end, room, sums);
      if (end - p == rest)
        finish_row<Tile>(forward, tile, side, room.entries[p].rows.left, room,
                         sums);
      p = end;
      node = 0;
    }
    // The next chunk writes over this one.
    __syncthreads();
    place = place.after(count, side.rows_per_clip, nodes);
    left -= count;
  }
  write_run_sums<Tile>(forward, tile, side, sums, room);
}

}  // namespace sparse_aasist
