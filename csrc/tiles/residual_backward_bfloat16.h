// What the passes of the gradient of residual_block_training share on a CPU in
// bfloat16: strips of time, how sums lie, and rows of the gradient of y.
#pragma once

#include <cstdint>

#include "residual_block_bfloat16.h"
#include "residual_block_training.h"
#include "tiles/tile_convolution.h"
#include "tiles/tile_first_input.h"
#include "tiles/tile_gradient.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {

// A strip in whole blocks of sums, and in whole products of gradients.
constexpr int64_t kStripSteps = 3 * kSumSteps;
constexpr int64_t kStripBlocks = 5;
constexpr int64_t kStripDepth = kStripBlocks * kBlockSteps;
static_assert(kMostPooled * kPoolSteps + 2 <= kStripSteps);
static_assert(kFirstColumns * kTileRows >= kStripSteps);
static_assert(kStripSteps + kTapHalo <= kStripDepth);
// Of a row of a transposed source.
constexpr int64_t kSourceRow = kStripDepth;
// And of the first input under its taps.
constexpr int64_t kFirstSource = kTileRows * kSourceRow;

// A task. Together they cover all steps of a clip: those behind the last pool
// belong to the last one.
struct GradientStrip {
  int64_t clip;
  int64_t begin;
  int64_t count;
  int64_t pooled;  // steps of the result
};

inline GradientStrip strip_of(const ResidualBfloat16Params& params,
                              int64_t task) {
  const ResidualTasks tasks = residual_tasks(params.steps);
  const int64_t first = task % tasks.per_clip * tasks.pooled;
  const int64_t left = params.steps / kPoolSteps - first;
  const bool is_last = left <= tasks.pooled;
  const int64_t begin = first * kPoolSteps;
  return {task / tasks.per_clip, begin,
          is_last ? params.steps - begin : tasks.pooled * kPoolSteps,
          is_last ? left : tasks.pooled};
}

// Where row `h` of a tensor of `rows` rows of `channels` begins.
inline int64_t row_at(const ResidualBfloat16Params& params,
                      const GradientStrip& strip,
                      int64_t rows,
                      int64_t h,
                      int64_t channels) {
  return (strip.clip * rows + h) * params.steps * channels;
}

// Sums of a group over all its steps: of the gradient of the normalised middle,
// of that times the middle's distance from its mean, of the gradient of y.
enum GradientSum { kSumDnormal, kSumCentred, kSumDout, kBackwardSums };

// A group's partials: sums (kBackwardSums, outputs), then gradients of weights
// as tile_gradient.h adds them up.
struct GradientPartials {
  float* sums;
  float* conv1;
  float* conv2;
  float* shortcut;
  int64_t size;
};

inline GradientPartials partials_of(const ResidualBfloat16Params& params,
                                    float* partials,
                                    int64_t group) {
  const int64_t outputs = params.outputs;
  // One input lies as a tile's rows, of which it uses the taps.
  const bool is_first = params.inputs == 1;
  const int64_t height =
      outputs * (is_first ? kTileRows : kTaps * params.inputs);
  const int64_t conv1 = kBackwardSums * outputs;
  const int64_t conv2 = conv1 + (is_first ? height : 2 * height);
  const int64_t shortcut = conv2 + 2 * kTaps * outputs * outputs;
  const int64_t size =
      shortcut + (params.shortcut.weight != nullptr ? height : 0);
  if (partials == nullptr)
    return {nullptr, nullptr, nullptr, nullptr, size};
  float* const own = partials + group * size;
  return {own, own + conv1, own + conv2, own + shortcut, size};
}

// Convolutions from outputs to inputs.
struct BackwardWeights {
  PackedTiles conv2, conv1, shortcut;
  // Of one input (tap in height, then the shortcut, step, tile).
  uint16_t* first;
  int64_t size;
};

inline BackwardWeights backward_weights(const ResidualBfloat16Params& params) {
  uint16_t* const packed = reinterpret_cast<uint16_t*>(params.packed);
  const int32_t inputs = params.inputs, outputs = params.outputs;
  BackwardWeights weights{};
  const auto take = [&](int32_t heights, int32_t to) {
    PackedTiles of{packed == nullptr ? nullptr : packed + weights.size, heights,
                   outputs, to};
    weights.size += of.size();
    return of;
  };
  weights.conv2 = take(2, outputs);
  if (inputs == 1) {
    weights.first = packed == nullptr ? nullptr : packed + weights.size;
    weights.size += 3 * kFirstSize;
    return weights;
  }
  weights.conv1 = take(2, inputs);
  if (params.shortcut.weight != nullptr)
    weights.shortcut = take(1, inputs);
  return weights;
}

// Steps of a strip and outputs of which sums are at hand.
struct SumBlock {
  int64_t step;
  int64_t end;  // of the strip
  int output;
};

// Products of gradients, from a step before the strip to one behind it.
inline int64_t depth_of(const GradientStrip& strip) {
  return padded_to(strip.count + kTapHalo, kBlockSteps);
}

// Calls run(kInputs, kOutputs), as types, with the widths of a block.
template <class Run>
inline void with_widths(const ResidualBfloat16Params& params, const Run& run) {
  if (params.inputs == 1)
    run(Number<1>{}, Number<32>{});
  else if (params.outputs == 32)
    run(Number<32>{}, Number<32>{});
  else if (params.inputs == 32)
    run(Number<32>{}, Number<64>{});
  else
    run(Number<64>{}, Number<64>{});
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
