// Scratch of the forward kernels of residual blocks in bfloat16, and the rows
// that they walk down.
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
  constexpr int64_t kSteps = kMostSteps + kInputHalo + kTapHalo;
  const bool is_first = params.inputs == 1;
  TileShelf shelf(base);
  WalkScratch s;
  for (int i = 0; i < kInputRing; ++i) {
    s.input[i] = shelf.take<uint16_t>(is_first ? 0 : kSteps * params.inputs);
    s.first[i] = shelf.take<float>(is_first ? kSteps : 0);
  }
  for (int i = 0; i < kRing; ++i)
    s.middle[i] = shelf.take<uint16_t>(kSteps * params.outputs);
  s.stored = shelf.take<uint16_t>(kSteps * params.outputs);
  s.sums1 = shelf.take<float>(kSumSize);
  s.sums2 = shelf.take<float>(kSumSize);
  s.bytes = shelf.size();
  return s;
}

// Rows of the input, from kInputHalo steps before the strip on.
struct InputRows {
  const uint16_t* of[kInputRing];
  const float* first[kInputRing];  // of one channel

  void load(const ResidualBfloat16Params& params,
            const Strip& strip,
            const WalkScratch& s,
            int32_t h) {
    const int64_t begin = strip.begin - kInputHalo;
    const int64_t count = strip.covered() + kInputHalo + kTapHalo;
    const int at = h % kInputRing;
    if (params.inputs == 1) {
      load_first(params, strip, h, begin, count, s.first[at]);
      first[at] = s.first[at];
    } else {
      of[at] = steps_of(params.x + input_row(params, strip, h), params.steps,
                        params.inputs, begin, count, s.input[at]);
    }
  }
};

// Zeros where the clip ends, the padding of conv2. Behind the blocks are values
// on which no result depends.
inline void pad_middle(const ResidualBfloat16Params& params,
                       const Strip& strip,
                       uint16_t* middle) {
  const int64_t first = strip.begin - 1, covered = strip.covered();
  const int64_t left = params.steps - first;
  if (first < 0)
    clear(middle, params.outputs);
  if (left < covered)
    clear(middle + left * params.outputs, (covered - left) * params.outputs);
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
