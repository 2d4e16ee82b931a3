// residual_block_training on a CPU, backward.
#include "residual_training_rows.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {
namespace {

// Sums of a group, each over all steps: of the gradient of the normalised
// middle, of that times the normalised middle, of the gradient of both
// convolutions' outputs.
enum Sum { kSumDnormal, kSumDscale, kSumDout, kSumDraw };
static_assert(kSumDraw + 1 == kResidualSums);

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

struct Plan {
  Widths widths;
  bool has_shortcut;
  PackedConvolution conv1, conv2, shortcut;  // from outputs to inputs
  // Few inputs, (input, tap in height, tap, output): dot products.
  float* narrow1;
  float* narrow_shortcut;
  int64_t size;
};

Plan plan_of(const ResidualTrainingParams& params) {
  Plan plan{};
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

struct Partials {
  WeightSums conv1, conv2, shortcut;
  int64_t size;
};

Partials partials_of(const ResidualBackwardParams& params, int64_t group) {
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

// Transformed rows are (kTilePoints, tiles, channels); the others begin a step
// before the task, with kTapHalo steps more than it covers.
struct Scratch {
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

Scratch scratch_of(const Plan& plan, float* base) {
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
  Scratch s;
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
void load_dout(const ResidualBackwardParams& params,
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
void clear_behind(const TaskSteps& task, int64_t width, float* rows) {
  clear(rows + (1 + task.count) * width,
        (task.covered() + kTapHalo - 1 - task.count) * width);
}

// Gradients of a weight from rows that are transformed.
void add_points(const TaskSteps& task,
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

// The same from rows as they are, which begin a step before the task.
void add_directly(const TaskSteps& task,
                  const float* rows,
                  int64_t width,
                  const float* grad,
                  int32_t height,
                  const WeightSums& sums) {
  add_outer(rows, width, grad + sums.outputs, sums.outputs, sums.rows,
            task.count, sums.at(0, height));
}

// The gradient of the normalised middle from that of SELU's result, in `row`.
void finish_dnormal(const ResidualBackwardParams& params,
                    const MiddleAffine& affine,
                    const TaskSteps& task,
                    int32_t h,
                    const Scratch& s,
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
                const Plan& plan,
                const MiddleAffine& affine,
                const TaskSteps& task,
                const Scratch& s,
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

// draw = scale * (gradient of the normalised middle) + slope * raw + shift.
struct DrawAffine {
  float scale[kMaxChannels];
  float slope[kMaxChannels];
  float shift[kMaxChannels];
};

DrawAffine draw_affine(const ResidualBackwardParams& params) {
  const ResidualTrainingParams& forward = params.forward;
  const double count = static_cast<double>(forward.batch) *
                       (forward.height + 1) *
                       static_cast<double>(forward.steps);
  DrawAffine affine{};
  for (int32_t o = 0; o < forward.outputs; ++o) {
    const double inverse = inverse_deviation(forward, o);
    const double scale = forward.norm_weight[o] * inverse;
    const double slope = -scale * inverse * params.dnorm_weight[o] / count;
    affine.scale[o] = static_cast<float>(scale);
    affine.slope[o] = static_cast<float>(slope);
    affine.shift[o] = static_cast<float>(-scale * params.dnorm_bias[o] / count -
                                         slope * forward.mean[o]);
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
               const Plan& plan,
               const TaskSteps& task,
               int32_t h,
               int now,
               const Scratch& s) {
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
               const Plan& plan,
               const DrawAffine& affine,
               const TaskSteps& task,
               const Scratch& s,
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

// (input, tap in height, tap, output), taps backwards as dx reads them.
void pack_narrow(const Convolution& convolution,
                 const ResidualTrainingParams& params,
                 int32_t heights,
                 int64_t width,
                 float* to) {
  for (int64_t i = 0; i < params.inputs; ++i)
    for (int32_t h = 0; h < heights; ++h)
      for (int k = 0; k < kTaps; ++k)
        for (int64_t o = 0; o < width; ++o)
          *to++ =
              o < params.outputs
                  ? convolution.weight[((o * params.inputs + i) * heights + h) *
                                           kTaps +
                                       kTaps - 1 - k]
                  : 0;
}

double* sums_of(const ResidualBackwardParams& params, int64_t group) {
  return params.forward.sums +
         group * kResidualSums * sum_width(params.forward);
}

// The gradients of a weight for an input and a tap in height, all outputs.
void sum_weight(const ResidualBackwardParams& params,
                WeightSums Partials::* which,
                int64_t input,
                int32_t height,
                int64_t inputs,
                float* to) {
  const ResidualTrainingParams& forward = params.forward;
  const ResidualGroups groups = residual_groups(forward.batch, forward.steps);
  const WeightSums first = partials_of(params, 0).*which;
  const int64_t points = first.winograd ? kTilePoints : kTaps;
  double totals[kTilePoints][kMaxChannels] = {};
  for (int64_t group = 0; group < groups.count; ++group) {
    const WeightSums sums = partials_of(params, group).*which;
    for (int64_t p = 0; p < points; ++p) {
      const float* from =
          sums.winograd ? sums.at(p, height) + input * sums.outputs
                        : sums.at(0, height) +
                              (p * (sums.rows / kTaps) + input) * sums.outputs;
      for (int64_t o = 0; o < forward.outputs; ++o)
        totals[p][o] += static_cast<double>(from[o]);
    }
  }
  for (int64_t o = 0; o < forward.outputs; ++o) {
    double values[kTilePoints], taps[kTaps];
    for (int64_t p = 0; p < points; ++p)
      values[p] = totals[p][o];
    if (first.winograd)
      gradient_of_taps(values, taps);
    float* const at =
        to + ((o * inputs + input) * first.heights + height) * kTaps;
    for (int k = 0; k < kTaps; ++k)
      at[k] = static_cast<float>(first.winograd ? taps[k] : values[k]);
  }
}

double total(const ResidualBackwardParams& params, Sum which, int64_t o) {
  const ResidualTrainingParams& forward = params.forward;
  const ResidualGroups groups = residual_groups(forward.batch, forward.steps);
  double sum = 0;
  for (int64_t group = 0; group < groups.count; ++group)
    sum += sums_of(params, group)[which * sum_width(forward) + o];
  return sum;
}

}  // namespace

int64_t residual_backward_packed_cpu(const ResidualBackwardParams& params) {
  return plan_of(params.forward).size;
}

int64_t residual_backward_scratch_cpu(const ResidualBackwardParams& params) {
  return scratch_of(plan_of(params.forward), nullptr).size;
}

int64_t residual_backward_partials_cpu(const ResidualBackwardParams& params) {
  return partials_of(params, 0).size;
}

void residual_backward_pack_cpu(const ResidualBackwardParams& params) {
  const ResidualTrainingParams& forward = params.forward;
  const Plan plan = plan_of(forward);
  const int32_t inputs = forward.inputs, outputs = forward.outputs;
  pack_start(nullptr, outputs, plan.conv2);
  pack(backward_view(forward.conv2, outputs, outputs, 2), nullptr, true,
       plan.conv2);
  if (!plan.widths.winograd) {
    pack_narrow(forward.conv1, forward, 2, plan.widths.outputs, plan.narrow1);
    if (plan.has_shortcut)
      pack_narrow(forward.shortcut, forward, 1, plan.widths.outputs,
                  plan.narrow_shortcut);
    return;
  }
  pack_start(nullptr, inputs, plan.conv1);
  pack(backward_view(forward.conv1, inputs, outputs, 2), nullptr, true,
       plan.conv1);
  if (!plan.has_shortcut)
    return;
  pack_start(nullptr, inputs, plan.shortcut);
  pack(backward_view(forward.shortcut, inputs, outputs, 1), nullptr, false,
       plan.shortcut);
}

void residual_backward_middle_cpu(const ResidualBackwardParams& params,
                                  int64_t begin,
                                  int64_t end,
                                  float* scratch) {
  const ResidualTrainingParams& forward = params.forward;
  const Plan plan = plan_of(forward);
  const Scratch s = scratch_of(plan, scratch);
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

void residual_backward_norm_cpu(const ResidualBackwardParams& params) {
  for (int64_t o = 0; o < params.forward.outputs; ++o) {
    params.dnorm_bias[o] = static_cast<float>(total(params, kSumDnormal, o));
    params.dnorm_weight[o] = static_cast<float>(total(params, kSumDscale, o));
    params.dconv2_bias[o] = static_cast<float>(total(params, kSumDout, o));
    if (params.dshortcut_bias != nullptr)
      params.dshortcut_bias[o] = params.dconv2_bias[o];
  }
}

void residual_backward_input_cpu(const ResidualBackwardParams& params,
                                 int64_t begin,
                                 int64_t end,
                                 float* scratch) {
  const ResidualTrainingParams& forward = params.forward;
  const Plan plan = plan_of(forward);
  const Scratch s = scratch_of(plan, scratch);
  const DrawAffine affine = draw_affine(params);
  const ResidualGroups groups = residual_groups(forward.batch, forward.steps);
  for (int64_t group = begin; group < end; ++group)
    for (int64_t t = groups.begin(group); t < groups.begin(group + 1); ++t)
      run_input(params, plan, affine, task_steps(forward, t), s,
                partials_of(params, group), sums_of(params, group));
}

void residual_backward_sum_cpu(const ResidualBackwardParams& params,
                               int64_t begin,
                               int64_t end) {
  const ResidualTrainingParams& forward = params.forward;
  const int64_t inputs = forward.inputs, outputs = forward.outputs;
  if (begin == 0)
    for (int64_t o = 0; o < outputs; ++o)
      params.dconv1_bias[o] = static_cast<float>(total(params, kSumDraw, o));
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t second = unit - 2 * inputs, third = second - 2 * outputs;
    if (second < 0)
      sum_weight(params, &Partials::conv1, unit % inputs,
                 static_cast<int32_t>(unit / inputs), inputs,
                 params.dconv1_weight);
    else if (third < 0)
      sum_weight(params, &Partials::conv2, second % outputs,
                 static_cast<int32_t>(second / outputs), outputs,
                 params.dconv2_weight);
    else
      sum_weight(params, &Partials::shortcut, third, 0, inputs,
                 params.dshortcut_weight);
  }
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
