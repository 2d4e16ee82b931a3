// residual_block_training on a GPU, forward.
#include "residual_block_bfloat16.h"
#include "residual_forward.cuh"
#include "residual_norm.cuh"
#include "residual_sums.cuh"

namespace sparse_aasist {
namespace {

struct StatisticsPlan {
  ResidualStatisticsParams to;
  PartialSums middle;  // less the bias
  PartialSums input;
  const float* conv1_bias;
  double of_middle;  // the share of one position in its mean
  double of_input;
};

// A block for each channel of the middle, then of the input.
__global__ void __launch_bounds__(kTotalThreads)
    residual_statistics_kernel(const __grid_constant__ StatisticsPlan plan) {
  const int32_t outputs = plan.middle.channels;
  const int32_t all = outputs + plan.input.channels;
  for (int32_t i = blockIdx.x; i < all; i += gridDim.x) {
    const bool of_middle = i < outputs;
    const PartialSums& sums = of_middle ? plan.middle : plan.input;
    const int32_t channel = of_middle ? i : i - outputs;
    const double share = of_middle ? plan.of_middle : plan.of_input;
    double mean = total(sums, 0, channel) * share;
    double variance = total(sums, 1, channel) * share - mean * mean;
    if (variance < 0.0)  // by rounding; NaN stays
      variance = 0.0;
    if (threadIdx.x != 0)
      continue;
    if (!of_middle) {
      plan.to.input_mean[channel] = static_cast<float>(mean);
      plan.to.input_variance[channel] = static_cast<float>(variance);
      continue;
    }
    mean += static_cast<double>(plan.conv1_bias[channel]);
    plan.to.mean[channel] = static_cast<float>(mean);
    plan.to.variance[channel] = static_cast<float>(variance);
  }
}

// Rows of partial sums of the middle.
template <class Kind>
int32_t middle_rows(const ResidualBfloat16Params& params) {
  if constexpr (Kind::kFirst) {
    return static_cast<int32_t>(sum_blocks(params.batch * (params.height + 1)));
  } else {
    using Shape = ConvolutionShape<Kind::kInputs, 0, Kind::kOutputs>;
    return static_cast<int32_t>(
        convolution_blocks(walk_over(params, Height::kGrows, Shape::kSteps)) *
        Shape::kWarpTimes);
  }
}

}  // namespace

int64_t residual_training_partials_cuda(const ResidualBfloat16Params& params) {
  int64_t size = 0;
  with_block(params, [&](auto kind) -> const char* {
    size = 2 * static_cast<int64_t>(middle_rows<decltype(kind)>(params)) *
           params.outputs;
    return nullptr;
  });
  return size +
         2 * static_cast<int64_t>(sum_blocks(params.batch * params.height)) *
             params.inputs;
}

const char* residual_block_training_cuda(
    const ResidualBfloat16Params& params,
    const ResidualStatisticsParams& statistics,
    void* stream) {
  if (params.batch == 0)
    return nullptr;
  if (const char* error = pack_weights(params, false, stream))
    return error;
  return with_block(params, [&](auto kind) -> const char* {
    using Kind = decltype(kind);
    const int32_t rows = middle_rows<Kind>(params);
    float* const of_middle = statistics.partials;
    float* const of_input =
        of_middle + 2 * static_cast<int64_t>(rows) * params.outputs;
    if constexpr (Kind::kFirst) {
      if (const char* error = launch_sums(
              FirstMiddleValues{middle_of<Kind>(params)}, params.batch,
              params.height + 1, params.steps, of_middle, stream))
        return error;
    }
    if (const char* error = launch_middle<Kind>(params, of_middle, stream))
      return error;
    using Input = TensorValues<Kind::kFirst ? 1 : Kind::kInputs>;
    if (const char* error =
            launch_sums(Input{params.x, input_image(params)}, params.batch,
                        params.height, params.steps, of_input, stream))
      return error;
    const double positions =
        static_cast<double>(params.batch) * static_cast<double>(params.steps);
    const StatisticsPlan plan = {
        statistics,
        {of_middle, rows, params.outputs},
        {of_input,
         static_cast<int32_t>(sum_blocks(params.batch * params.height)),
         params.inputs},
        params.conv1.bias,
        1 / (positions * (params.height + 1)),
        1 / (positions * params.height)};
    if (const char* error =
            SPARSE_AASIST_LAUNCH(residual_statistics_kernel,
                                 blocks_for(params.outputs + params.inputs),
                                 kTotalThreads, 0, stream, plan))
      return error;
    const Normalisation norm = {statistics.weight, statistics.bias,
                                statistics.mean, statistics.variance,
                                statistics.eps};
    if (const char* error = launch_norm(params, norm, stream))
      return error;
    return launch_out<Kind>(params, stream);
  });
}

}  // namespace sparse_aasist
