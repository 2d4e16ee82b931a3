// residual_block: schema, checks, allocation and registration.
#include "residual_block.h"

#include <optional>

#include <torch/csrc/stable/library.h>

#include "encoder_tensors.h"

namespace sparse_aasist {
namespace {

constexpr const char* kName = "residual_block";

// x is (batch, inputs, height, steps), its channels neighbours in memory; so is
// the result.
Tensor forward(Tensor x,
               Tensor conv1_weight,
               Tensor conv1_bias,
               Tensor norm_weight,
               Tensor norm_bias,
               Tensor norm_mean,
               Tensor norm_variance,
               double eps,
               Tensor conv2_weight,
               Tensor conv2_bias,
               std::optional<Tensor> shortcut_weight,
               std::optional<Tensor> shortcut_bias) {
  STD_TORCH_CHECK(x.dim() == 4 && x.scalar_type() == ScalarType::Float, kName,
                  ": x must be float32, (batch, channels, height, steps)");
  const int64_t inputs = x.size(1), height = x.size(2), steps = x.size(3);
  const int64_t outputs = conv1_weight.size(0);
  STD_TORCH_CHECK(inputs >= 1 && inputs <= kMaxChannels && outputs >= 1 &&
                      outputs <= kMaxChannels && height >= 1 &&
                      steps >= kPoolSteps,
                  kName, ": channels must be in 1..", kMaxChannels,
                  ", and there must be ", kPoolSteps, " steps");
  ResidualBlockParams params{};
  params.batch = x.size(0);
  params.inputs = static_cast<int32_t>(inputs);
  params.outputs = static_cast<int32_t>(outputs);
  params.height = static_cast<int32_t>(height);
  params.steps = steps;
  x = torch::stable::contiguous(x,
                                torch::headeronly::MemoryFormat::ChannelsLast);
  params.x = static_cast<const float*>(x.const_data_ptr());
  Weights weights(kName, x);
  params.conv1 =
      weights.convolution(conv1_weight, conv1_bias, {outputs, inputs, 2, 3});
  params.norm = weights.normalisation(
      {norm_weight, norm_bias, norm_mean, norm_variance}, eps, outputs);
  params.conv2 =
      weights.convolution(conv2_weight, conv2_bias, {outputs, outputs, 2, 3});
  STD_TORCH_CHECK(shortcut_weight.has_value() == shortcut_bias.has_value() &&
                      (shortcut_weight.has_value() || inputs == outputs),
                  kName,
                  ": a shortcut has weight and bias, and is needed "
                  "where the widths differ");
  if (shortcut_weight.has_value())
    params.shortcut = weights.convolution(*shortcut_weight, *shortcut_bias,
                                          {outputs, inputs, 1, 3});
  Tensor out =
      new_channels_last(x, {params.batch, outputs, height, steps / kPoolSteps});
  params.out = static_cast<float*>(out.mutable_data_ptr());
  const Tensor packed = new_tensor(
      x, {SPARSE_AASIST_AT_SIMD_LEVEL(residual_block_packed_cpu)(params)},
      ScalarType::Float);
  params.packed = static_cast<float*>(packed.mutable_data_ptr());
  SPARSE_AASIST_AT_SIMD_LEVEL(residual_block_pack_cpu)(params);
  const auto kernel = SPARSE_AASIST_AT_SIMD_LEVEL(residual_block_cpu);
  run_tasks(params.batch * residual_tasks(steps).per_clip,
            SPARSE_AASIST_AT_SIMD_LEVEL(residual_block_scratch_cpu)(params),
            [&](int64_t begin, int64_t end, float* scratch) {
              kernel(params, begin, end, scratch);
            });
  return out;
}

STABLE_TORCH_LIBRARY_FRAGMENT(sparse_aasist, m) {
  m.def(
      "residual_block(Tensor x, Tensor conv1_weight, Tensor conv1_bias, Tensor "
      "norm_weight, Tensor norm_bias, Tensor norm_mean, Tensor norm_variance, "
      "float eps, Tensor conv2_weight, Tensor conv2_bias, Tensor? "
      "shortcut_weight, Tensor? shortcut_bias) -> Tensor out");
}

STABLE_TORCH_LIBRARY_IMPL(sparse_aasist, CPU, m) {
  m.impl("residual_block", TORCH_BOX(&forward));
}

}  // namespace
}  // namespace sparse_aasist
