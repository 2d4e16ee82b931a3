// What the forward kernels of residual blocks in bfloat16 read: packed weights.
#pragma once

#include <cstdint>

#include "tiles/residual_bfloat16_rows.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {

// A block's weights in `packed`.
struct ForwardWeights {
  PackedTiles conv1;  // empty with one input channel
  PackedTiles conv2;
  PackedTiles shortcut;  // with equal widths an identity, of one tap
  float* start1;         // (outputs), the bias of conv1
  float* start2;         // those of conv2 and the shortcut, added
  int64_t size;          // of `packed`
};

inline ForwardWeights forward_weights(const ResidualBfloat16Params& params) {
  const int32_t outputs = params.outputs;
  const int32_t inputs = params.inputs > 1 ? params.inputs : 0;
  TileShelf shelf(params.packed);
  ForwardWeights weights;
  weights.conv1 = take_tiles(shelf, 2, inputs, outputs);
  weights.conv2 = take_tiles(shelf, 2, outputs, outputs);
  weights.shortcut = take_tiles(shelf, 1, inputs, outputs);
  weights.start1 = shelf.take<float>(outputs);
  weights.start2 = shelf.take<float>(outputs);
  weights.size = shelf.size() / static_cast<int64_t>(sizeof(*params.packed));
  return weights;
}

// A tile product's right side that takes 32 channels as they are.
inline void pack_identity(uint16_t* to) {
  clear(to, 2 * kTileValues);
  for (int channel = 0; channel < kTileDepth; ++channel) {
    const int tile = channel / kTileColumns, column = channel % kTileColumns;
    to[tile * kTileValues + channel / 2 * kTileDepth + 2 * column +
       channel % 2] = bfloat16_of(1);
  }
}

inline void pack_forward(const ResidualBfloat16Params& params) {
  const ForwardWeights weights = forward_weights(params);
  const int32_t inputs = params.inputs, outputs = params.outputs;
  const bool has_shortcut = params.shortcut.weight != nullptr;
  for (int32_t o = 0; o < outputs; ++o) {
    weights.start1[o] = params.conv1.bias[o];
    weights.start2[o] =
        params.conv2.bias[o] + (has_shortcut ? params.shortcut.bias[o] : 0);
  }
  pack(forward_view(params.conv2, outputs, outputs, 2), weights.conv2);
  if (inputs == 1)
    return;
  pack(forward_view(params.conv1, inputs, outputs, 2), weights.conv1);
  if (has_shortcut)
    pack(forward_view(params.shortcut, inputs, outputs, 1), weights.shortcut);
  else
    pack_identity(weights.shortcut.weight);
}

// What conv2's sums of `output` take from the input, a row that begins a step
// before the strip.
inline TileTerm shortcut_term(const ResidualBfloat16Params& params,
                              const ForwardWeights& weights,
                              const uint16_t* row,
                              int64_t output) {
  if (params.shortcut.weight != nullptr)
    return term_of(weights.shortcut, row, output, 0);
  return {row + params.inputs + output, weights.shortcut.weight, params.inputs,
          1, params.inputs - kTileDepth};
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
