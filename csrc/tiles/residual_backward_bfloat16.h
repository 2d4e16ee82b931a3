// What the passes of the gradient of residual_block_training share on a CPU in
// bfloat16: packed weights, and how sums lie.
#pragma once

#include <cstdint>

#include "residual_block_training.h"
#include "tiles/residual_bfloat16_rows.h"
#include "tiles/tile_first_input.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {

// Steps of a strip, and of one to each side, in whole products of gradients:
// of a transposed source, the length of a row.
constexpr int64_t kStripDepth = 5 * kTileDepth;
static_assert(kMostSteps + kTapHalo <= kStripDepth);
static_assert(kFirstColumns * kTileRows >= kMostSteps);

// Of the first input under its taps.
constexpr int64_t kFirstSource = kTileRows * kStripDepth;

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
  int64_t size;  // of `packed`
};

inline BackwardWeights backward_weights(const ResidualBfloat16Params& params) {
  const int32_t inputs = params.inputs, outputs = params.outputs;
  TileShelf shelf(params.packed);
  BackwardWeights weights{};
  weights.conv2 = take_tiles(shelf, 2, outputs, outputs);
  if (inputs == 1) {
    weights.first = shelf.take<uint16_t>(3 * kFirstSize);
  } else {
    weights.conv1 = take_tiles(shelf, 2, outputs, inputs);
    if (params.shortcut.weight != nullptr)
      weights.shortcut = take_tiles(shelf, 1, outputs, inputs);
  }
  weights.size = shelf.size() / static_cast<int64_t>(sizeof(*params.packed));
  return weights;
}

// Steps of a strip and outputs of which sums are at hand.
struct SumBlock {
  int64_t step;
  int64_t end;  // of the strip
  int output;
};

// Products of gradients, from a step before the strip to one behind it.
inline int64_t depth_of(const Strip& strip) {
  return padded_to(strip.count + kTapHalo, kTileDepth);
}

// A number that a generic function may compute with.
template <int value>
struct Number {
  static constexpr int kValue = value;
};

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
