// residual_block_training: schemas, checks, allocation and registration.
#include "residual_block_training.h"

#include <optional>
#include <tuple>

#include <torch/csrc/stable/library.h>

#include "encoder_tensors.h"

namespace sparse_aasist {
namespace {

constexpr const char* kName = "residual_block_training";

float* data_of(const Tensor& tensor) {
  return static_cast<float*>(tensor.mutable_data_ptr());
}

// What both directions are given, checked; x gets neighbouring channels.
ResidualTrainingParams check(Tensor& x,
                             const Tensor& conv1_weight,
                             const Tensor& conv1_bias,
                             const Tensor& norm_weight,
                             const Tensor& norm_bias,
                             double eps,
                             const Tensor& conv2_weight,
                             const Tensor& conv2_bias,
                             const std::optional<Tensor>& shortcut_weight,
                             const std::optional<Tensor>& shortcut_bias,
                             Weights& weights) {
  const int64_t inputs = x.size(1), outputs = conv1_weight.size(0);
  check_block(kName, x, outputs);
  ResidualTrainingParams params{};
  params.batch = x.size(0);
  params.inputs = static_cast<int32_t>(inputs);
  params.outputs = static_cast<int32_t>(outputs);
  params.height = static_cast<int32_t>(x.size(2));
  params.steps = x.size(3);
  x = as_channels_last(x);
  params.x = static_cast<const float*>(x.const_data_ptr());
  params.conv1 =
      weights.convolution(conv1_weight, conv1_bias, {outputs, inputs, 2, 3});
  params.norm_weight = weights.next(norm_weight, {outputs});
  params.norm_bias = weights.next(norm_bias, {outputs});
  params.eps = eps;
  params.conv2 =
      weights.convolution(conv2_weight, conv2_bias, {outputs, outputs, 2, 3});
  params.shortcut =
      weights.shortcut(shortcut_weight, shortcut_bias, outputs, inputs);
  return params;
}

Tensor new_sums(const Tensor& like, const ResidualTrainingParams& params) {
  const int64_t groups = residual_groups(params.batch, params.steps).count;
  return new_tensor(like, {groups, kResidualSums, sum_width(params)},
                    ScalarType::Double);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> forward(
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
  STD_TORCH_CHECK(x.dim() == 4 && conv1_weight.dim() == 4, kName,
                  ": x and conv1_weight must have 4 dimensions");
  Weights weights(kName, x);
  ResidualTrainingParams params =
      check(x, conv1_weight, conv1_bias, norm_weight, norm_bias, eps,
            conv2_weight, conv2_bias, shortcut_weight, shortcut_bias, weights);
  const int64_t outputs = params.outputs, pooled = params.steps / kPoolSteps;
  Tensor out = new_channels_last(
      x, {params.batch, outputs, params.height, pooled}, ScalarType::Float);
  Tensor chosen = new_channels_last(
      x, {params.batch, outputs, params.height, pooled}, ScalarType::Byte);
  Tensor middle = new_channels_last(
      x, {params.batch, outputs, params.height + 1, params.steps},
      ScalarType::Float);
  Tensor mean = new_tensor(x, {outputs}, ScalarType::Float);
  Tensor variance = new_tensor(x, {outputs}, ScalarType::Float);
  Tensor input_mean = new_tensor(x, {params.inputs}, ScalarType::Float);
  Tensor input_variance = new_tensor(x, {params.inputs}, ScalarType::Float);
  if (params.batch == 0) {
    fill({mean, variance, input_mean, input_variance}, kNaN);
    return {out, middle, chosen, mean, variance, input_mean, input_variance};
  }
  const Tensor sums = new_sums(x, params);
  const Tensor packed = new_tensor(
      x, {SPARSE_AASIST_AT_SIMD_LEVEL(residual_training_packed_cpu)(params)},
      ScalarType::Float);
  params.out = data_of(out);
  params.chosen = static_cast<uint8_t*>(chosen.mutable_data_ptr());
  params.middle = data_of(middle);
  params.mean = data_of(mean);
  params.variance = data_of(variance);
  params.input_mean = data_of(input_mean);
  params.input_variance = data_of(input_variance);
  params.sums = static_cast<double*>(sums.mutable_data_ptr());
  params.packed = data_of(packed);
  SPARSE_AASIST_AT_SIMD_LEVEL(residual_training_pack_cpu)(params);
  const int64_t groups = residual_groups(params.batch, params.steps).count;
  const int64_t scratch_size =
      SPARSE_AASIST_AT_SIMD_LEVEL(residual_training_scratch_cpu)(params);
  const auto run = [&](auto kernel) {
    run_tasks(groups, scratch_size,
              [&](int64_t begin, int64_t end, float* scratch) {
                kernel(params, begin, end, scratch);
              });
  };
  run(SPARSE_AASIST_AT_SIMD_LEVEL(residual_training_middle_cpu));
  SPARSE_AASIST_AT_SIMD_LEVEL(residual_training_statistics_cpu)(params);
  run(SPARSE_AASIST_AT_SIMD_LEVEL(residual_training_out_cpu));
  return {out, middle, chosen, mean, variance, input_mean, input_variance};
}

// Of x, then of the weights in their order.
using Gradients = std::tuple<Tensor,
                             Tensor,
                             Tensor,
                             Tensor,
                             Tensor,
                             Tensor,
                             Tensor,
                             Tensor,
                             Tensor>;

Gradients backward(Tensor grad_out,
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
  STD_TORCH_CHECK(x.dim() == 4 && conv1_weight.dim() == 4, kName,
                  ": x and conv1_weight must have 4 dimensions");
  Weights weights(kName, x);
  ResidualBackwardParams params{};
  ResidualTrainingParams& forward = params.forward;
  forward =
      check(x, conv1_weight, conv1_bias, norm_weight, norm_bias, eps,
            conv2_weight, conv2_bias, shortcut_weight, shortcut_bias, weights);
  const int64_t outputs = forward.outputs;
  const std::vector<int64_t> out_sizes = {
      forward.batch, outputs, forward.height, forward.steps / kPoolSteps};
  const std::vector<int64_t> middle_sizes = {forward.batch, outputs,
                                             forward.height + 1, forward.steps};
  STD_TORCH_CHECK(
      fits(grad_out, x, out_sizes) && fits(middle, x, middle_sizes) &&
          fits(mean, x, {outputs}) && fits(variance, x, {outputs}) &&
          sizes_of(chosen) == out_sizes &&
          chosen.scalar_type() == ScalarType::Byte,
      kName, ": the gradient or what was kept does not fit x");
  grad_out = as_channels_last(grad_out);
  middle = as_channels_last(middle);
  chosen = as_channels_last(chosen);
  mean = packed(mean);
  variance = packed(variance);
  Tensor dx = new_channels_last(x, sizes_of(x), ScalarType::Float);
  const Tensor dnormal = new_channels_last(x, middle_sizes, ScalarType::Float);
  const auto like = [&](const Tensor& tensor) {
    return new_tensor(x, sizes_of(tensor), ScalarType::Float);
  };
  const auto like_or_none = [&](const std::optional<Tensor>& tensor) {
    return tensor.has_value() ? like(*tensor)
                              : new_tensor(x, {0}, ScalarType::Float);
  };
  Tensor dconv1_weight = like(conv1_weight), dconv1_bias = like(conv1_bias);
  Tensor dnorm_weight = like(norm_weight), dnorm_bias = like(norm_bias);
  Tensor dconv2_weight = like(conv2_weight), dconv2_bias = like(conv2_bias);
  Tensor dshortcut_weight = like_or_none(shortcut_weight);
  Tensor dshortcut_bias = like_or_none(shortcut_bias);
  const auto results = [&]() -> Gradients {
    return {dx,           dconv1_weight,    dconv1_bias,
            dnorm_weight, dnorm_bias,       dconv2_weight,
            dconv2_bias,  dshortcut_weight, dshortcut_bias};
  };
  if (forward.batch == 0) {
    fill({dconv1_weight, dconv1_bias, dnorm_weight, dnorm_bias, dconv2_weight,
          dconv2_bias, dshortcut_weight, dshortcut_bias},
         0);
    return results();
  }
  forward.middle = data_of(middle);
  forward.chosen = static_cast<uint8_t*>(chosen.mutable_data_ptr());
  forward.mean = data_of(mean);
  forward.variance = data_of(variance);
  const Tensor sums = new_sums(x, forward);
  forward.sums = static_cast<double*>(sums.mutable_data_ptr());
  const Tensor packed_weights = new_tensor(
      x, {SPARSE_AASIST_AT_SIMD_LEVEL(residual_backward_packed_cpu)(params)},
      ScalarType::Float);
  forward.packed = data_of(packed_weights);
  params.grad_out = static_cast<const float*>(grad_out.const_data_ptr());
  params.dnormal = data_of(dnormal);
  params.dx = data_of(dx);
  params.dconv1_weight = data_of(dconv1_weight);
  params.dconv1_bias = data_of(dconv1_bias);
  params.dnorm_weight = data_of(dnorm_weight);
  params.dnorm_bias = data_of(dnorm_bias);
  params.dconv2_weight = data_of(dconv2_weight);
  params.dconv2_bias = data_of(dconv2_bias);
  if (shortcut_weight.has_value()) {
    params.dshortcut_weight = data_of(dshortcut_weight);
    params.dshortcut_bias = data_of(dshortcut_bias);
  }
  const int64_t groups = residual_groups(forward.batch, forward.steps).count;
  const Tensor partials = new_tensor(
      x,
      {groups,
       SPARSE_AASIST_AT_SIMD_LEVEL(residual_backward_partials_cpu)(params)},
      ScalarType::Float);
  params.partials = data_of(partials);
  SPARSE_AASIST_AT_SIMD_LEVEL(residual_backward_pack_cpu)(params);
  const int64_t scratch_size =
      SPARSE_AASIST_AT_SIMD_LEVEL(residual_backward_scratch_cpu)(params);
  const auto run = [&](auto kernel) {
    run_tasks(groups, scratch_size,
              [&](int64_t begin, int64_t end, float* scratch) {
                kernel(params, begin, end, scratch);
              });
  };
  run(SPARSE_AASIST_AT_SIMD_LEVEL(residual_backward_middle_cpu));
  SPARSE_AASIST_AT_SIMD_LEVEL(residual_backward_norm_cpu)(params);
  run(SPARSE_AASIST_AT_SIMD_LEVEL(residual_backward_input_cpu));
  const auto sum = SPARSE_AASIST_AT_SIMD_LEVEL(residual_backward_sum_cpu);
  torch::stable::parallel_for(
      0, residual_backward_units(forward), 4,
      [&](int64_t begin, int64_t end) { sum(params, begin, end); });
  return results();
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
