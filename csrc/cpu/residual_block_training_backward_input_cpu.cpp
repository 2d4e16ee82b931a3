// residual_block_training on a CPU, backward: the second pass, from the middle
// to x.
#include "residual_backward_rows.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {
namespace {

// Gradients of a weight from rows as they are, which begin a step before the
// task.
void add_directly(const TaskSteps& task,
                  const float* rows,
                  int64_t width,
                  const float* grad,
                  int32_t height,
                  const WeightSums& sums) {
  add_outer(rows, width, grad + sums.outputs, sums.outputs, sums.rows,
            task.count, sums.at(0, height));
}

// draw = scale * (gradient of the normalised middle) + slope * raw + shift.
struct DrawAffine {
  float scale[kMaxChannels];
  float slope[kMaxChannels];
  float shift[kMaxChannels];
};

DrawAffine draw_affine(const ResidualBackwardParams& params) {
  const ResidualTrainingParams& forward = params.forward;
  const ResidualGradients& gradients = params.gradients;
  const double count = static_cast<double>(forward.batch) *
                       (forward.height + 1) *
                       static_cast<double>(forward.steps);
  DrawAffine affine{};
  for (int32_t o = 0; o < forward.outputs; ++o) {
    const double inverse = inverse_deviation(forward, o);
    const double scale = forward.norm_weight[o] * inverse;
    const double slope = -scale * inverse * gradients.norm_weight[o] / count;
    affine.scale[o] = static_cast<float>(scale);
    affine.slope[o] = static_cast<float>(slope);
    affine.shift[o] = static_cast<float>(
        -scale * gradients.norm_bias[o] / count - slope * forward.mean[o]);
  }
  return affine;
}

void load_draw(const ResidualBackwardParams& params,
               const DrawAffine& affine,
               const TaskSteps& task,
               int32_t h,
               int64_t width,
               float* room,
               float* to) {
  const ResidualTrainingParams& forward = params.forward;
  const int64_t channels = forward.outputs;
  const int64_t first = task.begin - 1, count = task.covered() + kTapHalo;
  const int64_t row =
      row_offset(forward, task.clip, forward.height + 1, h, channels);
  load_steps(params.dnormal + row, forward.steps, channels, first, count, width,
             to);
  load_steps(forward.middle + row, forward.steps, channels, first, count, width,
             room);
  const int64_t begin = first < 0 ? -first : 0;
  const int64_t left = forward.steps - first;
  const int64_t end = left < count ? left : count;
  for (int64_t t = begin; t < end; ++t)
    for (int64_t c = 0; c < width; c += kLanes<float>) {
      float* const at = to + t * width + c;
      store<float>(at, load(at) * load(affine.scale + c) +
                           load(room + t * width + c) * load(affine.slope + c) +
                           load(affine.shift + c));
    }
}

// The gradient of few inputs: a dot product for each. Rows by their tap in
// height, from a step before the task on.
void add_narrow(const ResidualTrainingParams& params,
                const TaskSteps& task,
                const float* weight,
                const float* const* rows,
                int32_t heights,
                int64_t outputs,
                float* to) {
  const int64_t inputs = params.inputs;
  for (int64_t t = 0; t < task.count; ++t)
    for (int64_t i = 0; i < inputs; ++i) {
      const float* factors = weight + i * heights * kTaps * outputs;
      Vector<float> sum{};
      for (int32_t h = 0; h < heights; ++h)
        for (int64_t c = 0; c < kTaps * outputs; c += kLanes<float>)
          sum += load(rows[h] + t * outputs + c) *
                 load(factors + h * kTaps * outputs + c);
      to[t * inputs + i] += sum_lanes<float>(sum);
    }
}

// Row h of dx, from the rows of draw under its two taps in height.
void finish_dx(const ResidualBackwardParams& params,
               const BackwardPlan& plan,
               const TaskSteps& task,
               int32_t h,
               int now,
               const BackwardScratch& s) {
  const ResidualTrainingParams& forward = params.forward;
  const int before = 1 - now;
  const int64_t inputs = forward.inputs, outputs = plan.widths.outputs;
  float* const dx = params.dx +
                    row_offset(forward, task.clip, forward.height, h, inputs) +
                    task.begin * inputs;
  // s.dout begins a step before the task.
  const float* own = s.dout + outputs;
  if (!plan.widths.winograd) {
    clear(s.row, task.count * inputs);
    const float* const rows[2] = {s.draw[now], s.draw[before]};
    add_narrow(forward, task, plan.narrow1, rows, 2, outputs, s.row);
    if (plan.has_shortcut)
      add_narrow(forward, task, plan.narrow_shortcut, &s.dout, 1, outputs,
                 s.row);
    else
      for (int64_t t = 0; t < task.count; ++t)
        for (int64_t i = 0; i < inputs; ++i)
          s.row[t * inputs + i] += own[t * outputs + i];
    store_steps(s.row, inputs, task.count, inputs, dx);
    return;
  }
  const int64_t width = plan.conv1.outputs;
  const TapRows taps = {{s.draw_taps[now], s.draw_taps[before]}};
  convolve_winograd(plan.conv1, taps, task.tiles, s.room, s.row);
  int64_t own_width = outputs;
  if (plan.has_shortcut) {
    convolve_directly(plan.shortcut, {{s.dout, nullptr}}, task.covered(),
                      s.own);
    own = s.own;
    own_width = width;
  }
  // Without a shortcut inputs are outputs, and so their widths.
  for (int64_t t = 0; t < task.count; ++t)
    for (int64_t c = 0; c < width; c += kLanes<float>) {
      float* const at = s.row + t * width + c;
      store<float>(at, load(at) + load(own + t * own_width + c));
    }
  store_steps(s.row, width, task.count, inputs, dx);
}

void run_input(const ResidualBackwardParams& params,
               const BackwardPlan& plan,
               const DrawAffine& affine,
               const TaskSteps& task,
               const BackwardScratch& s,
               const Partials& partials,
               double* sums) {
  const ResidualTrainingParams& forward = params.forward;
  const auto [winograd, inputs, outputs] = plan.widths;
  const int64_t channels = forward.outputs;
  for (int32_t h = 0; h <= forward.height; ++h) {
    const int now = h % 2, before = 1 - now;
    const bool has_row = h < forward.height;
    load_draw(params, affine, task, h, outputs, s.raw, s.draw[now]);
    if (winograd) {
      transform_row(s.draw[now], task.tiles, outputs, s.draw_taps[now]);
      clear_behind(task, outputs, s.draw[now]);
      transform_gradient_row(s.draw[now] + outputs, task.tiles, outputs,
                             s.draw_points);
    }
    add_row_sums(outputs, task.count, channels,
                 sums + kSumDraw * sum_width(forward),
                 [&](int64_t t, int64_t c) {
                   return load(s.draw[now] + (t + 1) * outputs + c);
                 });
    if (has_row) {
      load_steps(forward.x + row_offset(forward, task.clip, forward.height, h,
                                        forward.inputs),
                 forward.steps, forward.inputs, task.begin - 1,
                 task.covered() + kTapHalo, inputs, s.input[now]);
      if (winograd)
        transform_row(s.input[now], task.tiles, inputs, s.input_taps[now]);
    }
    // Row h of the middle has row h - 1 of the input under its first tap in
    // height, and row h under the second.
    for (int32_t tap = 0; tap < 2; ++tap) {
      const int row = tap == 0 ? before : now;
      if (tap == 0 ? h == 0 : !has_row)
        continue;
      if (winograd)
        add_points(task, s.input_taps[row], inputs, s.draw_points, tap,
                   partials.conv1);
      else
        add_directly(task, s.input[row], inputs, s.draw[now], tap,
                     partials.conv1);
    }
    if (h == 0)
      continue;
    load_dout(params, task, h - 1, outputs, s.dout);
    if (plan.has_shortcut)
      add_directly(task, s.input[before], inputs, s.dout, 0, partials.shortcut);
    finish_dx(params, plan, task, h - 1, now, s);
  }
}

}  // namespace

void residual_backward_input_cpu(const ResidualBackwardParams& params,
                                 int64_t begin,
                                 int64_t end,
                                 float* scratch) {
  const ResidualTrainingParams& forward = params.forward;
  const BackwardPlan plan = backward_plan(forward);
  const BackwardScratch s = backward_scratch(plan, scratch);
  const DrawAffine affine = draw_affine(params);
  const ResidualGroups groups = residual_groups(forward.batch, forward.steps);
  for (int64_t group = begin; group < end; ++group)
    for (int64_t t = groups.begin(group); t < groups.begin(group + 1); ++t)
      run_input(params, plan, affine, task_steps(forward, t), s,
                partials_of(params, group), sums_of(params, group));
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
