// What the kernels of residual blocks share: packed weights, tasks as strips of
// time, and rows of them in scratch.
#pragma once

#include <cstdint>

#include "residual_block.h"
#include "time_convolution.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {

// Below this convolutions from and to the input are direct.
constexpr int32_t kLeastWinogradInputs = 8;

constexpr int64_t kTapHalo = kTaps - 1;

static_assert(kBlockPooled * kPoolSteps == kGroupTiles * kTileSteps);
constexpr int64_t kMostSteps = (kMostPooled + 1) * kPoolSteps;
constexpr int64_t kMostTiles = kMostSteps / kTileSteps;

// Channels as they lie in scratch.
struct Widths {
  bool winograd;  // of the input
  int64_t inputs;
  int64_t outputs;
};

inline Widths widths_of(int32_t inputs, int32_t outputs) {
  const bool winograd = inputs >= kLeastWinogradInputs;
  return {winograd, winograd ? padded_to(inputs, kLanes<float>) : inputs,
          padded_to(outputs, kBlockOutputs)};
}

inline PackedConvolution take_packed(Shelf& shelf,
                                     int32_t heights,
                                     int64_t inputs,
                                     int64_t outputs,
                                     bool winograd) {
  PackedConvolution packed{nullptr, nullptr, heights, inputs, outputs};
  packed.weight = shelf.take(weight_size(packed, winograd));
  packed.start = shelf.take(outputs);
  return packed;
}

// A weight seen as (outputs, inputs, height, 3), with its taps in time as they
// are or backwards.
struct WeightView {
  const float* weight;
  int32_t inputs;
  int32_t outputs;
  int64_t input_stride;
  int64_t output_stride;
  bool backwards;
};

inline WeightView forward_view(const Convolution& convolution,
                               int32_t inputs,
                               int32_t outputs,
                               int32_t heights) {
  const int64_t taps = int64_t{heights} * kTaps;
  return {convolution.weight, inputs, outputs, taps, inputs * taps, false};
}

// Of the convolution that takes gradients of the outputs to those of the
// inputs.
inline WeightView backward_view(const Convolution& convolution,
                                int32_t inputs,
                                int32_t outputs,
                                int32_t heights) {
  const int64_t taps = int64_t{heights} * kTaps;
  return {convolution.weight, outputs, inputs, inputs * taps, taps, true};
}

// Packs a weight; outputs are multiplied by `scale` unless that is null.
inline void pack(const WeightView& view,
                 const double* scale,
                 bool winograd,
                 const PackedConvolution& to) {
  const int64_t points = winograd ? kTilePoints : kTaps;
  const int32_t heights = to.heights;
  for (int64_t i = 0; i < weight_size(to, winograd); ++i)
    to.weight[i] = 0;
  for (int32_t o = 0; o < view.outputs; ++o)
    for (int32_t h = 0; h < heights; ++h)
      for (int32_t i = 0; i < view.inputs; ++i) {
        const float* from = view.weight + o * view.output_stride +
                            i * view.input_stride + h * kTaps;
        const int first = view.backwards ? kTaps - 1 : 0;
        const float taps[kTaps] = {from[first], from[1],
                                   from[kTaps - 1 - first]};
        double values[kTilePoints] = {taps[0], taps[1], taps[2]};
        if (winograd)
          transform_taps(taps, values);
        for (int64_t p = 0; p < points; ++p) {
          // The order of PackedConvolution.
          const int64_t block = o / kBlockOutputs;
          const int64_t outer = winograd ? (block * points + p) * heights + h
                                         : (block * heights + h) * points + p;
          to.weight[(outer * to.inputs + i) * kBlockOutputs +
                    o % kBlockOutputs] =
              static_cast<float>(values[p] * (scale == nullptr ? 1 : scale[o]));
        }
      }
}

inline void pack_start(const float* bias,
                       int32_t outputs,
                       const PackedConvolution& to) {
  for (int64_t o = 0; o < to.outputs; ++o)
    to.start[o] = bias != nullptr && o < outputs ? bias[o] : 0;
}

// The convolutions of a block as forward kernels read them.
struct ForwardPlan {
  Widths widths;
  bool has_shortcut;
  PackedConvolution conv1, conv2, shortcut;
  int64_t size;
};

inline ForwardPlan forward_plan(int32_t inputs,
                                int32_t outputs,
                                bool has_shortcut,
                                float* packed) {
  ForwardPlan plan;
  plan.widths = widths_of(inputs, outputs);
  plan.has_shortcut = has_shortcut;
  const Widths& widths = plan.widths;
  Shelf shelf(packed);
  plan.conv1 =
      take_packed(shelf, 2, widths.inputs, widths.outputs, widths.winograd);
  plan.conv2 = take_packed(shelf, 2, widths.outputs, widths.outputs, true);
  plan.shortcut = take_packed(shelf, 1, widths.inputs, widths.outputs, false);
  plan.size = shelf.size();
  return plan;
}

// Packs all of a block, conv1 with its outputs times `scale` unless that is
// null, which leaves its bias alone.
inline void pack_forward(const ForwardPlan& plan,
                         int32_t inputs,
                         int32_t outputs,
                         const Convolution& conv1,
                         const double* scale,
                         const Convolution& conv2,
                         const Convolution& shortcut) {
  pack_start(conv1.bias, outputs, plan.conv1);
  pack(forward_view(conv1, inputs, outputs, 2), scale, plan.widths.winograd,
       plan.conv1);
  pack_start(conv2.bias, outputs, plan.conv2);
  pack(forward_view(conv2, outputs, outputs, 2), nullptr, true, plan.conv2);
  if (!plan.has_shortcut)
    return;
  pack_start(shortcut.bias, outputs, plan.shortcut);
  pack(forward_view(shortcut, inputs, outputs, 1), nullptr, false,
       plan.shortcut);
}

inline void clear(float* from, int64_t count) {
  __builtin_memset(from, 0, static_cast<size_t>(count) * sizeof(float));
}

// Steps [first, first + count) of a row of `steps`, `channels` each, become
// rows of `width`; zeros stand outside of it and behind its channels.
inline void load_steps(const float* row,
                       int64_t steps,
                       int64_t channels,
                       int64_t first,
                       int64_t count,
                       int64_t width,
                       float* to) {
  const int64_t begin = first < 0 ? -first : 0;
  const int64_t left = steps - first;
  const int64_t end = left < count ? left : count;
  const float* from = row + (first + begin) * channels;
  clear(to, begin * width);
  if (width == channels) {
    __builtin_memcpy(
        to + begin * width, from,
        static_cast<size_t>((end - begin) * width) * sizeof(float));
  } else {
    for (int64_t t = begin; t < end; ++t, from += channels)
      for (int64_t c = 0; c < width; ++c)
        to[t * width + c] = c < channels ? from[c] : 0;
  }
  clear(to + end * width, (count - end) * width);
}

inline void store_steps(const float* from,
                        int64_t width,
                        int64_t count,
                        int64_t channels,
                        float* to) {
  if (width == channels) {
    __builtin_memcpy(to, from,
                     static_cast<size_t>(count * channels) * sizeof(float));
    return;
  }
  for (int64_t t = 0; t < count; ++t)
    __builtin_memcpy(to + t * channels, from + t * width,
                     static_cast<size_t>(channels) * sizeof(float));
}

// The larger: NaN if one is.
inline Vector<float> higher_or_nan(Vector<float> a, Vector<float> b) {
  return (a > b) | (a != a) ? a : b;
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
