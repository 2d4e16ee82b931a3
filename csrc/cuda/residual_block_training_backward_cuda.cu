// The gradient of residual_block_training on a GPU.
#include "residual_block_bfloat16.h"
#include "residual_forward.cuh"
#include "residual_gradient.cuh"
#include "residual_norm.cuh"
#include "residual_sums.cuh"

namespace sparse_aasist {
namespace {

// Gradients of all that is one value per channel, and how the gradient of the
// middle follows from that of its normalised values: arXiv 1502.03167, p. 4.
//
//   x^ = (m - mean) / s,  dm = weight / s (dn - avg(dn) - x^ avg(dn x^))
__global__ void __launch_bounds__(kTotalThreads) residual_channels_kernel(
    const __grid_constant__ ResidualBfloat16BackwardParams params,
    const __grid_constant__ PartialSums normal,
    const __grid_constant__ PartialSums grads) {
  const Normalisation& norm = params.norm;
  const ResidualGradients& to = params.gradients;
  const int32_t outputs = params.forward.outputs;
  const double count = static_cast<double>(params.forward.batch) *
                       static_cast<double>(params.forward.steps) *
                       (params.forward.height + 1);
  for (int32_t channel = blockIdx.x; channel < outputs; channel += gridDim.x) {
    const double sum = total(normal, 0, channel);
    const double centred = total(normal, 1, channel);
    const double of_grad = total(grads, 0, channel);
    if (threadIdx.x != 0)
      continue;
    const double inverse =
        1.0 / sqrt(static_cast<double>(norm.variance[channel]) + norm.eps);
    const double weight = static_cast<double>(norm.weight[channel]);
    const double mean = static_cast<double>(norm.mean[channel]);
    to.norm_bias[channel] = static_cast<float>(sum);
    to.norm_weight[channel] = static_cast<float>(centred * inverse);
    const double slope =
        -weight * inverse * inverse * inverse * centred / count;
    params.coefficients[channel] = static_cast<float>(weight * inverse);
    params.coefficients[outputs + channel] = static_cast<float>(slope);
    params.coefficients[2 * outputs + channel] =
        static_cast<float>(-weight * inverse * sum / count - slope * mean);
    // The norm takes away what is the same everywhere.
    to.conv1_bias[channel] = 0.0f;
    to.conv2_bias[channel] = static_cast<float>(of_grad);
    if (to.shortcut_bias != nullptr)
      to.shortcut_bias[channel] = static_cast<float>(of_grad);
  }
}

// The rows and launches of one kind of block.
template <class Kind>
struct Backward {
  static constexpr int kOutputs = Kind::kOutputs;
  using Middle = typename Kind::Middle;
  using GradRows = UnpooledRows<kOutputs>;
  using Active = ActiveRows<Middle, kOutputs>;
  using MiddleGradient = MiddleGradientRows<Middle, kOutputs>;
  using InputRows = typename Kind::InputRows;
  using NormalShape = ConvolutionShape<kOutputs, 0, kOutputs>;

  const ResidualBfloat16BackwardParams& params;
  const ResidualBfloat16Params& forward;
  void* stream;

  explicit Backward(const ResidualBfloat16BackwardParams& of, void* on)
      : params(of), forward(of.forward), stream(on) {}

  Unpooled unpooled() const {
    return {params.grad_out, forward.chosen, pooled_image(forward)};
  }
  GradRows grad_rows() const { return {unpooled()}; }
  MiddleGradient middle_gradient() const {
    return {middle_of<Kind>(forward), params.dnormal, middle_image(forward),
            params.coefficients};
  }
  InputRows input_rows() const { return {forward.x, input_image(forward)}; }

  Walk normal_walk() const {
    return walk_over(forward, Height::kGrows, NormalShape::kSteps);
  }
  int32_t normal_rows() const {
    return static_cast<int32_t>(convolution_blocks(normal_walk()) *
                                NormalShape::kWarpTimes);
  }
  int32_t grad_sum_rows() const {
    return static_cast<int32_t>(sum_blocks(forward.batch * forward.height));
  }
  // All uses follow each other: the largest counts.
  int64_t partials() const {
    int64_t most =
        2 * kOutputs * (static_cast<int64_t>(normal_rows()) + grad_sum_rows());
    const auto also = [&](int64_t size) { most = size > most ? size : most; };
    also(gradient_partials<2, GradRows, Active>(forward, Height::kShrinks));
    also(gradient_partials<2, MiddleGradient, InputRows>(forward,
                                                         Height::kGrows));
    if constexpr (!Kind::kIdentity)
      also(
          gradient_partials<1, GradRows, InputRows>(forward, Height::kShrinks));
    return most;
  }

  const char* launch_normal() const {
    const ConvolutionPlan plan = {normal_walk(),
                                  packed_weights(forward, kConv2), nullptr};
    return launch_convolution<NormalShape>(
        grad_rows(), NoRows{},
        NormalGradientSink<Middle>{params.dnormal, middle_image(forward),
                                   middle_of<Kind>(forward), forward.affine,
                                   params.norm.mean, params.partials},
        plan, stream);
  }

  const char* launch_channels() const {
    float* const of_grads =
        params.partials + 2 * static_cast<int64_t>(normal_rows()) * kOutputs;
    if (const char* error = launch_sums(
            TensorValues<kOutputs>{params.grad_out, pooled_image(forward)},
            forward.batch, forward.height, forward.steps / kPoolSteps, of_grads,
            stream))
      return error;
    return SPARSE_AASIST_LAUNCH(
        residual_channels_kernel, blocks_for(kOutputs), kTotalThreads, 0,
        stream, params, (PartialSums{params.partials, normal_rows(), kOutputs}),
        (PartialSums{of_grads, grad_sum_rows(), kOutputs}));
  }

  const char* launch_conv2_weight() const {
    if (const char* error = launch_gradient<2>(
            grad_rows(), Active{middle_of<Kind>(forward), forward.affine},
            forward, Height::kShrinks, kOutputs, params.partials,
            params.gradients.conv2_weight, stream))
      return error;
    if constexpr (Kind::kIdentity)
      return nullptr;
    else
      return launch_gradient<1>(
          grad_rows(), input_rows(), forward, Height::kShrinks, forward.inputs,
          params.partials, params.gradients.shortcut_weight, stream);
  }

  const char* launch_input() const {
    using Shape = ConvolutionShape<kOutputs, Kind::kIdentity ? 0 : kOutputs,
                                   Kind::kInputs>;
    using Side = std::conditional_t<Kind::kIdentity, NoRows, GradRows>;
    const ConvolutionPlan plan = {
        walk_over(forward, Height::kShrinks, Shape::kSteps),
        packed_weights(forward, kConv1), packed_weights(forward, kShortcut)};
    Side side{};
    if constexpr (!Kind::kIdentity)
      side = grad_rows();
    const auto launch = [&](const auto& sink) {
      return launch_convolution<Shape>(middle_gradient(), side, sink, plan,
                                       stream);
    };
    if constexpr (Kind::kFirst)
      return launch(FirstInputGradientSink{params.dx, input_image(forward)});
    else
      return launch(InputGradientSink<Kind::kIdentity, Shape::kTiles>{
          params.dx, input_image(forward), unpooled()});
  }

  const char* launch_conv1_weight() const {
    return launch_gradient<2>(middle_gradient(), input_rows(), forward,
                              Height::kGrows, forward.inputs, params.partials,
                              params.gradients.conv1_weight, stream);
  }
};

}  // namespace

int64_t residual_backward_partials_cuda(const ResidualBfloat16Params& params) {
  int64_t size = 0;
  with_block(params, [&](auto kind) -> const char* {
    ResidualBfloat16BackwardParams of{};
    of.forward = params;
    size = Backward<decltype(kind)>(of, nullptr).partials();
    return nullptr;
  });
  return size;
}

const char* residual_block_training_backward_cuda(
    const ResidualBfloat16BackwardParams& params,
    void* stream) {
  if (params.forward.batch == 0)
    return nullptr;
  if (const char* error = pack_weights(params.forward, true, stream))
    return error;
  if (const char* error = launch_norm(params.forward, params.norm, stream))
    return error;
  return with_block(params.forward, [&](auto kind) -> const char* {
    const Backward<decltype(kind)> backward(params, stream);
    if (const char* error = backward.launch_normal())
      return error;
    if (const char* error = backward.launch_channels())
      return error;
    if (const char* error = backward.launch_conv2_weight())
      return error;
    if (const char* error = backward.launch_input())
      return error;
    return backward.launch_conv1_weight();
  });
}

}  // namespace sparse_aasist
