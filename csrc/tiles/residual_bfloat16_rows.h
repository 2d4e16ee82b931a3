// What the forward kernels of residual blocks in bfloat16 share: packed
// weights, the two ways to the middle, and the pool.
#pragma once

#include <cstdint>

#include "residual_block_bfloat16.h"
#include "tiles/tile_convolution.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {

static_assert(kMostSteps % kSumSteps == 0);
constexpr int64_t kMostBlocks = kMostSteps / kSumSteps;
constexpr int32_t kMostWidth = 64;

// Rows of bfloat16 on a shelf of floats.
inline uint16_t* take_halves(Shelf& shelf, int64_t size) {
  return reinterpret_cast<uint16_t*>(shelf.take((size + 1) / 2));
}

// A block's weights in `packed`.
struct TilePlan {
  PackedTiles conv1;  // empty with one input channel
  PackedTiles conv2;
  PackedTiles shortcut;  // with equal widths an identity, of one tap
  float* start1;         // (outputs), the bias of conv1
  float* start2;         // those of conv2 and the shortcut, added
  int64_t size;
};

inline TilePlan tile_plan(const ResidualBfloat16Params& params) {
  const bool tiles = params.inputs > 1;
  const int32_t inputs = tiles ? params.inputs : 0, outputs = params.outputs;
  Shelf shelf(reinterpret_cast<float*>(params.packed));
  TilePlan plan;
  plan.conv1 = {nullptr, 2, inputs, outputs};
  plan.conv2 = {nullptr, 2, outputs, outputs};
  plan.shortcut = {nullptr, 1, inputs, outputs};
  plan.conv1.weight = take_halves(shelf, plan.conv1.size());
  plan.conv2.weight = take_halves(shelf, plan.conv2.size());
  plan.shortcut.weight = take_halves(shelf, plan.shortcut.size());
  plan.start1 = shelf.take(outputs);
  plan.start2 = shelf.take(outputs);
  plan.size = shelf.size();
  return plan;
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

inline void pack_tiles(const ResidualBfloat16Params& params) {
  const TilePlan plan = tile_plan(params);
  const int32_t inputs = params.inputs, outputs = params.outputs;
  const bool has_shortcut = params.shortcut.weight != nullptr;
  for (int32_t o = 0; o < outputs; ++o) {
    plan.start1[o] = params.conv1.bias[o];
    plan.start2[o] =
        params.conv2.bias[o] + (has_shortcut ? params.shortcut.bias[o] : 0);
  }
  pack(forward_view(params.conv2, outputs, outputs, 2), plan.conv2);
  if (inputs == 1)
    return;
  pack(forward_view(params.conv1, inputs, outputs, 2), plan.conv1);
  if (has_shortcut)
    pack(forward_view(params.shortcut, inputs, outputs, 1), plan.shortcut);
  else
    pack_identity(plan.shortcut.weight);
}

// What conv2's sums of `output` take from the input, a row that begins a step
// before the strip.
inline TileTerm shortcut_term(const ResidualBfloat16Params& params,
                              const TilePlan& plan,
                              const uint16_t* row,
                              int64_t output) {
  if (params.shortcut.weight != nullptr)
    return term_of(plan.shortcut, row, output, 0);
  return {row + params.inputs + output, plan.shortcut.weight, params.inputs, 1,
          params.inputs - kTileDepth};
}

// The norm in units of SELU's functions.
struct ScaledNorm {
  float scale[kMostWidth];
  float shift[kMostWidth];
};

inline ScaledNorm scaled_norm(const ResidualBfloat16Params& params) {
  ScaledNorm norm;
  for (int32_t o = 0; o < params.outputs; ++o) {
    norm.scale[o] = params.affine[o] * kLogTwoE;
    norm.shift[o] = params.affine[params.outputs + o] * kLogTwoE;
  }
  return norm;
}

// conv1 of one input channel, by vector: (kFirstOutputs, 2, kTaps) weights.
constexpr int32_t kFirstOutputs = 32;
constexpr int kFirstTaps = 2 * kTaps;
constexpr int kFirstVectors = kFirstOutputs / kLanes<float>;

// Of a vector of outputs.
struct FirstTaps {
  Vector<float> weight[kFirstTaps];
  Vector<float> start;

  // Of several steps; rows above and at the middle's begin at the first tap.
  template <int kCount>
  void apply(const float* above,
             const float* own,
             Vector<float> (&to)[kCount]) const {
    for (int i = 0; i < kCount; ++i)
      to[i] = start;
    for (int tap = 0; tap < kTaps; ++tap)
      for (int i = 0; i < kCount; ++i)
        to[i] += weight[tap] * splat(above[tap + i]);
    for (int tap = 0; tap < kTaps; ++tap)
      for (int i = 0; i < kCount; ++i)
        to[i] += weight[kTaps + tap] * splat(own[tap + i]);
  }
};

struct FirstConvolution {
  FirstTaps of[kFirstVectors];
};

// Times `scale`, plus `shift`, of each output.
inline FirstConvolution first_convolution(const ResidualBfloat16Params& params,
                                          const float* scale,
                                          const float* shift) {
  FirstConvolution of;
  for (int v = 0; v < kFirstVectors; ++v)
    for (int lane = 0; lane < kLanes<float>; ++lane) {
      const int o = v * kLanes<float> + lane;
      for (int tap = 0; tap < kFirstTaps; ++tap)
        of.of[v].weight[tap][lane] =
            params.conv1.weight[o * kFirstTaps + tap] * scale[o];
      of.of[v].start[lane] = shift[o];
    }
  return of;
}

// Its shortcut: weights are rounded, biases left to conv2.
struct FirstShortcut {
  Vector<float> weight[kFirstVectors][kTaps];

  template <int kCount>
  void add(int v, const float* steps, Vector<float> (&sums)[kCount]) const {
    for (int tap = 0; tap < kTaps; ++tap)
      for (int i = 0; i < kCount; ++i)
        sums[i] += weight[v][tap] * splat(steps[tap + i]);
  }
};

inline FirstShortcut first_shortcut(const ResidualBfloat16Params& params) {
  FirstShortcut of;
  for (int v = 0; v < kFirstVectors; ++v)
    for (int tap = 0; tap < kTaps; ++tap)
      for (int lane = 0; lane < kLanes<float>; ++lane)
        of.weight[v][tap][lane] = float_of(bfloat16_of(
            params.shortcut.weight[(v * kLanes<float> + lane) * kTaps + tap]));
  return of;
}

// Steps of a row as they lie, or copied to `room` with zeros where they end.
inline const uint16_t* steps_of(const uint16_t* row,
                                int64_t steps,
                                int64_t channels,
                                int64_t first,
                                int64_t count,
                                uint16_t* room) {
  if (first >= 0 && first + count <= steps)
    return row + first * channels;
  load_steps(row, steps, channels, first, count, room);
  return room;
}

// load_steps() of one channel, in float32.
inline void load_first(const uint16_t* row,
                       int64_t steps,
                       int64_t first,
                       int64_t count,
                       float* to) {
  const int64_t begin = first < 0 ? -first : 0;
  const int64_t left = steps - first;
  const int64_t end = left < count ? left : count;
  clear(to, begin);
  for (int64_t t = begin; t < end; ++t)
    to[t] = float_of(row[first + t]);
  clear(to + end, count - end);
}

typedef uint8_t ByteVector __attribute__((vector_size(kLanes<float>)));

// The largest of three, NaN if one is.
struct Largest {
  Vector<float> value;
  Vector<int32_t> chosen;
};

inline Vector<float> largest_of(const Vector<float> (&of)[kPoolSteps]) {
  const Vector<float> most = larger(larger(of[0], of[1]), of[2]);
  return (of[0] != of[0]) | (of[1] != of[1]) ? of[0] + of[1] : most;
}

// And which it is: the first of equals.
inline Largest choose_largest(const Vector<float> (&of)[kPoolSteps]) {
  Largest most = {of[0], Vector<int32_t>{}};
  for (int32_t step = 1; step < kPoolSteps; ++step) {
    const Vector<int32_t> better =
        (of[step] > most.value) | (of[step] != of[step]);
    most.value = better ? of[step] : most.value;
    most.chosen = better ? Vector<int32_t>{} + step : most.chosen;
  }
  return most;
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
