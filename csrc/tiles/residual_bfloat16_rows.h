// What forward and backward kernels of residual blocks in bfloat16 share: tasks
// as strips of time, rows of them, and what becomes of one input channel.
#pragma once

#include <cstdint>

#include "residual_block_bfloat16.h"
#include "tiles/tile_convolution.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {

constexpr int32_t kMostWidth = 64;

// A task. Its steps part all of a clip among the tasks: those behind the last
// pool belong to the last one.
struct Strip {
  int64_t clip;
  int64_t begin;
  int64_t count;
  int64_t first_pool;
  int64_t pools;

  // In whole blocks of sums: all steps, and one to each side of the pools.
  int64_t covered() const {
    return padded_to(pools * kPoolSteps + 2, kSumSteps);
  }
};

static_assert(kMostSteps % kSumSteps == 0);
static_assert(kMostPooled * kPoolSteps + 2 <= kMostSteps);

inline Strip strip_of(const ResidualBfloat16Params& params, int64_t task) {
  const ResidualTasks tasks = residual_tasks(params.steps);
  Strip strip;
  strip.clip = task / tasks.per_clip;
  strip.first_pool = task % tasks.per_clip * tasks.pooled;
  strip.begin = strip.first_pool * kPoolSteps;
  const int64_t left = params.steps / kPoolSteps - strip.first_pool;
  const bool is_last = left <= tasks.pooled;
  strip.pools = is_last ? left : tasks.pooled;
  strip.count =
      is_last ? params.steps - strip.begin : tasks.pooled * kPoolSteps;
  return strip;
}

// Where row `h` of a strip's clip begins in a tensor of `rows` rows.
inline int64_t row_at(const ResidualBfloat16Params& params,
                      const Strip& strip,
                      int64_t rows,
                      int64_t h,
                      int64_t channels) {
  return (strip.clip * rows + h) * params.steps * channels;
}

// Of x, and of the middle.
inline int64_t input_row(const ResidualBfloat16Params& params,
                         const Strip& strip,
                         int64_t h) {
  return row_at(params, strip, params.height, h, params.inputs);
}
inline int64_t middle_row(const ResidualBfloat16Params& params,
                          const Strip& strip,
                          int64_t h) {
  return row_at(params, strip, params.height + 1, h, params.outputs);
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

// Steps [first, first + count) of row `h` of x, of one channel, in float32;
// zeros stand outside of the image.
inline void load_first(const ResidualBfloat16Params& params,
                       const Strip& strip,
                       int64_t h,
                       int64_t first,
                       int64_t count,
                       float* to) {
  if (h < 0 || h >= params.height) {
    clear(to, count);
    return;
  }
  const uint16_t* const row = params.x + input_row(params, strip, h);
  const int64_t begin = first < 0 ? -first : 0;
  const int64_t left = params.steps - first;
  const int64_t end = left < count ? left : count;
  clear(to, begin);
  for (int64_t t = begin; t < end; ++t)
    to[t] = float_of(row[first + t]);
  clear(to + end, count - end);
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

// With its bias, then times `scale`, plus `shift`, of each output; null: as it
// is.
inline FirstConvolution first_convolution(const Convolution& conv1,
                                          const float* scale,
                                          const float* shift) {
  FirstConvolution first;
  for (int32_t o = 0; o < kFirstOutputs; ++o) {
    FirstTaps& taps = first.of[o / kLanes<float>];
    const int lane = o % kLanes<float>;
    const float factor = scale == nullptr ? 1 : scale[o];
    for (int tap = 0; tap < kFirstTaps; ++tap)
      taps.weight[tap][lane] = conv1.weight[o * kFirstTaps + tap] * factor;
    taps.start[lane] =
        conv1.bias[o] * factor + (shift == nullptr ? 0 : shift[o]);
  }
  return first;
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
