// residual_block on a CPU. A task walks down the rows of a strip of time: two
// rows of the input and two of the middle are enough for the next row of the
// output, and stay in a core's cache.
#include "residual_block.h"

#include "residual_rows.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {
namespace {

// A row of the input begins this many steps before the strip, a row of the
// middle half as many.
constexpr int64_t kHalo = 2;

ForwardPlan plan_of(const ResidualBlockParams& params) {
  return forward_plan(params.inputs, params.outputs,
                      params.shortcut.weight != nullptr, params.packed);
}

struct Scratch {
  float* input[2];  // rows of the input, (steps and kHalo + kTapHalo, inputs)
  float* taps1[2];  // transformed, (kTilePoints, tiles, inputs)
  float* middle;    // (steps and kTapHalo, outputs)
  float* taps2[2];  // transformed, (kTilePoints, tiles, outputs)
  float* row;       // (steps, outputs)
  float* own;       // (steps, outputs), the shortcut
  float* room;      // of convolve_winograd
  int64_t size;
};

Scratch scratch_of(const ForwardPlan& plan, float* base) {
  const int64_t inputs = plan.conv1.inputs, outputs = plan.conv1.outputs;
  Shelf shelf(base);
  Scratch s;
  for (int i = 0; i < 2; ++i) {
    // A whole vector may be read from the last entry on.
    s.input[i] =
        shelf.take((kMostSteps + kHalo + kTapHalo) * inputs + kLanes<float>);
    s.taps1[i] = shelf.take(
        plan.widths.winograd ? kTilePoints * kMostTiles * inputs : 0);
    s.taps2[i] = shelf.take(kTilePoints * kMostTiles * outputs);
  }
  s.middle = shelf.take((kMostSteps + kTapHalo) * outputs);
  s.row = shelf.take(kMostSteps * outputs);
  s.own = shelf.take(plan.has_shortcut ? kMostSteps * outputs : 0);
  s.room = shelf.take(int64_t{kTilePoints} * kGroupTiles * kBlockOutputs);
  s.size = shelf.size();
  return s;
}

// What a task is about.
struct Strip {
  const float* x;  // of the clip
  float* out;      // likewise
  int64_t begin;   // its first step, before they are pooled
  int64_t steps;
  int64_t tiles;  // that cover it and a step to each side

  int64_t covered() const { return tiles * kTileSteps; }
};

// The middle begins a step before the strip. Outside of the clip are zeros,
// the padding of conv2; and behind the tiles, where no result depends on it.
void finish_middle(const ResidualBlockParams& params,
                   const Strip& strip,
                   int64_t width,
                   float* middle) {
  const int64_t first = strip.begin - 1, covered = strip.covered();
  const int64_t left = params.steps - first;
  const int64_t end = left < covered ? left : covered;
  for (int64_t i = 0; i < end * width; i += kLanes<float>)
    store<float>(middle + i, selu_of<float>(load(middle + i)));
  clear(middle + end * width, (covered + kTapHalo - end) * width);
  if (first < 0)
    clear(middle, width);
}

// Adds the shortcut to a row, pools it and writes it. Steps of both lie
// `width` and `own_width` apart.
void finish_row(const ResidualBlockParams& params,
                const Strip& strip,
                int32_t h,
                const float* row,
                int64_t width,
                const float* own,
                int64_t own_width) {
  const int64_t outputs = params.outputs, pooled = params.steps / kPoolSteps;
  float* to = strip.out + (h * pooled + strip.begin / kPoolSteps) * outputs;
  for (int64_t t = 0; t < strip.steps; t += kPoolSteps, to += outputs)
    for (int64_t c = 0; c < outputs; c += kLanes<float>) {
      const auto value = [&](int64_t step) {
        return load(row + step * width + c) + load(own + step * own_width + c);
      };
      const Vector<float> most =
          higher_or_nan(higher_or_nan(value(t), value(t + 1)), value(t + 2));
      const int64_t left = outputs - c;
      if (left >= kLanes<float>)
        store<float>(to + c, most);
      else
        store_some<float>(to + c, most, static_cast<int32_t>(left));
    }
}

void run_strip(const ResidualBlockParams& params,
               const ForwardPlan& plan,
               const Strip& strip,
               const Scratch& s) {
  const int64_t inputs = plan.conv1.inputs, outputs = plan.conv1.outputs;
  float* const* const rows = plan.widths.winograd ? s.taps1 : s.input;
  for (int32_t h = 0; h <= params.height; ++h) {
    const int now = h % 2, before = 1 - now;
    const bool has_row = h < params.height;
    if (has_row) {
      load_steps(strip.x + h * params.steps * params.inputs, params.steps,
                 params.inputs, strip.begin - kHalo,
                 strip.covered() + kHalo + kTapHalo, inputs, s.input[now]);
      if (plan.widths.winograd)
        transform_row(s.input[now], strip.tiles, inputs, s.taps1[now]);
    }
    const TapRows rows1 = {
        {h > 0 ? rows[before] : nullptr, has_row ? rows[now] : nullptr}};
    if (plan.widths.winograd)
      convolve_winograd(plan.conv1, rows1, strip.tiles, s.room, s.middle);
    else
      convolve_directly(plan.conv1, rows1, strip.covered(), s.middle);
    finish_middle(params, strip, outputs, s.middle);
    transform_row(s.middle, strip.tiles, outputs, s.taps2[now]);
    if (h == 0)
      continue;
    const TapRows rows2 = {{s.taps2[before], s.taps2[now]}};
    convolve_winograd(plan.conv2, rows2, strip.tiles, s.room, s.row);
    const float* const own = s.input[before] + kHalo * inputs;
    if (plan.has_shortcut) {
      // Its first tap is a step before the strip.
      const TapRows rows3 = {{own - inputs, nullptr}};
      convolve_directly(plan.shortcut, rows3, strip.covered(), s.own);
      finish_row(params, strip, h - 1, s.row, outputs, s.own, outputs);
    } else {
      finish_row(params, strip, h - 1, s.row, outputs, own, inputs);
    }
  }
}

}  // namespace

int64_t residual_block_packed_cpu(const ResidualBlockParams& params) {
  return plan_of(params).size;
}

int64_t residual_block_scratch_cpu(const ResidualBlockParams& params) {
  return scratch_of(plan_of(params), nullptr).size;
}

void residual_block_pack_cpu(const ResidualBlockParams& params) {
  const ForwardPlan plan = plan_of(params);
  const Normalisation& norm = params.norm;
  double scale[kMaxChannels];
  for (int32_t o = 0; o < params.outputs; ++o)
    scale[o] = norm.weight[o] / __builtin_sqrt(norm.variance[o] + norm.eps);
  pack_forward(plan, params.inputs, params.outputs, params.conv1, scale,
               params.conv2, params.shortcut);
  for (int32_t o = 0; o < params.outputs; ++o)
    plan.conv1.start[o] = static_cast<float>(
        norm.bias[o] +
        (params.conv1.bias[o] - double{norm.mean[o]}) * scale[o]);
}

void residual_block_cpu(const ResidualBlockParams& params,
                        int64_t begin,
                        int64_t end,
                        float* scratch) {
  const ForwardPlan plan = plan_of(params);
  const Scratch s = scratch_of(plan, scratch);
  const ResidualTasks tasks = residual_tasks(params.steps);
  const int64_t pooled = params.steps / kPoolSteps;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t clip = task / tasks.per_clip;
    const int64_t first = task % tasks.per_clip * tasks.pooled;
    const int64_t left = pooled - first;
    Strip strip;
    strip.x = params.x + clip * params.height * params.steps * params.inputs;
    strip.out = params.out + clip * params.height * pooled * params.outputs;
    strip.begin = first * kPoolSteps;
    strip.steps = (left < tasks.pooled ? left : tasks.pooled) * kPoolSteps;
    strip.tiles =
        padded_to(strip.steps + 2, kGroupTiles * kTileSteps) / kTileSteps;
    run_strip(params, plan, strip, s);
  }
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
