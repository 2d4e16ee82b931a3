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
  STD_TORCH_CHECK(x.dim() == 4 && conv1_weight.dim() == 4, kName,
                  ": x and conv1_weight must have 4 dimensions");
  const int64_t inputs = x.size(1), height = x.size(2), steps = x.size(3);
  const int64_t outputs = conv1_weight.size(0);
  check_block(kName, x, outputs);
  ResidualBlockParams params{};
  params.batch = x.size(0);
  params.inputs = static_cast<int32_t>(inputs);
  params.outputs = static_cast<int32_t>(outputs);
  params.height = static_cast<int32_t>(height);
  params.steps = steps;
  x = as_channels_last(x);
  params.x = static_cast<const float*>(x.const_data_ptr());
  Weights weights(kName, x);
  params.conv1 =
      weights.convolution(conv1_weight, conv1_bias, {outputs, inputs, 2, 3});
  params.norm = weights.normalisation(
      {norm_weight, norm_bias, norm_mean, norm_variance}, eps, outputs);
  params.conv2 =
      weights.convolution(conv2_weight, conv2_bias, {outputs, outputs, 2, 3});
  params.shortcut =
      weights.shortcut(shortcut_weight, shortcut_bias, outputs, inputs);
  Tensor out =
      new_channels_last(x, {params.batch, outputs, height, steps / kPoolSteps},
                        ScalarType::Float);
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
