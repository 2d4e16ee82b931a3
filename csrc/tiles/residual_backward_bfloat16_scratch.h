// Scratch of the passes of the gradient of residual_block_training on a CPU in
// bfloat16.
#pragma once

#include <cstdint>

#include "tiles/residual_backward_bfloat16.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {

// Arrays of scratch, taken one after the other.
class ScratchRows {
 public:
  explicit ScratchRows(void* base) : base_(reinterpret_cast<uintptr_t>(base)) {}

  template <class T>
  T* take(int64_t count) {
    const uintptr_t at = base_ + static_cast<uintptr_t>(size_);
    size_ += padded_to(count * static_cast<int64_t>(sizeof(T)), kTileBytes);
    return reinterpret_cast<T*>(at);
  }
  StepPairs take_pairs(int64_t channels) {
    return {take<uint16_t>((kStripDepth + 2) * channels),
            take<uint16_t>(kStripDepth * channels)};
  }
  int64_t size() const { return size_; }

 private:
  uintptr_t base_;
  int64_t size_ = 0;
};

// The gradient of y, in rows from three steps before a strip on.
constexpr int64_t kGradRows = kStripSteps + 2 * kPoolSteps;

// x of one channel in float32, in whole vectors.
constexpr int64_t kFirstRow = kStripSteps + 16;
static_assert(kFirstRow >= kStripSteps + 2 * kTapHalo &&
              kFirstRow % kLanes<float> == 0);

// Rows of the gradient begin three steps before the strip, the others
// one.
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
  ScratchRows rows(base);
  MiddleScratch s{};
  for (int i = 0; i < 2; ++i) {
    s.grad[i] = rows.take<uint16_t>(kGradRows * outputs);
    s.pairs[i] = rows.take_pairs(outputs);
    s.input[i] = rows.take<float>(kFirstRow);
  }
  s.active = rows.take<uint16_t>(kStripDepth * outputs);
  s.source = rows.take<uint16_t>(kSourceRow * outputs);
  s.room = rows.take<float>(kSumSize);
  s.size = rows.size();
  return s;
}

// The gradient of the middle, from a step before a strip on.
constexpr int64_t kDrawRows = kStripSteps + kTapHalo;

// Rows of the gradient of y begin three steps before the strip, x in
// float32 two, the others one.
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
  ScratchRows rows(base);
  InputScratch s{};
  s.grad = rows.take<uint16_t>(kGradRows * outputs);
  s.grad_pairs = rows.take_pairs(outputs);
  s.draw_pairs = rows.take_pairs(outputs);
  s.input = rows.take<uint16_t>(kStripDepth * inputs);
  for (int i = 0; i < 2; ++i) {
    s.draw[i] = rows.take<uint16_t>(kDrawRows * outputs);
    s.source[i] = rows.take<uint16_t>(kSourceRow * inputs);
    s.wide[i] = rows.take<float>(kFirstRow);
  }
  s.taps = rows.take<uint16_t>(kFirstSource);
  s.room = rows.take<float>(kSumSize);
  s.size = rows.size();
  return s;
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
