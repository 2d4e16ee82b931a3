// A (2, 3) convolution of images from top to bottom, on tensor cores: the rows
// of a source are loaded once, each is multiplied for the two rows of the
// result that it belongs to, and a sink takes a row when it is complete. A side
// source adds a (1, 3) convolution of its own.
//
// A block of eight warps owns a stretch of time; a warp 48 steps of it and a
// few channels, whose weights stay in its registers. Its three tiles of 16
// steps are interleaved, tile j holding steps 3 p + j: neighbours that are
// pooled meet in one lane, and all tiles and taps need five fragments, not
// nine.
#pragma once

#include <type_traits>

#include "residual_rows.cuh"
#include "residual_walk.cuh"
#include "residual_weights.cuh"

namespace sparse_aasist {

constexpr int kWarpSteps = 48;
constexpr int64_t kMostConvolutionBlocks = 2048;

// Widths are multiples of 16. A warp has 16 columns, or 8 where its registers
// hold no more weights.
template <int kSource_, int kSide_, int kOutputs_>
struct ConvolutionShape {
  static constexpr int kSource = kSource_, kSide = kSide_, kOutputs = kOutputs_;
  static constexpr int kColumns = kSource + kSide > 3 * kOutputs ? 8 : 16;
  static constexpr int kWarpColumns = kOutputs / kColumns;
  static constexpr int kWarpTimes = 8 / kWarpColumns;
  static constexpr int kRoom = kWarpSteps * kWarpTimes;
  // The last results would need two more steps of the source, which would take
  // another round of all threads to load: a stretch ends before them.
  static constexpr int kSteps = kRoom - kPoolSteps;
  static constexpr int kTiles = kColumns / 8;
};

struct ConvolutionPlan {
  Walk walk;
  const uint32_t* weights;  // packed_weights() of both
  const uint32_t* side_weights;
};

inline unsigned convolution_blocks(const Walk& walk) {
  return blocks_for(walk.items(), kMostConvolutionBlocks);
}

// No side source.
struct NoRows {
  static constexpr int kChannels = 0;
};

// Where a warp's lane stands in a complete row: 2 kTiles channels of steps
// first + 3 (p + 8 h) + j, h = 0, 1 and j = 0, 1, 2.
struct SinkAt {
  int32_t clip;
  int32_t row;
  int32_t first;
  int32_t p;
  int32_t past;  // the end of the stretch

  __device__ int32_t step(int h, int j) const {
    return first + kPoolSteps * (p + 8 * h) + j;
  }
};

template <int kTiles>
using Accumulators = float[kPoolSteps][kTiles][4];

// Neighbouring channels of one step.
template <int kTiles>
__device__ __forceinline__ void results_at(const Accumulators<kTiles>& sums,
                                           int h,
                                           int j,
                                           float (&to)[2 * kTiles]) {
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    to[2 * tile] = sums[j][tile][2 * h];
    to[2 * tile + 1] = sums[j][tile][2 * h + 1];
  }
}

// sums += a (three taps of 16 channels) b for the tiles of a warp; `row` is the
// warp's first step but one. Twice: for both rows that these belong to.
template <int kTiles, int kHigh>
__device__ __forceinline__ void multiply_row(
    Accumulators<kTiles> (&sums)[2],
    const char* row,
    int32_t stride,
    int32_t k16,
    const HeldWeights<kTiles, kHigh>& weights) {
  const int32_t lane = threadIdx.x % 32;
  // ldmatrix: lanes 0..15 name the rows, 16..31 the same for the next octet.
  const char* const own =
      row + lane % 16 * kPoolSteps * stride + k16 * 32 + lane / 16 * 16;
#pragma unroll
  for (int offset = 0; offset < 5; ++offset) {
    uint32_t a[4];
    load_matrices(a, own + offset * stride);
#pragma unroll
    for (int j = 0; j < kPoolSteps; ++j) {
      const int tap = offset - j;
      if (tap < 0 || tap > 2)
        continue;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        // The row's first tap in height is for the newer result.
#pragma unroll
        for (int high = 0; high < kHigh; ++high)
          multiply_add(sums[1 - high][j][tile], a, weights[high][tap][2 * tile],
                       weights[high][tap][2 * tile + 1]);
      }
    }
  }
}

// The newer row becomes the older one.
template <int kTiles>
__device__ __forceinline__ void next_row(Accumulators<kTiles> (&sums)[2]) {
#pragma unroll
  for (int j = 0; j < kPoolSteps; ++j)
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sums[0][j][tile][i] = sums[1][j][tile][i];
        sums[1][j][tile][i] = 0.0f;
      }
}

template <class Shape, class Source, class Side, class Sink>
__global__ void __launch_bounds__(kWalkThreads, 1)
    residual_convolution_kernel(const __grid_constant__ Source source,
                                const __grid_constant__ Side side,
                                const __grid_constant__ Sink sink,
                                const __grid_constant__ ConvolutionPlan plan) {
  constexpr bool kHasSide = Shape::kSide > 0;
  constexpr int kTiles = Shape::kTiles;
  using SourceFill = RowFill<Source, Shape::kRoom, kWalkThreads>;
  using SideRows = std::conditional_t<kHasSide, Side, Source>;
  using SideFill = RowFill<SideRows, Shape::kRoom, kWalkThreads>;
  SPARSE_AASIST_DYNAMIC_SHARED(char, rooms);
  const int32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int32_t warp_column = warp % Shape::kWarpColumns;
  const int32_t warp_time = warp / Shape::kWarpColumns;
  const int32_t warp_steps = warp_time * kWarpSteps;
  // Where making a row takes long, half of the warps do so before they multiply
  // and half of them afterwards, so that both go on at the same time. Copies
  // would rather wait for memory while they multiply.
  const bool early = Source::kComputes && warp < kWalkThreads / 64;
  char* const side_rooms = rooms + 2 * SourceFill::kBytes;

  HeldWeights<kTiles, 2> weights[Shape::kSource / 16];
#pragma unroll
  for (int k16 = 0; k16 < Shape::kSource / 16; ++k16)
    load_weights<Shape, Shape::kSource, 2>(plan.weights, warp_column, k16,
                                           weights[k16]);
  const Walk& walk = plan.walk;
  SourceFill fill(source, walk.source_rows);
  const SideRows* side_rows;
  if constexpr (kHasSide)
    side_rows = &side;
  else
    side_rows = &source;
  SideFill side_fill(*side_rows, walk.rows);
  constexpr int kOf = 2 / kTiles;
  typename Sink::Lane state =
      sink.lane(warp_column / kOf * 16 + lane % 4 * 4 + warp_column % kOf * 2);

  for (int32_t index = blockIdx.x; index < walk.items(); index += gridDim.x) {
    const Walk::Item item = walk.item(index, Shape::kSteps);
    Accumulators<kTiles> sums[2] = {};
    __syncthreads();  // the item before has read its last row
    const auto fetch = [&](int32_t row) {
      if (row > item.end)
        return;
      fill.fetch({item.clip, row + walk.shift, item.first - 1}, walk.steps);
      if constexpr (kHasSide)
        side_fill.fetch({item.clip, row, item.first - 1}, walk.steps);
    };
    const auto store = [&](int32_t row) {
      if (row > item.end)
        return;
      const int32_t slot = row % 2;
      fill.store(walk.steps, rooms + slot * SourceFill::kBytes);
      if constexpr (kHasSide)
        side_fill.store(walk.steps, side_rooms + slot * SideFill::kBytes);
    };
    fetch(item.begin);
    store(item.begin);
    if (early)
      fetch(item.begin + 1);
    for (int32_t row = item.begin; row <= item.end; ++row) {
      __syncthreads();
      if (early)
        store(row + 1);
      else
        fetch(row + 1);
      const int32_t slot = row % 2;
      const char* const room =
          rooms + slot * SourceFill::kBytes + warp_steps * SourceFill::kStride;
#pragma unroll
      for (int k16 = 0; k16 < Shape::kSource / 16; ++k16)
        multiply_row<kTiles, 2>(sums, room, SourceFill::kStride, k16,
                                weights[k16]);
      if constexpr (kHasSide) {
        const char* const side_room = side_rooms + slot * SideFill::kBytes +
                                      warp_steps * SideFill::kStride;
// One after the other, for registers are scarce.
#pragma unroll 1
        for (int k16 = 0; k16 < Shape::kSide / 16; ++k16) {
          // Read anew for every row: they are few.
          HeldWeights<kTiles, 1> side_weights;
          load_weights<Shape, Shape::kSide, 1>(plan.side_weights, warp_column,
                                               k16, side_weights);
          multiply_row<kTiles, 1>(sums, side_room, SideFill::kStride, k16,
                                  side_weights);
        }
      }
      const SinkAt at = {item.clip, row - 1, item.first + warp_steps, lane / 4,
                         item.past};
      typename Sink::Fetched fetched;
      if (row > item.begin)
        sink.fetch(state, at, fetched);
      if (early)
        fetch(row + 2);
      else
        store(row + 1);
      if (row > item.begin)
        sink.take(state, at, fetched, sums[0]);
      next_row(sums);
    }
  }
  sink.finish(state, blockIdx.x * Shape::kWarpTimes + warp_time);
}

template <class Shape, class Source, class Side, class Sink>
const char* launch_convolution(const Source& source,
                               const Side& side,
                               const Sink& sink,
                               const ConvolutionPlan& plan,
                               void* stream) {
  size_t bytes = 2 * RowFill<Source, Shape::kRoom, kWalkThreads>::kBytes;
  if constexpr (Shape::kSide > 0)
    bytes += 2 * RowFill<Side, Shape::kRoom, kWalkThreads>::kBytes;
  const auto kernel = &residual_convolution_kernel<Shape, Source, Side, Sink>;
  if (const char* error = allow_dynamic_shared(kernel, bytes))
    return error;
  return SPARSE_AASIST_LAUNCH(kernel, convolution_blocks(plan.walk),
                              kWalkThreads, bytes, stream, source, side, sink,
                              plan);
}

}  // namespace sparse_aasist
