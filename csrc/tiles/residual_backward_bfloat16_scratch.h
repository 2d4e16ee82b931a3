// Scratch of the passes of the gradient of residual_block_training on a CPU in
// bfloat16.
#pragma once

#include <cstdint>

#include "tiles/residual_backward_bfloat16.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {

inline StepPairs take_pairs(TileShelf& shelf, int64_t channels) {
  return {shelf.take<uint16_t>((kStripDepth + 2) * channels),
          shelf.take<uint16_t>(kStripDepth * channels)};
}

// The gradient of y, in rows from three steps before a strip on.
constexpr int64_t kGradRows = kMostSteps + 2 * kPoolSteps;

// x of one channel in float32.
constexpr int64_t kFirstRow = kMostSteps + 2 * kTapHalo;

// Rows of the gradient begin three steps before the strip, x in float32 two,
// the others one.
struct MiddleScratch {
  uint16_t* grad[2];
  StepPairs pairs[2];  // of the gradient's steps
  uint16_t* active;    // SELU of the normalised middle
  uint16_t* source;    // the same, transposed
  float* room;
  float* input[2];  // of one channel
  int64_t size;
};

inline MiddleScratch middle_scratch(const ResidualBfloat16Params& params,
                                    void* base) {
  const int64_t outputs = params.outputs;
  TileShelf shelf(base);
  MiddleScratch s{};
  for (int i = 0; i < 2; ++i) {
    s.grad[i] = shelf.take<uint16_t>(kGradRows * outputs);
    s.pairs[i] = take_pairs(shelf, outputs);
    s.input[i] = shelf.take<float>(kFirstRow);
  }
  s.active = shelf.take<uint16_t>(kStripDepth * outputs);
  s.source = shelf.take<uint16_t>(kStripDepth * outputs);
  s.room = shelf.take<float>(kSumSize);
  s.size = shelf.size();
  return s;
}

// The gradient of the middle, from a step before a strip on.
constexpr int64_t kDrawRows = kMostSteps + kTapHalo;

// Rows of the gradient of y begin three steps before the strip, x in float32
// two, the others one.
struct InputScratch {
  uint16_t* grad;
  StepPairs grad_pairs;  // of its steps
  uint16_t* draw[2];     // the gradient of the middle
  StepPairs draw_pairs;
  uint16_t* input;      // x
  uint16_t* source[2];  // the same, transposed
  uint16_t* taps;       // of one channel, by tap
  float* room;
  float* wide[2];  // x of one channel in float32
  int64_t size;
};

inline InputScratch input_scratch(const ResidualBfloat16Params& params,
                                  void* base) {
  const int64_t inputs = params.inputs, outputs = params.outputs;
  TileShelf shelf(base);
  InputScratch s{};
  s.grad = shelf.take<uint16_t>(kGradRows * outputs);
  s.grad_pairs = take_pairs(shelf, outputs);
  s.draw_pairs = take_pairs(shelf, outputs);
  s.input = shelf.take<uint16_t>(kStripDepth * inputs);
  for (int i = 0; i < 2; ++i) {
    s.draw[i] = shelf.take<uint16_t>(kDrawRows * outputs);
    s.source[i] = shelf.take<uint16_t>(kStripDepth * inputs);
    s.wide[i] = shelf.take<float>(kFirstRow);
  }
  s.taps = shelf.take<uint16_t>(kFirstSource);
  s.room = shelf.take<float>(kSumSize);
  s.size = shelf.size();
  return s;
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
