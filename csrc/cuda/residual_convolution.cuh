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

namespace sparse_aasist {

constexpr int kConvolutionThreads = 256;
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

// Row r of the result is made of rows r + shift and r + shift + 1 of the source
// (0 or -1), and of row r of the side source.
struct ConvolutionPlan {
  const uint32_t* weights;  // packed_weights() of both
  const uint32_t* side_weights;
  int64_t batch;
  int32_t steps;
  int32_t source_rows;
  int32_t rows;
  int32_t shift;
  int32_t stretches;  // of time
  int32_t parts;      // of the rows

  SPARSE_AASIST_INLINE int64_t items() const {
    return batch * stretches * parts;
  }
};

// Into how many parts the rows are cut, so that there are enough items, but
// few rows more than needed: each part reads one again.
inline int32_t row_parts(int64_t whole,
                         int32_t rows,
                         int64_t wanted,
                         int32_t least_rows) {
  const int64_t parts = (wanted + whole - 1) / whole;
  const int32_t most = (rows + least_rows - 1) / least_rows;
  return parts < most ? static_cast<int32_t>(parts) : most;
}

inline unsigned bounded_blocks(int64_t blocks, int64_t most) {
  most = most < kMaxBlocks ? most : kMaxBlocks;
  return static_cast<unsigned>(blocks < most ? blocks : most);
}

template <class Shape>
ConvolutionPlan convolution_plan(const ResidualCudaParams& params, bool grows) {
  constexpr int64_t kWantedItems = 528, kLeastRows = 4;
  ConvolutionPlan plan{};
  plan.batch = params.batch;
  plan.steps = static_cast<int32_t>(params.steps);
  plan.source_rows = params.height + (grows ? 0 : 1);
  plan.rows = params.height + (grows ? 1 : 0);
  plan.shift = grows ? -1 : 0;
  plan.stretches = (plan.steps + Shape::kSteps - 1) / Shape::kSteps;
  plan.parts = row_parts(plan.batch * plan.stretches, plan.rows, kWantedItems,
                         kLeastRows);
  return plan;
}

inline unsigned convolution_blocks(const ConvolutionPlan& plan) {
  return bounded_blocks(plan.items(), kMostConvolutionBlocks);
}

// Fragments of weights: [tap in height][tap in time][16 inputs][16
// columns][lane] in the order of tensor_core.cuh's b, for two tiles of 8
// columns. Columns are dealt so that a lane's four results are neighbours.
struct WeightsToPack {
  const float* weight;  // (outputs, inputs, height, 3); null: nothing
  int32_t outputs;
  int32_t inputs;
  int32_t height;
  bool mirrored;  // for the gradient: outputs and inputs, and both directions
                  // of the taps, change places

  SPARSE_AASIST_INLINE static int64_t padded(int32_t width) {
    return (width + 15) / 16 * 16;
  }
  // In uint32_t.
  SPARSE_AASIST_INLINE int64_t size() const {
    return weight == nullptr
               ? 0
               : 3 * height * padded(outputs) * padded(inputs) / 2;
  }
};

constexpr int kMostPacked = 3;
struct PackPlan {
  WeightsToPack of[kMostPacked];
  uint32_t* to;  // one after the other
};

__device__ inline float packed_entry(const WeightsToPack& of,
                                     int32_t high,
                                     int32_t time,
                                     int32_t k,
                                     int32_t column) {
  if (of.mirrored) {
    high = of.height - 1 - high;
    time = 2 - time;
  }
  const int32_t output = of.mirrored ? k : column;
  const int32_t input = of.mirrored ? column : k;
  if (output >= of.outputs || input >= of.inputs)
    return 0.0f;
  return of
      .weight[((output * of.inputs + input) * of.height + high) * 3 + time];
}

static __global__ void residual_pack_kernel(
    const __grid_constant__ PackPlan plan) {
  uint32_t* to = plan.to;
  for (const WeightsToPack& of : plan.of) {
    const int32_t size = static_cast<int32_t>(of.size());
    if (size == 0)
      continue;
    const int32_t source = of.mirrored ? of.outputs : of.inputs;
    const int32_t columns = of.mirrored ? of.inputs : of.outputs;
    const int32_t ks = (source + 15) / 16, groups = (columns + 15) / 16;
    for (int32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < size;
         i += gridDim.x * blockDim.x) {
      const int32_t half = i % 2, tile = i / 2 % 2, lane = i / 4 % 32;
      int32_t rest = i / 128;
      const int32_t group = rest % groups;
      rest /= groups;
      const int32_t k16 = rest % ks;
      rest /= ks;
      const int32_t g = lane / 4, t = lane % 4;
      const int32_t column = group * 16 + g / 2 * 4 + tile * 2 + g % 2;
      const int32_t k = k16 * 16 + half * 8 + 2 * t;
      to[i] =
          pack_bfloat16(packed_entry(of, rest / 3, rest % 3, k, column),
                        packed_entry(of, rest / 3, rest % 3, k + 1, column));
    }
    to += size;
  }
}

inline const char* pack_weights(const PackPlan& plan, void* stream) {
  int64_t most = 0;
  for (const WeightsToPack& of : plan.of)
    most = of.size() > most ? of.size() : most;
  return SPARSE_AASIST_LAUNCH(residual_pack_kernel,
                              bounded_blocks((most + 255) / 256, kMaxBlocks),
                              256, 0, stream, plan);
}

// No side source.
struct NoRows {
  static constexpr int kChannels = 0;
};

__device__ __forceinline__ int32_t least(int32_t a, int32_t b) {
  return a < b ? a : b;
}

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
__device__ __forceinline__ void take(const Accumulators<kTiles>& sums,
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
    const uint32_t (&weights)[kHigh][3][2 * kTiles]) {
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

template <class Shape, int kWidth, int kHigh>
struct HeldWeights {
  static constexpr int kSteps16 = kWidth / 16;
  uint32_t held[kSteps16][kHigh][3][2 * Shape::kTiles];

  __device__ void load(const uint32_t* packed, int32_t warp_column) {
    constexpr int kGroups = Shape::kOutputs / 16;
    // A group's 16 columns are two tiles, of one warp or of two.
    constexpr int kOf = 2 / Shape::kTiles;
    const uint32_t* const own =
        packed + (warp_column / kOf * 32 + threadIdx.x % 32) * 4 +
        warp_column % kOf * 2;
#pragma unroll
    for (int high = 0; high < kHigh; ++high)
#pragma unroll
      for (int tap = 0; tap < 3; ++tap)
#pragma unroll
        for (int k16 = 0; k16 < kSteps16; ++k16) {
          const int index = ((high * 3 + tap) * kSteps16 + k16) * kGroups;
          const auto loaded =
              *reinterpret_cast<const Channels<4 * Shape::kTiles>*>(
                  own + index * 128);
#pragma unroll
          for (int i = 0; i < 2 * Shape::kTiles; ++i)
            held[k16][high][tap][i] = loaded.pairs[i];
        }
  }
};

template <class Shape, class Source, class Side, class Sink>
__global__ void __launch_bounds__(kConvolutionThreads, 1)
    residual_convolution_kernel(const __grid_constant__ Source source,
                                const __grid_constant__ Side side,
                                const __grid_constant__ Sink sink,
                                const __grid_constant__ ConvolutionPlan plan) {
  constexpr bool kHasSide = Shape::kSide > 0;
  constexpr int kTiles = Shape::kTiles;
  using SourceFill = RowFill<Source, Shape::kRoom, kConvolutionThreads>;
  using SideRows = std::conditional_t<kHasSide, Side, Source>;
  using SideFill = RowFill<SideRows, Shape::kRoom, kConvolutionThreads>;
  SPARSE_AASIST_DYNAMIC_SHARED(char, rooms);
  const int32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int32_t warp_column = warp % Shape::kWarpColumns;
  const int32_t warp_time = warp / Shape::kWarpColumns;
  const int32_t warp_steps = warp_time * kWarpSteps;
  // Where making a row takes long, half of the warps do so before they multiply
  // and half of them afterwards, so that both go on at the same time. Copies
  // would rather wait for memory while they multiply.
  const bool early = Source::kComputes && warp < kConvolutionThreads / 64;
  char* const side_rooms = rooms + 2 * SourceFill::kBytes;

  HeldWeights<Shape, Shape::kSource, 2> weights;
  weights.load(plan.weights, warp_column);
  SourceFill fill(source, plan.source_rows);
  const SideRows* side_rows;
  if constexpr (kHasSide)
    side_rows = &side;
  else
    side_rows = &source;
  SideFill side_fill(*side_rows, plan.rows);
  constexpr int kOf = 2 / kTiles;
  typename Sink::Lane state =
      sink.lane(warp_column / kOf * 16 + lane % 4 * 4 + warp_column % kOf * 2);

  for (int64_t item = blockIdx.x; item < plan.items(); item += gridDim.x) {
    const int32_t part = static_cast<int32_t>(item % plan.parts);
    const int64_t whole = item / plan.parts;
    const int32_t clip = static_cast<int32_t>(whole / plan.stretches);
    const int32_t first =
        static_cast<int32_t>(whole % plan.stretches) * Shape::kSteps;
    const int32_t past = least(first + Shape::kSteps, plan.steps);
    const int32_t begin = plan.rows * part / plan.parts;
    const int32_t end = plan.rows * (part + 1) / plan.parts;
    Accumulators<kTiles> sums[2] = {};
    __syncthreads();  // the item before has read its last row
    const auto fetch = [&](int32_t row) {
      if (row > end)
        return;
      fill.fetch(clip, row + plan.shift, first - 1, plan.steps);
      if constexpr (kHasSide)
        side_fill.fetch(clip, row, first - 1, plan.steps);
    };
    const auto store = [&](int32_t row) {
      if (row > end)
        return;
      const int32_t slot = (row - begin) % 2;
      fill.store(rooms + slot * SourceFill::kBytes);
      if constexpr (kHasSide)
        side_fill.store(side_rooms + slot * SideFill::kBytes);
    };
    fetch(begin);
    store(begin);
    if (early)
      fetch(begin + 1);
    for (int32_t row = begin; row <= end; ++row) {
      __syncthreads();
      if (early)
        store(row + 1);
      else
        fetch(row + 1);
      const int32_t slot = (row - begin) % 2;
      const char* const room =
          rooms + slot * SourceFill::kBytes + warp_steps * SourceFill::kStride;
#pragma unroll
      for (int k16 = 0; k16 < Shape::kSource / 16; ++k16)
        multiply_row<kTiles, 2>(sums, room, SourceFill::kStride, k16,
                                weights.held[k16]);
      if constexpr (kHasSide) {
        const char* const side_room = side_rooms + slot * SideFill::kBytes +
                                      warp_steps * SideFill::kStride;
        // Read anew for every row: they are few, and registers are scarce.
        HeldWeights<Shape, Shape::kSide, 1> side_weights;
        side_weights.load(plan.side_weights, warp_column);
#pragma unroll
        for (int k16 = 0; k16 < Shape::kSide / 16; ++k16)
          multiply_row<kTiles, 1>(sums, side_room, SideFill::kStride, k16,
                                  side_weights.held[k16]);
      }
      const SinkAt at = {clip, row - 1, first + warp_steps, lane / 4, past};
      typename Sink::Fetched fetched;
      if (row > begin)
        sink.fetch(state, at, fetched);
      if (early)
        fetch(row + 2);
      else
        store(row + 1);
      if (row > begin)
        sink.take(state, at, fetched, sums[0]);
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
  }
  sink.finish(state, blockIdx.x * Shape::kWarpTimes + warp_time);
}

template <class Shape, class Source, class Side, class Sink>
const char* launch_convolution(const Source& source,
                               const Side& side,
                               const Sink& sink,
                               const ConvolutionPlan& plan,
                               void* stream) {
  size_t bytes = 2 * RowFill<Source, Shape::kRoom, kConvolutionThreads>::kBytes;
  if constexpr (Shape::kSide > 0)
    bytes += 2 * RowFill<Side, Shape::kRoom, kConvolutionThreads>::kBytes;
  const auto kernel = &residual_convolution_kernel<Shape, Source, Side, Sink>;
  if (const char* error = allow_dynamic_shared(kernel, bytes))
    return error;
  return SPARSE_AASIST_LAUNCH(kernel, convolution_blocks(plan),
                              kConvolutionThreads, bytes, stream, source, side,
                              sink, plan);
}

// Sums over a lane's results, of four channels: two kinds. A warp adds those of
// its lanes and writes row `index` of partials (rows, 2, channels).
struct ChannelSums {
  float sums[2][4] = {};

  __device__ void add(int channel, float a, float b) {
    sums[0][channel] += a;
    sums[1][channel] += b;
  }

  __device__ void finish(float* partials,
                         int64_t index,
                         int32_t channel,
                         int32_t channels) {
#pragma unroll
    for (int kind = 0; kind < 2; ++kind)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float sum = sums[kind][i];
        for (int lanes = 4; lanes < 32; lanes *= 2)
          sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
        if (threadIdx.x % 32 < 4)
          partials[(2 * index + kind) * channels + channel + i] = sum;
      }
  }
};

}  // namespace sparse_aasist
