// What forward and backward of residual_block_training share on a CPU.
#pragma once

#include <cstdint>

#include "residual_block_training.h"
#include "residual_rows.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {

// Steps of a task before they are pooled. They part all steps of a clip among
// its tasks: those behind the last pool belong to the last one.
struct TaskSteps {
  int64_t clip;
  int64_t begin;
  int64_t count;
  int64_t tiles;
  int64_t pool_begin;
  int64_t pool_count;

  int64_t covered() const { return tiles * kTileSteps; }
};

// A task is computed with one step more to each side in places, and pools leave
// up to two behind.
static_assert(kMostPooled * kPoolSteps + 2 <= kMostSteps);

inline TaskSteps task_steps(const ResidualTrainingParams& params,
                            int64_t task) {
  const ResidualTasks tasks = residual_tasks(params.steps);
  const int64_t pooled = params.steps / kPoolSteps;
  TaskSteps of;
  of.clip = task / tasks.per_clip;
  of.pool_begin = task % tasks.per_clip * tasks.pooled;
  const int64_t left = pooled - of.pool_begin;
  of.pool_count = left < tasks.pooled ? left : tasks.pooled;
  of.begin = of.pool_begin * kPoolSteps;
  of.count = (left > tasks.pooled ? (of.pool_begin + tasks.pooled) * kPoolSteps
                                  : params.steps) -
             of.begin;
  of.tiles = padded_to(of.count, kGroupTiles * kTileSteps) / kTileSteps;
  return of;
}

// Row `h` of a clip in a tensor of `rows` rows.
inline int64_t row_offset(const ResidualTrainingParams& params,
                          int64_t clip,
                          int64_t rows,
                          int64_t h,
                          int64_t channels) {
  return (clip * rows + h) * params.steps * channels;
}

// value * scale + shift of each channel of the middle is what SELU takes.
struct MiddleAffine {
  float scale[kMaxChannels];
  float shift[kMaxChannels];
  float mean[kMaxChannels];
  float inverse[kMaxChannels];  // of the deviation
};

inline float inverse_deviation(const ResidualTrainingParams& params,
                               int64_t o) {
  return static_cast<float>(1 /
                            __builtin_sqrt(params.variance[o] + params.eps));
}

inline MiddleAffine middle_affine(const ResidualTrainingParams& params) {
  MiddleAffine affine{};
  for (int32_t o = 0; o < params.outputs; ++o) {
    affine.mean[o] = params.mean[o];
    affine.inverse[o] = inverse_deviation(params, o);
    affine.scale[o] = params.norm_weight[o] * affine.inverse[o];
    affine.shift[o] = params.norm_bias[o] - params.mean[o] * affine.scale[o];
  }
  return affine;
}

// SELU of the normalised middle, of rows from `first` on; zeros outside of the
// clip, the padding of conv2. `raw` may be `to`.
inline void activate(const ResidualTrainingParams& params,
                     const MiddleAffine& affine,
                     int64_t first,
                     int64_t count,
                     int64_t width,
                     const float* raw,
                     float* to) {
  const int64_t begin = first < 0 ? -first : 0;
  const int64_t left = params.steps - first;
  const int64_t end = left < count ? left : count;
  clear(to, begin * width);
  for (int64_t c = 0; c < width; c += kLanes<float>) {
    const Vector<float> scale = load(affine.scale + c);
    const Vector<float> shift = load(affine.shift + c);
    for (int64_t t = begin; t < end; ++t)
      store<float>(to + t * width + c,
                   selu_of<float>(load(raw + t * width + c) * scale + shift));
  }
  clear(to + end * width, (count - end) * width);
}

// The sums of a row, over steps, go to totals in float64: each a vector of
// channels.
template <class Value>
inline void add_row_sums(int64_t width,
                         int64_t count,
                         int64_t channels,
                         double* totals,
                         const Value& value) {
  for (int64_t c = 0; c < width; c += kLanes<float>) {
    Vector<float> sum{};
    for (int64_t t = 0; t < count; ++t)
      sum += value(t, c);
    for (int lane = 0; lane < kLanes<float> && c + lane < channels; ++lane)
      totals[c + lane] += static_cast<double>(sum[lane]);
  }
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
