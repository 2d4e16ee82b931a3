// residual_block_training on a CPU, backward: the first pass, from the result
// to the normalised middle.
#include "residual_backward_rows.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {
namespace {

// The gradient of the normalised middle from that of SELU's result, in `row`.
void finish_dnormal(const ResidualBackwardParams& params,
                    const MiddleAffine& affine,
                    const TaskSteps& task,
                    int32_t h,
                    const BackwardScratch& s,
                    int64_t width,
                    double* sums) {
  constexpr float kScale = static_cast<float>(kSeluScale);
  constexpr float kSlope = static_cast<float>(kSeluScale * kSeluAlpha);
  const ResidualTrainingParams& forward = params.forward;
  const int64_t channels = forward.outputs;
  for (int64_t t = 0; t < task.count; ++t)
    for (int64_t c = 0; c < width; c += kLanes<float>) {
      const Vector<float> value = load(s.middle + (t + 1) * width + c);
      // SELU's slope below zero is its value and a constant.
      const Vector<float> slope = value > 0 ? splat(kScale) : value + kSlope;
      float* const at = s.row + t * width + c;
      store<float>(at, load(at) * slope);
    }
  add_row_sums(
      width, task.count, channels, sums + kSumDnormal * sum_width(forward),
      [&](int64_t t, int64_t c) { return load(s.row + t * width + c); });
  add_row_sums(width, task.count, channels,
               sums + kSumDscale * sum_width(forward),
               [&](int64_t t, int64_t c) {
                 const Vector<float> raw = load(s.raw + (t + 1) * width + c);
                 return load(s.row + t * width + c) * load(affine.inverse + c) *
                        (raw - load(affine.mean + c));
               });
  store_steps(
      s.row, width, task.count, channels,
      params.dnormal +
          row_offset(forward, task.clip, forward.height + 1, h, channels) +
          task.begin * channels);
}

void run_middle(const ResidualBackwardParams& params,
                const BackwardPlan& plan,
                const MiddleAffine& affine,
                const TaskSteps& task,
                const BackwardScratch& s,
                const Partials& partials,
                double* sums) {
  const ResidualTrainingParams& forward = params.forward;
  const int64_t width = plan.widths.outputs, channels = forward.outputs;
  const int64_t first = task.begin - 1, count = task.covered() + kTapHalo;
  for (int32_t h = 0; h <= forward.height; ++h) {
    const int now = h % 2, before = 1 - now;
    const bool has_row = h < forward.height;
    if (has_row) {
      load_dout(params, task, h, width, s.dout);
      transform_row(s.dout, task.tiles, width, s.dout_taps[now]);
      clear_behind(task, width, s.dout);
      transform_gradient_row(s.dout + width, task.tiles, width,
                             s.dout_points[now]);
      add_row_sums(width, task.count, channels,
                   sums + kSumDout * sum_width(forward),
                   [&](int64_t t, int64_t c) {
                     return load(s.dout + (t + 1) * width + c);
                   });
    }
    load_steps(forward.middle + row_offset(forward, task.clip,
                                           forward.height + 1, h, channels),
               forward.steps, channels, first, count, width, s.raw);
    activate(forward, affine, first, count, width, s.raw, s.middle);
    transform_row(s.middle, task.tiles, width, s.middle_taps);
    // Row h of the middle is under the first tap of row h of y, and under the
    // second of the row before it.
    if (has_row)
      add_points(task, s.middle_taps, width, s.dout_points[now], 0,
                 partials.conv2);
    if (h > 0)
      add_points(task, s.middle_taps, width, s.dout_points[before], 1,
                 partials.conv2);
    const TapRows taps = {{has_row ? s.dout_taps[now] : nullptr,
                           h > 0 ? s.dout_taps[before] : nullptr}};
    convolve_winograd(plan.conv2, taps, task.tiles, s.room, s.row);
    finish_dnormal(params, affine, task, h, s, width, sums);
  }
}

}  // namespace

void residual_backward_middle_cpu(const ResidualBackwardParams& params,
                                  int64_t begin,
                                  int64_t end,
                                  float* scratch) {
  const ResidualTrainingParams& forward = params.forward;
  const BackwardPlan plan = backward_plan(forward);
  const BackwardScratch s = backward_scratch(plan, scratch);
  const MiddleAffine affine = middle_affine(forward);
  const ResidualGroups groups = residual_groups(forward.batch, forward.steps);
  for (int64_t group = begin; group < end; ++group) {
    const Partials partials = partials_of(params, group);
    clear(partials.conv1.of, partials.size);
    double* const sums = sums_of(params, group);
    for (int64_t i = 0; i < kResidualSums * sum_width(forward); ++i)
      sums[i] = 0;
    for (int64_t t = groups.begin(group); t < groups.begin(group + 1); ++t)
      run_middle(params, plan, affine, task_steps(forward, t), s, partials,
                 sums);
  }
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
