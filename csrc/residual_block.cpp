// residual_block: schema, checks, allocation and registration.
#include "residual_block.h"

#include <optional>

#include <torch/csrc/stable/library.h>

#include "residual_bfloat16_cpu.h"
#include "residual_tensors.h"

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
  if (x.scalar_type() == ScalarType::BFloat16)
    return bfloat16::forward<bfloat16::Cpu>(
        x, conv1_weight, conv1_bias, norm_weight, norm_bias, norm_mean,
        norm_variance, eps, conv2_weight, conv2_bias, shortcut_weight,
        shortcut_bias);
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float, kName,
                  ": x on a CPU must be float32 or bfloat16");
  Weights weights(kName, x);
  auto params = block_params<ResidualBlockParams>(
      weights, x, conv1_weight, conv1_bias, conv2_weight, conv2_bias,
      shortcut_weight, shortcut_bias);
  params.norm = weights.normalisation(
      {norm_weight, norm_bias, norm_mean, norm_variance}, eps, params.outputs);
  x = as_channels_last(x);
  params.x = static_cast<const float*>(x.const_data_ptr());
  Tensor out = new_channels_last(x, out_sizes(params), ScalarType::Float);
  params.out = data_of<float>(out);
  const Tensor packed = new_tensor(
      x, {SPARSE_AASIST_AT_SIMD_LEVEL(residual_block_packed_cpu)(params)},
      ScalarType::Float);
  params.packed = data_of<float>(packed);
  SPARSE_AASIST_AT_SIMD_LEVEL(residual_block_pack_cpu)(params);
  const auto kernel = SPARSE_AASIST_AT_SIMD_LEVEL(residual_block_cpu);
  run_tasks(params.batch * residual_tasks(params.steps).per_clip,
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
