// residual_block_training on a CPU in bfloat16, backward: what is packed before
// its passes, and what is summed over groups behind them.
#include "tiles/residual_backward_bfloat16_scratch.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {
namespace {

// Where a gradient of a weight lies.
struct Entry {
  const float* partial;  // of the first group
  float* to;
};

// Of a weight (outputs, inputs, heights, kTaps), by the order of its partials.
Entry entry_of(const ResidualBfloat16Params& params,
               const float* partials,
               int32_t heights,
               int64_t inputs,
               int64_t index,
               float* to) {
  const int64_t outputs = params.outputs;
  const auto take = [&](int64_t count) {
    const int64_t part = index % count;
    index /= count;
    return part;
  };
  const int64_t column = take(kTileColumns);
  int64_t tap, input, output, height, at;
  if (inputs == 1) {
    tap = take(kTaps);
    const int64_t tile = take(2);
    height = index;
    input = 0;
    output =
        interleaved_channel(static_cast<int>(tile * kTileColumns + column));
    at = (tile * kTileRows + height * kTaps + tap) * kTileColumns + column;
  } else {
    at = index * kTileColumns + column;
    input = take(kTileRows);
    const int64_t right = take(2);
    input += take(2) * kTileRows;
    output =
        take(outputs / kGroupChannels) * kGroupChannels +
        interleaved_channel(static_cast<int>(right * kTileColumns + column));
    input += take(inputs / kGroupChannels) * kGroupChannels;
    tap = take(kTaps);
    height = index;
  }
  return {partials + at,
          to + ((output * inputs + input) * heights + height) * kTaps + tap};
}

double total(const ResidualBfloat16Params& params,
             const float* of_first_group) {
  const ResidualGroups groups = residual_groups(params.batch, params.steps);
  const int64_t size = partials_of(params, nullptr, 0).size;
  double sum = 0;
  for (int64_t group = 0; group < groups.count; ++group)
    sum += static_cast<double>(of_first_group[group * size]);
  return sum;
}

}  // namespace

int64_t residual_backward_bfloat16_packed_cpu(
    const ResidualBfloat16Params& params) {
  return backward_weights(params).size;
}

int64_t residual_backward_bfloat16_scratch_cpu(
    const ResidualBfloat16Params& params) {
  const int64_t middle = middle_scratch(params, nullptr).size;
  const int64_t input = input_scratch(params, nullptr).size;
  return middle > input ? middle : input;
}

int64_t residual_backward_bfloat16_partials_cpu(
    const ResidualBfloat16Params& params) {
  return residual_groups(params.batch, params.steps).count *
         partials_of(params, nullptr, 0).size;
}

void residual_backward_bfloat16_pack_cpu(
    const ResidualBfloat16BackwardParams& params) {
  const ResidualBfloat16Params& forward = params.forward;
  const int32_t inputs = forward.inputs, outputs = forward.outputs;
  const BackwardWeights weights = backward_weights(forward);
  residual_bfloat16_norm_cpu(forward, params.norm);
  pack(backward_view(forward.conv2, outputs, outputs, 2), weights.conv2);
  if (inputs == 1) {
    pack_first(forward.conv1, outputs, 2, 0, weights.first);
    pack_first(forward.conv1, outputs, 2, 1, weights.first + kFirstSize);
    pack_first(forward.shortcut, outputs, 1, 0, weights.first + 2 * kFirstSize);
    return;
  }
  pack(backward_view(forward.conv1, inputs, outputs, 2), weights.conv1);
  if (forward.shortcut.weight != nullptr)
    pack(backward_view(forward.shortcut, inputs, outputs, 1), weights.shortcut);
}

// How the gradient of the middle follows from that of its normalised values:
// arXiv 1502.03167, p. 4.
//
//   x^ = (m - mean) / s,  dm = weight / s (dn - avg(dn) - x^ avg(dn x^))
void residual_backward_bfloat16_norm_cpu(
    const ResidualBfloat16BackwardParams& params) {
  const ResidualBfloat16Params& forward = params.forward;
  const Normalisation& norm = params.norm;
  const ResidualGradients& to = params.gradients;
  const int32_t outputs = forward.outputs;
  const double count = static_cast<double>(forward.batch) *
                       static_cast<double>(forward.steps) *
                       (forward.height + 1);
  const float* const sums = partials_of(forward, params.partials, 0).sums;
  for (int32_t c = 0; c < outputs; ++c) {
    const double sum = total(forward, sums + kSumDnormal * outputs + c);
    const double centred = total(forward, sums + kSumCentred * outputs + c);
    const double dout = total(forward, sums + kSumDout * outputs + c);
    const double inverse =
        1 / __builtin_sqrt(static_cast<double>(norm.variance[c]) + norm.eps);
    const double weight = static_cast<double>(norm.weight[c]);
    const double mean = static_cast<double>(norm.mean[c]);
    to.norm_bias[c] = static_cast<float>(sum);
    to.norm_weight[c] = static_cast<float>(centred * inverse);
    const double slope =
        -weight * inverse * inverse * inverse * centred / count;
    params.coefficients[c] = static_cast<float>(weight * inverse);
    params.coefficients[outputs + c] = static_cast<float>(slope);
    params.coefficients[2 * outputs + c] =
        static_cast<float>(-weight * inverse * sum / count - slope * mean);
    // The norm takes away what is the same everywhere.
    to.conv1_bias[c] = 0;
    to.conv2_bias[c] = static_cast<float>(dout);
    if (to.shortcut_bias != nullptr)
      to.shortcut_bias[c] = to.conv2_bias[c];
  }
}

void residual_backward_bfloat16_sum_cpu(
    const ResidualBfloat16BackwardParams& params,
    int64_t begin,
    int64_t end) {
  const ResidualBfloat16Params& forward = params.forward;
  const ResidualGradients& to = params.gradients;
  const int64_t inputs = forward.inputs, outputs = forward.outputs;
  const int64_t second = 2 * kTaps * inputs * outputs;
  const int64_t third = second + 2 * kTaps * outputs * outputs;
  const GradientPartials partials = partials_of(forward, params.partials, 0);
  for (int64_t i = begin; i < end; ++i) {
    const Entry entry =
        i < second
            ? entry_of(forward, partials.conv1, 2, inputs, i, to.conv1_weight)
        : i < third ? entry_of(forward, partials.conv2, 2, outputs, i - second,
                               to.conv2_weight)
                    : entry_of(forward, partials.shortcut, 1, inputs, i - third,
                               to.shortcut_weight);
    *entry.to = static_cast<float>(total(forward, entry.partial));
  }
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
