// residual_block_training on a CPU, forward.
#include "residual_training_rows.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {
namespace {

// Sums of a group over all steps: of the middle and its squares, and of the
// input, each less a value per channel that is near its mean: squares of large
// means would leave no digits to the variance.
enum Sum { kSumMiddle, kSquaresMiddle, kSumInput, kSquaresInput };
static_assert(kSquaresInput + 1 == kResidualSums);

// conv1's bias for the middle, the first step for the input.
struct Shifts {
  float middle[kMaxChannels];
  float input[kMaxChannels];
};

Shifts shifts_of(const ResidualTrainingParams& params) {
  Shifts shifts{};
  for (int32_t o = 0; o < params.outputs; ++o)
    shifts.middle[o] = params.conv1.bias[o];
  for (int32_t i = 0; i < params.inputs; ++i)
    shifts.input[i] = params.x[i];
  return shifts;
}

// Adds the sums over rows of channels, and of their squares, behind each other.
void add_moments(const float* rows,
                 int64_t width,
                 int64_t count,
                 int64_t channels,
                 const float* shift,
                 double* sums,
                 double* squares) {
  const auto value = [&](int64_t t, int64_t c) {
    return load(rows + t * width + c) - load(shift + c);
  };
  add_row_sums(width, count, channels, sums, value);
  add_row_sums(width, count, channels, squares,
               [&](int64_t t, int64_t c) { return value(t, c) * value(t, c); });
}

ForwardPlan plan_of(const ResidualTrainingParams& params) {
  return forward_plan(params.inputs, params.outputs,
                      params.shortcut.weight != nullptr, params.packed);
}

struct Scratch {
  float* input[2];  // (steps and kTapHalo, inputs)
  float* taps[2];   // transformed rows, of either pass
  float* middle;    // (steps and kTapHalo, outputs)
  float* row;       // (steps, outputs)
  float* own;       // (steps, outputs)
  float* room;
  int64_t size;
};

Scratch scratch_of(const ForwardPlan& plan, float* base) {
  const int64_t inputs = plan.widths.inputs, outputs = plan.widths.outputs;
  const int64_t widest = inputs > outputs ? inputs : outputs;
  Shelf shelf(base);
  Scratch s;
  for (int i = 0; i < 2; ++i) {
    // A whole vector may be read from the last entry on.
    s.input[i] = shelf.take((kMostSteps + kTapHalo) * inputs + kLanes<float>);
    s.taps[i] = shelf.take(kTilePoints * kMostTiles * widest);
  }
  s.middle = shelf.take((kMostSteps + kTapHalo) * outputs);
  s.row = shelf.take(kMostSteps * outputs);
  s.own = shelf.take(kMostSteps * outputs);
  s.room = shelf.take(int64_t{kTilePoints} * kGroupTiles * kBlockOutputs);
  s.size = shelf.size();
  return s;
}

void load_input(const ResidualTrainingParams& params,
                const TaskSteps& task,
                int64_t width,
                int32_t h,
                float* to) {
  load_steps(
      params.x + row_offset(params, task.clip, params.height, h, params.inputs),
      params.steps, params.inputs, task.begin - 1, task.covered() + kTapHalo,
      width, to);
}

void run_middle(const ResidualTrainingParams& params,
                const ForwardPlan& plan,
                const Shifts& shifts,
                const TaskSteps& task,
                const Scratch& s,
                double* sums) {
  const auto [winograd, inputs, outputs] = plan.widths;
  float* const* const rows = winograd ? s.taps : s.input;
  for (int32_t h = 0; h <= params.height; ++h) {
    const int now = h % 2, before = 1 - now;
    const bool has_row = h < params.height;
    if (has_row) {
      load_input(params, task, inputs, h, s.input[now]);
      if (winograd)
        transform_row(s.input[now], task.tiles, inputs, s.taps[now]);
    }
    const TapRows taps = {
        {h > 0 ? rows[before] : nullptr, has_row ? rows[now] : nullptr}};
    if (winograd)
      convolve_winograd(plan.conv1, taps, task.tiles, s.room, s.row);
    else
      convolve_directly(plan.conv1, taps, task.covered(), s.row);
    const int64_t width = sum_width(params);
    add_moments(s.row, outputs, task.count, params.outputs, shifts.middle,
                sums + kSumMiddle * width, sums + kSquaresMiddle * width);
    if (has_row)
      add_moments(s.input[now] + inputs, inputs, task.count, params.inputs,
                  shifts.input, sums + kSumInput * width,
                  sums + kSquaresInput * width);
    store_steps(s.row, outputs, task.count, params.outputs,
                params.middle +
                    row_offset(params, task.clip, params.height + 1, h,
                               params.outputs) +
                    task.begin * params.outputs);
  }
}

// Adds the shortcut, pools, and remembers which step was the largest.
void pool_row(const ResidualTrainingParams& params,
              const TaskSteps& task,
              int32_t h,
              const float* row,
              int64_t width,
              const float* own,
              int64_t own_width) {
  const int64_t outputs = params.outputs, pooled = params.steps / kPoolSteps;
  const int64_t first =
      ((task.clip * params.height + h) * pooled + task.pool_begin) * outputs;
  for (int64_t p = 0; p < task.pool_count; ++p)
    for (int64_t c = 0; c < outputs; c += kLanes<float>) {
      const auto value = [&](int64_t step) {
        const int64_t t = p * kPoolSteps + step;
        return load(row + t * width + c) + load(own + t * own_width + c);
      };
      // The first of equals, and the last NaN, as torch chooses.
      Vector<float> most = value(0);
      Vector<int32_t> chosen{};
      for (int32_t step = 1; step < kPoolSteps; ++step) {
        const Vector<float> other = value(step);
        const Vector<int32_t> better =
            ((other > most) & (most == most)) | (other != other);
        most = better ? other : most;
        chosen = better ? Vector<int32_t>{} + step : chosen;
      }
      const int64_t at = first + p * outputs + c;
      const int64_t left = outputs - c;
      const int32_t count =
          static_cast<int32_t>(left < kLanes<float> ? left : kLanes<float>);
      store_some<float>(params.out + at, most, count);
      for (int32_t lane = 0; lane < count; ++lane)
        params.chosen[at + lane] = static_cast<uint8_t>(chosen[lane]);
    }
}

void run_out(const ResidualTrainingParams& params,
             const ForwardPlan& plan,
             const MiddleAffine& affine,
             const TaskSteps& task,
             const Scratch& s) {
  const auto [winograd, inputs, outputs] = plan.widths;
  for (int32_t h = 0; h <= params.height; ++h) {
    const int now = h % 2, before = 1 - now;
    load_steps(params.middle + row_offset(params, task.clip, params.height + 1,
                                          h, params.outputs),
               params.steps, params.outputs, task.begin - 1,
               task.covered() + kTapHalo, outputs, s.middle);
    activate(params, affine, task.begin - 1, task.covered() + kTapHalo, outputs,
             s.middle, s.middle);
    transform_row(s.middle, task.tiles, outputs, s.taps[now]);
    if (h == 0)
      continue;
    const TapRows taps = {{s.taps[before], s.taps[now]}};
    convolve_winograd(plan.conv2, taps, task.tiles, s.room, s.row);
    load_input(params, task, inputs, h - 1, s.input[0]);
    if (plan.has_shortcut) {
      convolve_directly(plan.shortcut, {{s.input[0], nullptr}}, task.covered(),
                        s.own);
      pool_row(params, task, h - 1, s.row, outputs, s.own, outputs);
    } else {
      pool_row(params, task, h - 1, s.row, outputs, s.input[0] + inputs,
               inputs);
    }
  }
}

}  // namespace

int64_t residual_training_packed_cpu(const ResidualTrainingParams& params) {
  return plan_of(params).size;
}

int64_t residual_training_scratch_cpu(const ResidualTrainingParams& params) {
  return scratch_of(plan_of(params), nullptr).size;
}

void residual_training_pack_cpu(const ResidualTrainingParams& params) {
  pack_forward(plan_of(params), params.inputs, params.outputs, params.conv1,
               nullptr, params.conv2, params.shortcut);
}

void residual_training_middle_cpu(const ResidualTrainingParams& params,
                                  int64_t begin,
                                  int64_t end,
                                  float* scratch) {
  const ForwardPlan plan = plan_of(params);
  const Scratch s = scratch_of(plan, scratch);
  const ResidualGroups groups = residual_groups(params.batch, params.steps);
  const Shifts shifts = shifts_of(params);
  for (int64_t group = begin; group < end; ++group) {
    const int64_t size = kResidualSums * sum_width(params);
    double* const sums = params.sums + group * size;
    for (int64_t i = 0; i < size; ++i)
      sums[i] = 0;
    for (int64_t t = groups.begin(group); t < groups.begin(group + 1); ++t)
      run_middle(params, plan, shifts, task_steps(params, t), s, sums);
  }
}

void residual_training_statistics_cpu(const ResidualTrainingParams& params) {
  const int64_t groups = residual_groups(params.batch, params.steps).count;
  const int64_t width = sum_width(params);
  const Shifts shifts = shifts_of(params);
  const auto statistics = [&](Sum which, int64_t channels, int64_t height,
                              const float* shift, float* means,
                              float* variances) {
    const double count = static_cast<double>(params.batch * params.steps) *
                         static_cast<double>(height);
    for (int64_t c = 0; c < channels; ++c) {
      double sum = 0, squares = 0;
      for (int64_t group = 0; group < groups; ++group) {
        const double* sums =
            params.sums + (group * kResidualSums + which) * width + c;
        sum += sums[0];
        squares += sums[width];
      }
      const double mean = sum / count, variance = squares / count - mean * mean;
      means[c] = static_cast<float>(mean + shift[c]);
      // Rounding may bring that of a constant below zero; NaN stays.
      variances[c] = static_cast<float>(variance < 0 ? 0 : variance);
    }
  };
  statistics(kSumMiddle, params.outputs, params.height + 1, shifts.middle,
             params.mean, params.variance);
  statistics(kSumInput, params.inputs, params.height, shifts.input,
             params.input_mean, params.input_variance);
}

void residual_training_out_cpu(const ResidualTrainingParams& params,
                               int64_t begin,
                               int64_t end,
                               float* scratch) {
  const ForwardPlan plan = plan_of(params);
  const Scratch s = scratch_of(plan, scratch);
  const ResidualGroups groups = residual_groups(params.batch, params.steps);
  const MiddleAffine affine = middle_affine(params);
  for (int64_t t = groups.begin(begin); t < groups.begin(end); ++t)
    run_out(params, plan, affine, task_steps(params, t), s);
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
