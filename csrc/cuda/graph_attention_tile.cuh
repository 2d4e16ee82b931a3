// What the kernels of graph_attention share: the product of matrices under
// the hidden layer, W (x_i * x_j), on tiles of pairs and outputs.
//
// A warp has pairs of its own. The products x_i * x_j of a pair are a row in
// shared memory, and so are the weights of an output; a lane holds a few pairs
// times a few outputs in registers. Rows are read 16 bytes at a time. They are
// 17 times 16 bytes long, so that neighbouring rows begin in other banks.
#pragma once

#include <cstdint>

#include "graph_attention.h"
#include "launch.h"
#include "row_access.cuh"
#include "value_rows.cuh"

namespace sparse_aasist {

constexpr int32_t kAttentionThreads = 128;
constexpr int32_t kAttentionWarps = kAttentionThreads / 32;

template <class T>
struct alignas(16) Pack {
  T of[16 / sizeof(T)];
};
constexpr int32_t kPacks = 16;         // of a row, in use
constexpr int32_t kRowPacks = 16 + 1;  // of a row
template <class T>
constexpr int32_t kPack = 16 / sizeof(T);
// Dimensions of a node that are in shared memory at a time.
template <class T>
constexpr int32_t kDepth = kPacks * kPack<T>;
template <class T>
constexpr int32_t kRow = kRowPacks * kPack<T>;

template <class T>
__device__ __forceinline__ Pack<T> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T>*>(from);
}

// A tile of pairs and outputs: a warp has 4 x 8 lanes, each with kRows pairs
// and kColumns outputs.
template <class T, int32_t kOutputsOf, int32_t kRowsOf>
struct Tile {
  using Real = T;
  static constexpr int32_t kOutputs = kOutputsOf;
  static constexpr int32_t kRows = kRowsOf;
  static constexpr int32_t kColumns = kOutputs / 8;
  static constexpr int32_t kWarpPairs = 4 * kRows;
  static constexpr int32_t kPairs = kWarpPairs * kAttentionWarps;
};

inline int32_t tile_outputs(const GraphAttentionParams& params) {
  return is_double(params.format) || params.hidden <= 32 ? 32 : 64;
}

// A lane's row and column of the 4 x 8 in its warp. Lanes 1 apart have one
// row and lanes 2 apart one column: only reads of 16 bytes that agree so are
// made together by the hardware.
struct LanePlace {
  int32_t row;
  int32_t column;
};
__device__ __forceinline__ LanePlace lane_place() {
  const int32_t lane = threadIdx.x % 32;
  return {(lane >> 1 & 1) | (lane >> 3 & 2), (lane & 1) | (lane >> 1 & 6)};
}

// Sums over the lanes of one row, and of one column.
template <class T>
__device__ __forceinline__ T sum_columns(T value) {
  value += __shfl_xor_sync(kAllLanes, value, 1);
  value += __shfl_xor_sync(kAllLanes, value, 4);
  return value + __shfl_xor_sync(kAllLanes, value, 8);
}
template <class T>
__device__ __forceinline__ T sum_rows(T value) {
  value += __shfl_xor_sync(kAllLanes, value, 2);
  return value + __shfl_xor_sync(kAllLanes, value, 16);
}

template <class T>
SPARSE_AASIST_INLINE RowReader<T> node_rows(const GraphAttentionParams& params,
                                            const void* values) {
  return {values, params.format, params.dim, params.dim};
}

template <class T>
__device__ __forceinline__ void store_row_quad(T* to, const Quad<T>& quad) {
#pragma unroll
  for (int32_t first = 0; first < kQuad; first += kPack<T>) {
    Pack<T> pack;
#pragma unroll
    for (int32_t e = 0; e < kPack<T>; ++e)
      pack.of[e] = quad.of[first + e];
    *reinterpret_cast<Pack<T>*>(to + first) = pack;
  }
}

// Two rows whose product is scored.
struct RowPair {
  int64_t left;
  int64_t right;
};

// The warp brings the products of its pairs into shared memory, of dimensions
// from `depth` on, and with `nodes` also the right of their rows; pair_of(p)
// tells the rows of a pair.
template <class Tile, class PairOf, class T = typename Tile::Real>
__device__ __forceinline__ void stage_products(const RowReader<T>& left,
                                               const RowReader<T>& right,
                                               int32_t depth,
                                               const PairOf& pair_of,
                                               T* products,
                                               T* nodes) {
  constexpr int32_t kQuads = kDepth<T> / kQuad;
  for (int32_t unit = threadIdx.x % 32; unit < Tile::kWarpPairs * kQuads;
       unit += 32) {
    const int32_t p = unit / kQuads, index = unit % kQuads * kQuad;
    if (depth + index >= right.width)
      continue;
    const RowPair rows = pair_of(p);
    Quad<T> product = left.quad(rows.left, depth + index);
    const Quad<T> node = right.quad(rows.right, depth + index);
#pragma unroll
    for (int32_t e = 0; e < kQuad; ++e)
      product.of[e] *= node.of[e];
    store_row_quad(products + p * kRow<T> + index, product);
    if (nodes != nullptr)
      store_row_quad(nodes + p * kRow<T> + index, node);
  }
}

// A block of kThreads brings kOutputs rows of a weight into shared memory,
// those of outputs from `output` on, of their dimensions from `depth` on.
// Zeros stand for absent outputs.
template <int32_t kThreads, int32_t kOutputs, class T>
__device__ __forceinline__ void stage_weight(const RowReader<T>& rows,
                                             int32_t outputs,
                                             int32_t output,
                                             int32_t depth,
                                             T* weight) {
  constexpr int32_t kQuads = kDepth<T> / kQuad;
  for (int32_t unit = threadIdx.x; unit < kOutputs * kQuads; unit += kThreads) {
    const int32_t row = unit / kQuads, index = unit % kQuads * kQuad;
    if (depth + index >= rows.width)
      continue;
    Quad<T> quad{};
    if (output + row < outputs)
      quad = rows.quad(output + row, depth + index);
    store_row_quad(weight + row * kRow<T> + index, quad);
  }
}

// The block brings the bias, then the vectors, of a tile's outputs.
template <class Tile, class T = typename Tile::Real>
__device__ __forceinline__ void stage_layer(const GraphAttentionParams& params,
                                            const GraphScore& score,
                                            int32_t types,
                                            int32_t output,
                                            T* layer) {
  const int32_t hidden = params.hidden;
  for (int32_t i = threadIdx.x; i < (1 + types) * Tile::kOutputs;
       i += kAttentionThreads) {
    const int32_t row = i / Tile::kOutputs, o = output + i % Tile::kOutputs;
    const void* const from = row == 0 ? score.bias : score.vectors[row - 1];
    layer[i] = RowReader<T>{from, params.format, hidden, hidden}.value(0, o);
  }
}

// Sums of a lane += products of the warp's pairs times the weight; `depth`
// values of each row.
template <class Tile, class T = typename Tile::Real>
__device__ __forceinline__ void multiply_add(
    const T* products,
    const T* weight,
    int32_t depth,
    T (&sums)[Tile::kRows][Tile::kColumns]) {
  const LanePlace place = lane_place();
  const T* const left = products + place.row * kRow<T>;
  const T* const right = weight + place.column * kRow<T>;
  for (int32_t d = 0; d < depth; d += kPack<T>) {
    Pack<T> a[Tile::kRows];
#pragma unroll
    for (int32_t i = 0; i < Tile::kRows; ++i)
      a[i] = load_pack(left + 4 * i * kRow<T> + d);
#pragma unroll
    for (int32_t j = 0; j < Tile::kColumns; ++j) {
      const Pack<T> b = load_pack(right + 8 * j * kRow<T> + d);
#pragma unroll
      for (int32_t i = 0; i < Tile::kRows; ++i)
#pragma unroll
        for (int32_t e = 0; e < kPack<T>; ++e)
          sums[i][j] += a[i].of[e] * b.of[e];
    }
  }
}

// The nodes of a clip are read by few rows at a time, `1 << shift` of them,
// and then by its master.
struct RowGroups {
  int32_t shift;
  int64_t per_clip;  // with the master
  int64_t count;
};

constexpr int32_t kMostGroupShift = 3;
constexpr int32_t kMostGroupRows = 1 << kMostGroupShift;
constexpr int32_t kMostScores = 2048;  // of a group
constexpr int64_t kLeastGroups = 256;  // two for every multiprocessor

inline RowGroups row_groups(const GraphAttentionParams& params) {
  int32_t shift = 0;
  const auto groups = [&](int32_t s) {
    return (int64_t{params.nodes} + (1 << s) - 1) >> s;
  };
  while (shift < kMostGroupShift &&
         params.nodes << (shift + 1) <= kMostScores &&
         params.batch * groups(shift + 1) >= kLeastGroups)
    ++shift;
  const int64_t per_clip = groups(shift) + (has_master(params) ? 1 : 0);
  return {shift, per_clip, params.batch * per_clip};
}

// The rows of one group.
struct RowGroup {
  int64_t clip;
  int32_t first;
  int32_t count;
  bool master;
};

__device__ __forceinline__ RowGroup
row_group(const GraphAttentionParams& params,
          const RowGroups& groups,
          int64_t item) {
  const int64_t clip = item / groups.per_clip;
  const int32_t group = static_cast<int32_t>(item - clip * groups.per_clip);
  const int32_t first = group << groups.shift;
  if (first >= params.nodes)
    return {clip, 0, 1, true};
  const int32_t left = params.nodes - first, rows = 1 << groups.shift;
  return {clip, first, left < rows ? left : rows, false};
}

constexpr int32_t kWeightedSumRoom = kQuad * kAttentionThreads;

// Calls emit(r, d, value) for the sums over i of weights[r][i] times row
// first + i, all of the block. Many threads may share a sum, each with every
// so many of its terms; where it takes several passes a thread has whole sums,
// and reads only what it wrote. The weights are there already, the room is
// free; both are in use until the block has met again.
template <class T, class Emit>
__device__ __forceinline__ void weighted_sums(const T* weights,
                                              int32_t rows,
                                              int32_t nodes,
                                              const RowReader<T>& values,
                                              int64_t first,
                                              T* room,
                                              const Emit& emit) {
  const int32_t quads = (values.width + kQuad - 1) / kQuad;
  const int32_t all = rows * quads;
  for (int32_t begin = 0; begin < all; begin += kAttentionThreads) {
    const int32_t left = all - begin;
    const int32_t units = left < kAttentionThreads ? left : kAttentionThreads;
    const int32_t parts = kAttentionThreads / units;
    const int32_t part = static_cast<int32_t>(threadIdx.x) / units;
    const int32_t unit = begin + static_cast<int32_t>(threadIdx.x) % units;
    const int32_t r = unit / quads, index = unit % quads * kQuad;
    if (part < parts) {
      Quad<T> sum{};
#pragma unroll 4
      for (int32_t i = part; i < nodes; i += parts) {
        const T weight = weights[r * nodes + i];
        const Quad<T> value = values.quad(first + i, index);
#pragma unroll
        for (int32_t e = 0; e < kQuad; ++e)
          sum.of[e] += weight * value.of[e];
      }
#pragma unroll
      for (int32_t e = 0; e < kQuad; ++e)
        room[e * kAttentionThreads + threadIdx.x] = sum.of[e];
    }
    __syncthreads();
    if (part == 0)
      for (int32_t e = 0; e < kQuad && index + e < values.width; ++e) {
        T sum = 0;
        for (int32_t p = 0; p < parts; ++p)
          sum += room[e * kAttentionThreads + p * units + threadIdx.x];
        emit(r, index + e, sum);
      }
  }
}

// Calls run(Tile{}) for the tile that suits the format and the outputs; a lane
// has kWideRows pairs of the widest.
template <int32_t kWideRows, class Run>
const char* with_tile(const GraphAttentionParams& params, const Run& run) {
  if (is_double(params.format))
    return run(Tile<double, 32, 2>{});
  if (tile_outputs(params) == 32)
    return run(Tile<float, 32, 4>{});
  return run(Tile<float, 64, kWideRows>{});
}

}  // namespace sparse_aasist
