// Strips of time that are pooled, and rows of them in scratch.
#pragma once

#include <cstdint>

#include "tiles/residual_bfloat16_rows.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {

// Rows in use. One of the input is waited for by the pool, too.
constexpr int kRing = 3;
constexpr int kInputRing = kRing + 1;

// A row of the input begins this many steps before the strip, a row of the
// middle half as many.
constexpr int64_t kInputHalo = 2;

// What a task is about.
struct PoolStrip {
  int64_t clip;
  int64_t first;  // pool
  int64_t pools;
  int64_t blocks;  // that cover its steps and one to each side

  int64_t begin() const { return first * kPoolSteps; }
  int64_t covered() const { return blocks * kSumSteps; }
};

inline PoolStrip pool_strip(const ResidualBfloat16Params& params,
                            int64_t task) {
  const ResidualTasks tasks = residual_tasks(params.steps);
  const int64_t pooled = params.steps / kPoolSteps;
  PoolStrip strip;
  strip.clip = task / tasks.per_clip;
  strip.first = task % tasks.per_clip * tasks.pooled;
  const int64_t left = pooled - strip.first;
  strip.pools = left < tasks.pooled ? left : tasks.pooled;
  strip.blocks = padded_to(strip.pools * kPoolSteps + 2, kSumSteps) / kSumSteps;
  return strip;
}

struct WalkScratch {
  uint16_t* input[kInputRing];  // (steps and halo, inputs), unless that is 1
  float* first[kInputRing];     // likewise if it is 1
  uint16_t* middle[kRing];      // (steps and kTapHalo, outputs), after SELU
  uint16_t* stored;             // likewise, before the norm
  float* sums1;
  float* sums2;
  int64_t bytes;
};

inline WalkScratch walk_scratch(const ResidualBfloat16Params& params,
                                void* base) {
  const int64_t steps = kMostSteps + kInputHalo + kTapHalo;
  const bool is_first = params.inputs == 1;
  Shelf shelf(static_cast<float*>(base));
  WalkScratch s;
  for (int i = 0; i < kInputRing; ++i) {
    s.input[i] = take_halves(shelf, is_first ? 0 : steps * params.inputs);
    s.first[i] = shelf.take(is_first ? steps : 0);
  }
  for (int i = 0; i < kRing; ++i)
    s.middle[i] = take_halves(shelf, steps * params.outputs);
  s.stored = take_halves(shelf, steps * params.outputs);
  s.sums1 = shelf.take(kSumSize);
  s.sums2 = shelf.take(kSumSize);
  s.bytes = shelf.size() * static_cast<int64_t>(sizeof(float));
  return s;
}

// Rows of the input, from kInputHalo steps before the strip on.
struct InputRows {
  const uint16_t* of[kInputRing];
  const float* first[kInputRing];

  void load(const ResidualBfloat16Params& params,
            const PoolStrip& strip,
            const WalkScratch& s,
            int32_t h) {
    const int64_t begin = strip.begin() - kInputHalo;
    const int64_t count = strip.covered() + kInputHalo + kTapHalo;
    const uint16_t* const row = params.x + (strip.clip * params.height + h) *
                                               params.steps * params.inputs;
    if (params.inputs == 1) {
      load_first(row, params.steps, begin, count, s.first[h % kInputRing]);
      first[h % kInputRing] = s.first[h % kInputRing];
    } else {
      of[h % kInputRing] = steps_of(row, params.steps, params.inputs, begin,
                                    count, s.input[h % kInputRing]);
    }
  }
};

// Zeros where the clip ends, the padding of conv2. Behind the blocks are values
// on which no result depends.
inline void pad_middle(const ResidualBfloat16Params& params,
                       const PoolStrip& strip,
                       uint16_t* middle) {
  const int64_t first = strip.begin() - 1, covered = strip.covered();
  const int64_t left = params.steps - first;
  if (first < 0)
    clear(middle, params.outputs);
  if (left < covered)
    clear(middle + left * params.outputs, (covered - left) * params.outputs);
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
