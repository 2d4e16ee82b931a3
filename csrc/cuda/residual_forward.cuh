// The two convolutions of a residual block, for scoring and training.
#pragma once

#include "residual_kinds.cuh"
#include "residual_sinks.cuh"

namespace sparse_aasist {

// Launches conv1; the sums of its result go to `partials` where that is not
// null. Nothing with one input channel, whose middle is not kept.
template <class Kind>
const char* launch_middle(const ResidualBfloat16Params& params,
                          float* partials,
                          void* stream) {
  if constexpr (Kind::kFirst) {
    return nullptr;
  } else {
    using Shape = ConvolutionShape<Kind::kInputs, 0, Kind::kOutputs>;
    const ConvolutionPlan plan = {
        walk_over(params, Height::kGrows, Shape::kSteps),
        packed_weights(params, kConv1), nullptr};
    return launch_convolution<Shape>(
        RawRows<Kind::kInputs>{params.x, input_image(params)}, NoRows{},
        MiddleSink{params.middle, middle_image(params), params.conv1.bias,
                   partials},
        plan, stream);
  }
}

// Launches all that follows the affine form of the norm.
template <class Kind>
const char* launch_out(const ResidualBfloat16Params& params, void* stream) {
  using Shape =
      ConvolutionShape<Kind::kOutputs, Kind::kIdentity ? 0 : Kind::kInputs,
                       Kind::kOutputs>;
  using Side =
      std::conditional_t<Kind::kIdentity, NoRows, typename Kind::InputRows>;
  const ConvolutionPlan plan = {
      walk_over(params, Height::kShrinks, Shape::kSteps),
      packed_weights(params, kConv2), packed_weights(params, kShortcut)};
  Side side{};
  if constexpr (!Kind::kIdentity)
    side = {params.x, input_image(params)};
  return launch_convolution<Shape>(
      ActiveRows<typename Kind::Middle, Kind::kOutputs>{middle_of<Kind>(params),
                                                        params.affine},
      side,
      PoolSink<Kind::kIdentity>{params.out, params.chosen, pooled_image(params),
                                params.conv2.bias, params.shortcut.bias,
                                params.x, input_image(params)},
      plan, stream);
}

}  // namespace sparse_aasist
