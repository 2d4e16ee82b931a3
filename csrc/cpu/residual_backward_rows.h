// What the passes of the gradient of residual_block_training share on a CPU:
// how weights, scratch and sums lie, and rows of the gradient of y.
#pragma once

#include <cstdint>

#include "residual_training_rows.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {

// Sums of a group, each over all steps: of the gradient of the normalised
// middle, of that times the normalised middle, of the gradient of both
// convolutions' outputs.
enum BackwardSum { kSumDnormal, kSumDscale, kSumDout, kSumDraw };
static_assert(kSumDraw + 1 == kResidualSums);

inline double* sums_of(const ResidualBackwardParams& params, int64_t group) {
  return params.forward.sums +
         group * kResidualSums * sum_width(params.forward);
}

// Gradients of weights in a group's partials: (point, tap in height, input,
// output) in Winograd's domain, else (tap in height, tap and input, output).
struct WeightSums {
  float* of;
  bool winograd;
  int64_t rows;  // inputs, or taps and inputs
  int64_t outputs;
  int32_t heights;

  int64_t matrix() const { return outer_rows(rows) * outputs; }
  int64_t size() const {
    return matrix() * heights * (winograd ? kTilePoints : 1);
  }
  float* at(int64_t point, int32_t height) const {
    return of + (point * heights + height) * matrix();
  }
};

struct Partials {
  WeightSums conv1, conv2, shortcut;
  int64_t size;
};

inline Partials partials_of(const ResidualBackwardParams& params,
                            int64_t group) {
  const Widths widths =
      widths_of(params.forward.inputs, params.forward.outputs);
  const int64_t inputs = widths.inputs, outputs = widths.outputs;
  const bool has_shortcut = params.forward.shortcut.weight != nullptr;
  Partials partials{{nullptr, widths.winograd,
                     widths.winograd ? inputs : kTaps * inputs, outputs, 2},
                    {nullptr, true, outputs, outputs, 2},
                    {nullptr, false, kTaps * inputs, outputs, 1},
                    0};
  partials.size = partials.conv1.size() + partials.conv2.size() +
                  (has_shortcut ? partials.shortcut.size() : 0);
  if (params.partials == nullptr)
    return partials;
  partials.conv1.of = params.partials + group * partials.size;
  partials.conv2.of = partials.conv1.of + partials.conv1.size();
  partials.shortcut.of = partials.conv2.of + partials.conv2.size();
  return partials;
}

struct BackwardPlan {
  Widths widths;
  bool has_shortcut;
  PackedConvolution conv1, conv2, shortcut;  // from outputs to inputs
  // Few inputs, (input, tap in height, tap, output): dot products.
  float* narrow1;
  float* narrow_shortcut;
  int64_t size;
};

inline BackwardPlan backward_plan(const ResidualTrainingParams& params) {
  BackwardPlan plan{};
  plan.widths = widths_of(params.inputs, params.outputs);
  plan.has_shortcut = params.shortcut.weight != nullptr;
  const int64_t outputs = plan.widths.outputs;
  Shelf shelf(params.packed);
  plan.conv2 = take_packed(shelf, 2, outputs, outputs, true);
  if (plan.widths.winograd) {
    const int64_t inputs = padded_to(params.inputs, kBlockOutputs);
    plan.conv1 = take_packed(shelf, 2, outputs, inputs, true);
    plan.shortcut = take_packed(shelf, 1, outputs, inputs, false);
  } else {
    plan.narrow1 = shelf.take(params.inputs * 2 * kTaps * outputs);
    plan.narrow_shortcut = shelf.take(params.inputs * kTaps * outputs);
  }
  plan.size = shelf.size();
  return plan;
}

// Transformed rows are (kTilePoints, tiles, channels); the others begin a step
// before the task, with kTapHalo steps more than it covers.
struct BackwardScratch {
  float* dout;            // gradient of y, before it is pooled
  float* dout_taps[2];    // transformed to be convolved
  float* dout_points[2];  // transformed for the gradient of weights
  float* raw;             // the middle, before it is normalised
  float* middle;          // after SELU
  float* middle_taps;
  float* draw[2];  // gradient of the middle before it is normalised
  float* draw_taps[2];
  float* draw_points;
  float* input[2];
  float* input_taps[2];
  float* row;  // (steps, outputs or padded inputs)
  float* own;  // likewise
  float* room;
  int64_t size;
};

inline BackwardScratch backward_scratch(const BackwardPlan& plan, float* base) {
  const int64_t inputs = plan.widths.inputs, outputs = plan.widths.outputs;
  const int64_t back = padded_to(inputs, kBlockOutputs);
  const int64_t widest = back > outputs ? back : outputs;
  const auto rows = [](int64_t width) {
    // A whole vector may be read from the last entry on.
    return (kMostSteps + kTapHalo) * width + kLanes<float>;
  };
  const auto transformed = [](int64_t width) {
    return kTilePoints * kMostTiles * width;
  };
  Shelf shelf(base);
  BackwardScratch s;
  s.dout = shelf.take(rows(outputs));
  s.raw = shelf.take(rows(outputs));
  s.row = shelf.take(kMostSteps * widest);
  s.own = shelf.take(kMostSteps * widest);
  s.room = shelf.take(int64_t{kTilePoints} * kGroupTiles * kBlockOutputs);
  // The two passes use what follows one after the other.
  const Shelf passes = shelf;
  s.middle = shelf.take(rows(outputs));
  s.middle_taps = shelf.take(transformed(outputs));
  for (int i = 0; i < 2; ++i) {
    s.dout_taps[i] = shelf.take(transformed(outputs));
    s.dout_points[i] = shelf.take(transformed(outputs));
  }
  s.size = shelf.size();
  shelf = passes;
  s.draw_points = shelf.take(transformed(outputs));
  for (int i = 0; i < 2; ++i) {
    s.draw[i] = shelf.take(rows(outputs));
    s.draw_taps[i] = shelf.take(transformed(outputs));
    s.input[i] = shelf.take(rows(inputs) + kOuterRows);
    s.input_taps[i] = shelf.take(transformed(inputs));
  }
  s.size = shelf.size() > s.size ? shelf.size() : s.size;
  return s;
}

// Row h of the gradient of y, from a step before the task on: that of a pool
// belongs to the step it chose.
inline void load_dout(const ResidualBackwardParams& params,
                      const TaskSteps& task,
                      int32_t h,
                      int64_t width,
                      float* to) {
  const ResidualTrainingParams& forward = params.forward;
  const int64_t channels = forward.outputs;
  const int64_t pooled = forward.steps / kPoolSteps;
  const int64_t row = (task.clip * forward.height + h) * pooled;
  for (int64_t i = 0; i < task.covered() + kTapHalo; ++i, to += width) {
    const int64_t t = task.begin - 1 + i;
    if (t < 0 || t >= pooled * kPoolSteps) {
      clear(to, width);
      continue;
    }
    const int64_t at = (row + t / kPoolSteps) * channels;
    const uint8_t step = static_cast<uint8_t>(t % kPoolSteps);
    const uint8_t* chosen = forward.chosen + at;
    const float* grad = params.grad_out + at;
    for (int64_t c = 0; c < channels; ++c)
      to[c] = chosen[c] == step ? grad[c] : 0;
    clear(to + channels, width - channels);
  }
}

// Other tasks have the steps behind this one's.
inline void clear_behind(const TaskSteps& task, int64_t width, float* rows) {
  clear(rows + (1 + task.count) * width,
        (task.covered() + kTapHalo - 1 - task.count) * width);
}

// Gradients of a weight from rows that are transformed.
inline void add_points(const TaskSteps& task,
                       const float* taps,
                       int64_t width,
                       const float* points,
                       int32_t height,
                       const WeightSums& sums) {
  for (int64_t p = 0; p < kTilePoints; ++p)
    add_outer(taps + p * task.tiles * width, width,
              points + p * task.tiles * sums.outputs, sums.outputs, width,
              task.tiles, sums.at(p, height));
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
