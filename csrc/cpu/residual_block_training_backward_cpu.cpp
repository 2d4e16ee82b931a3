// residual_block_training on a CPU, backward: what is packed before its passes,
// and what is summed over groups behind them.
#include "residual_backward_rows.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {
namespace {

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

double total(const ResidualBackwardParams& params,
             BackwardSum which,
             int64_t o) {
  const ResidualTrainingParams& forward = params.forward;
  const ResidualGroups groups = residual_groups(forward.batch, forward.steps);
  double sum = 0;
  for (int64_t group = 0; group < groups.count; ++group)
    sum += sums_of(params, group)[which * sum_width(forward) + o];
  return sum;
}

}  // namespace

int64_t residual_backward_packed_cpu(const ResidualBackwardParams& params) {
  return backward_plan(params.forward).size;
}

int64_t residual_backward_scratch_cpu(const ResidualBackwardParams& params) {
  return backward_scratch(backward_plan(params.forward), nullptr).size;
}

int64_t residual_backward_partials_cpu(const ResidualBackwardParams& params) {
  return partials_of(params, 0).size;
}

void residual_backward_pack_cpu(const ResidualBackwardParams& params) {
  const ResidualTrainingParams& forward = params.forward;
  const BackwardPlan plan = backward_plan(forward);
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

void residual_backward_norm_cpu(const ResidualBackwardParams& params) {
  const ResidualGradients& to = params.gradients;
  for (int64_t o = 0; o < params.forward.outputs; ++o) {
    to.norm_bias[o] = static_cast<float>(total(params, kSumDnormal, o));
    to.norm_weight[o] = static_cast<float>(total(params, kSumDscale, o));
    to.conv2_bias[o] = static_cast<float>(total(params, kSumDout, o));
    if (to.shortcut_bias != nullptr)
      to.shortcut_bias[o] = to.conv2_bias[o];
  }
}

void residual_backward_sum_cpu(const ResidualBackwardParams& params,
                               int64_t begin,
                               int64_t end) {
  const ResidualTrainingParams& forward = params.forward;
  const ResidualGradients& to = params.gradients;
  const int64_t inputs = forward.inputs, outputs = forward.outputs;
  if (begin == 0)
    for (int64_t o = 0; o < outputs; ++o)
      to.conv1_bias[o] = static_cast<float>(total(params, kSumDraw, o));
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t second = unit - 2 * inputs, third = second - 2 * outputs;
    if (second < 0)
      sum_weight(params, &Partials::conv1, unit % inputs,
                 static_cast<int32_t>(unit / inputs), inputs, to.conv1_weight);
    else if (third < 0)
      sum_weight(params, &Partials::conv2, second % outputs,
                 static_cast<int32_t>(second / outputs), outputs,
                 to.conv2_weight);
    else
      sum_weight(params, &Partials::shortcut, third, 0, inputs,
                 to.shortcut_weight);
  }
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
