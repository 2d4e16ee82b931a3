// residual_block_training: schemas, checks, allocation and registration.
#include "residual_block_training.h"

#include <optional>

#include <torch/csrc/stable/library.h>

#include "residual_bfloat16_cpu.h"
#include "residual_tensors.h"

namespace sparse_aasist {
namespace {

constexpr const char* kName = "residual_block_training";

// What both directions are given, checked; x gets neighbouring channels.
ResidualTrainingParams check(Weights& weights,
                             Tensor& x,
                             const Tensor& conv1_weight,
                             const Tensor& conv1_bias,
                             const Tensor& norm_weight,
                             const Tensor& norm_bias,
                             double eps,
                             const Tensor& conv2_weight,
                             const Tensor& conv2_bias,
                             const std::optional<Tensor>& shortcut_weight,
                             const std::optional<Tensor>& shortcut_bias) {
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float, kName,
                  ": x on a CPU must be float32 or bfloat16");
  auto params = block_params<ResidualTrainingParams>(
      weights, x, conv1_weight, conv1_bias, conv2_weight, conv2_bias,
      shortcut_weight, shortcut_bias);
  params.norm_weight = weights.next(norm_weight, {params.outputs});
  params.norm_bias = weights.next(norm_bias, {params.outputs});
  params.eps = eps;
  x = as_channels_last(x);
  params.x = static_cast<const float*>(x.const_data_ptr());
  return params;
}

Tensor new_sums(const Tensor& like, const ResidualTrainingParams& params) {
  const int64_t groups = residual_groups(params.batch, params.steps).count;
  return new_tensor(like, {groups, kResidualSums, sum_width(params)},
                    ScalarType::Double);
}

// Calls run(kernel) for kernels that take groups of tasks of `params`.
template <class Params>
auto over_groups(const Params& params,
                 const ResidualTrainingParams& forward,
                 int64_t scratch_size) {
  const int64_t groups = residual_groups(forward.batch, forward.steps).count;
  return [&params, groups, scratch_size](auto kernel) {
    run_tasks(groups, scratch_size,
              [&](int64_t begin, int64_t end, float* scratch) {
                kernel(params, begin, end, scratch);
              });
  };
}

TrainingResults forward(Tensor x,
                        Tensor conv1_weight,
                        Tensor conv1_bias,
                        Tensor norm_weight,
                        Tensor norm_bias,
                        double eps,
                        Tensor conv2_weight,
                        Tensor conv2_bias,
                        std::optional<Tensor> shortcut_weight,
                        std::optional<Tensor> shortcut_bias) {
  if (x.scalar_type() == ScalarType::BFloat16)
    return bfloat16::train<bfloat16::Cpu>(
        x, conv1_weight, conv1_bias, norm_weight, norm_bias, eps, conv2_weight,
        conv2_bias, shortcut_weight, shortcut_bias);
  Weights weights(kName, x);
  ResidualTrainingParams params =
      check(weights, x, conv1_weight, conv1_bias, norm_weight, norm_bias, eps,
            conv2_weight, conv2_bias, shortcut_weight, shortcut_bias);
  const Tensor out = new_channels_last(x, out_sizes(params), ScalarType::Float);
  const Tensor chosen =
      new_channels_last(x, out_sizes(params), ScalarType::Byte);
  const Tensor middle =
      new_channels_last(x, middle_sizes(params), ScalarType::Float);
  const StatisticTensors statistics(x, params.inputs, params.outputs);
  if (params.batch == 0)
    return statistics.with(out, middle, chosen);
  const Tensor sums = new_sums(x, params);
  const Tensor packed = new_tensor(
      x, {SPARSE_AASIST_AT_SIMD_LEVEL(residual_training_packed_cpu)(params)},
      ScalarType::Float);
  params.out = data_of<float>(out);
  params.chosen = data_of<uint8_t>(chosen);
  params.middle = data_of<float>(middle);
  statistics.give(params);
  params.sums = data_of<double>(sums);
  params.packed = data_of<float>(packed);
  SPARSE_AASIST_AT_SIMD_LEVEL(residual_training_pack_cpu)(params);
  const auto run = over_groups(
      params, params,
      SPARSE_AASIST_AT_SIMD_LEVEL(residual_training_scratch_cpu)(params));
  run(SPARSE_AASIST_AT_SIMD_LEVEL(residual_training_middle_cpu));
  SPARSE_AASIST_AT_SIMD_LEVEL(residual_training_statistics_cpu)(params);
  run(SPARSE_AASIST_AT_SIMD_LEVEL(residual_training_out_cpu));
  return statistics.with(out, middle, chosen);
}

// What the forward pass kept, and the gradient of its result, checked and laid
// out as kernels read them.
void check_kept(const Tensor& x,
                ResidualBackwardParams& params,
                Tensor& grad_out,
                Tensor& middle,
                Tensor& chosen,
                Tensor& mean,
                Tensor& variance) {
  ResidualTrainingParams& forward = params.forward;
  const std::vector<int64_t> out = out_sizes(forward);
  const std::vector<int64_t> statistic = {forward.outputs};
  STD_TORCH_CHECK(
      fits(grad_out, x, out) && fits(middle, x, middle_sizes(forward)) &&
          fits(mean, x, statistic) && fits(variance, x, statistic) &&
          sizes_of(chosen) == out && chosen.scalar_type() == ScalarType::Byte,
      kName, ": the gradient or what was kept does not fit x");
  grad_out = as_channels_last(grad_out);
  middle = as_channels_last(middle);
  chosen = as_channels_last(chosen);
  mean = packed(mean);
  variance = packed(variance);
  params.grad_out = static_cast<const float*>(grad_out.const_data_ptr());
  forward.middle = data_of<float>(middle);
  forward.chosen = data_of<uint8_t>(chosen);
  forward.mean = data_of<float>(mean);
  forward.variance = data_of<float>(variance);
}

// All passes, with what they write before they read it.
void run_backward(const Tensor& x, ResidualBackwardParams& params) {
  ResidualTrainingParams& forward = params.forward;
  const int64_t groups = residual_groups(forward.batch, forward.steps).count;
  const Tensor sums = new_sums(x, forward);
  const Tensor dnormal =
      new_channels_last(x, middle_sizes(forward), ScalarType::Float);
  const Tensor packed = new_tensor(
      x, {SPARSE_AASIST_AT_SIMD_LEVEL(residual_backward_packed_cpu)(params)},
      ScalarType::Float);
  const Tensor partials = new_tensor(
      x,
      {groups,
       SPARSE_AASIST_AT_SIMD_LEVEL(residual_backward_partials_cpu)(params)},
      ScalarType::Float);
  forward.sums = data_of<double>(sums);
  forward.packed = data_of<float>(packed);
  params.dnormal = data_of<float>(dnormal);
  params.partials = data_of<float>(partials);
  SPARSE_AASIST_AT_SIMD_LEVEL(residual_backward_pack_cpu)(params);
  const auto run = over_groups(
      params, forward,
      SPARSE_AASIST_AT_SIMD_LEVEL(residual_backward_scratch_cpu)(params));
  run(SPARSE_AASIST_AT_SIMD_LEVEL(residual_backward_middle_cpu));
  SPARSE_AASIST_AT_SIMD_LEVEL(residual_backward_norm_cpu)(params);
  run(SPARSE_AASIST_AT_SIMD_LEVEL(residual_backward_input_cpu));
  const auto sum = SPARSE_AASIST_AT_SIMD_LEVEL(residual_backward_sum_cpu);
  torch::stable::parallel_for(
      0, residual_backward_units(forward), 4,
      [&](int64_t begin, int64_t end) { sum(params, begin, end); });
}

GradientResults backward(Tensor grad_out,
                         Tensor middle,
                         Tensor chosen,
                         Tensor mean,
                         Tensor variance,
                         Tensor x,
                         Tensor conv1_weight,
                         Tensor conv1_bias,
                         Tensor norm_weight,
                         Tensor norm_bias,
                         double eps,
                         Tensor conv2_weight,
                         Tensor conv2_bias,
                         std::optional<Tensor> shortcut_weight,
                         std::optional<Tensor> shortcut_bias) {
  if (x.scalar_type() == ScalarType::BFloat16)
    return bfloat16::backward<bfloat16::Cpu>(
        grad_out, middle, chosen, mean, variance, x, conv1_weight, conv1_bias,
        norm_weight, norm_bias, eps, conv2_weight, conv2_bias, shortcut_weight,
        shortcut_bias);
  Weights weights(kName, x);
  ResidualBackwardParams params{};
  params.forward =
      check(weights, x, conv1_weight, conv1_bias, norm_weight, norm_bias, eps,
            conv2_weight, conv2_bias, shortcut_weight, shortcut_bias);
  check_kept(x, params, grad_out, middle, chosen, mean, variance);
  const Tensor dx = new_channels_last(x, sizes_of(x), ScalarType::Float);
  const GradientTensors gradients(
      x, {conv1_weight, conv1_bias, norm_weight, norm_bias, conv2_weight,
          conv2_bias, shortcut_weight, shortcut_bias});
  params.dx = data_of<float>(dx);
  params.gradients = gradients.pointers();
  if (params.forward.batch > 0)
    run_backward(x, params);
  return gradients.with(dx);
}

STABLE_TORCH_LIBRARY_FRAGMENT(sparse_aasist, m) {
  m.def(
      "residual_block_training(Tensor x, Tensor conv1_weight, Tensor "
      "conv1_bias, Tensor norm_weight, Tensor norm_bias, float eps, Tensor "
      "conv2_weight, Tensor conv2_bias, Tensor? shortcut_weight, Tensor? "
      "shortcut_bias) -> (Tensor out, Tensor middle, Tensor chosen, Tensor "
      "mean, Tensor variance, Tensor input_mean, Tensor input_variance)");
  m.def(
      "residual_block_training_backward(Tensor grad_out, Tensor middle, Tensor "
      "chosen, Tensor mean, Tensor variance, Tensor x, Tensor conv1_weight, "
      "Tensor conv1_bias, Tensor norm_weight, Tensor norm_bias, float eps, "
      "Tensor conv2_weight, Tensor conv2_bias, Tensor? shortcut_weight, "
      "Tensor? shortcut_bias) -> (Tensor dx, Tensor dconv1_weight, Tensor "
      "dconv1_bias, Tensor dnorm_weight, Tensor dnorm_bias, Tensor "
      "dconv2_weight, Tensor dconv2_bias, Tensor dshortcut_weight, Tensor "
      "dshortcut_bias)");
}

STABLE_TORCH_LIBRARY_IMPL(sparse_aasist, CPU, m) {
  m.impl("residual_block_training", TORCH_BOX(&forward));
  m.impl("residual_block_training_backward", TORCH_BOX(&backward));
}

}  // namespace
}  // namespace sparse_aasist
