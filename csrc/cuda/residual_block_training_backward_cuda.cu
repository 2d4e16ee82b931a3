// The gradient of residual_block_training on a GPU.
#include "residual_block_cuda.h"
#include "residual_forward.cuh"
#include "residual_gradient.cuh"
#include "residual_sums.cuh"

namespace sparse_aasist {
namespace {

__global__ void residual_norm_kernel(
    const __grid_constant__ ResidualCudaBackwardParams params) {
  const int32_t outputs = params.forward.outputs, channel = threadIdx.x;
  if (channel >= outputs)
    return;
  const double scale =
      static_cast<double>(params.norm_weight[channel]) /
      sqrt(static_cast<double>(params.variance[channel]) + params.eps);
  params.forward.norm[channel] = static_cast<float>(scale);
  params.forward.norm[outputs + channel] =
      static_cast<float>(static_cast<double>(params.norm_bias[channel]) -
                         static_cast<double>(params.mean[channel]) * scale);
}

// Gradients of all that is one value per channel, and how the gradient of the
// middle follows from that of its normalised values: arXiv 1502.03167, p. 4.
//
//   x^ = (m - mean) / s,  dm = weight / s (dn - avg(dn) - x^ avg(dn x^))
__global__ void __launch_bounds__(kTotalThreads) residual_channels_kernel(
    const __grid_constant__ ResidualCudaBackwardParams params,
    const __grid_constant__ PartialSums normal,
    const __grid_constant__ PartialSums grads) {
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
        1.0 / sqrt(static_cast<double>(params.variance[channel]) + params.eps);
    const double weight = static_cast<double>(params.norm_weight[channel]);
    const double mean = static_cast<double>(params.mean[channel]);
    params.dnorm_bias[channel] = static_cast<float>(sum);
    params.dnorm_weight[channel] = static_cast<float>(centred * inverse);
    const double slope =
        -weight * inverse * inverse * inverse * centred / count;
    params.coefficients[channel] = static_cast<float>(weight * inverse);
    params.coefficients[outputs + channel] = static_cast<float>(slope);
    params.coefficients[2 * outputs + channel] =
        static_cast<float>(-weight * inverse * sum / count - slope * mean);
    // The norm takes away what is the same everywhere.
    params.dconv1_bias[channel] = 0.0f;
    params.dconv2_bias[channel] = static_cast<float>(of_grad);
    if (params.dshortcut_bias != nullptr)
      params.dshortcut_bias[channel] = static_cast<float>(of_grad);
  }
}

// The rows and launches of one kind of block.
template <class Block>
struct Backward {
  static constexpr int kOutputs = Block::kOutputs;
  using Middle = typename Block::Middle;
  using GradRows = UnpooledRows<kOutputs>;
  using Active = ActiveRows<Middle, kOutputs>;
  using MiddleGradient = MiddleGradientRows<Middle, kOutputs>;
  using InputRows = typename Block::InputRows;
  using NormalShape = ConvolutionShape<kOutputs, 0, kOutputs>;

  const ResidualCudaBackwardParams& params;
  const ResidualCudaParams& forward;
  void* stream;

  explicit Backward(const ResidualCudaBackwardParams& of, void* on)
      : params(of), forward(of.forward), stream(on) {}

  Unpooled unpooled() const {
    return {params.grad_out, forward.chosen, pooled_image(forward)};
  }
  GradRows grad_rows() const { return {unpooled()}; }
  MiddleGradient middle_gradient() const {
    return {middle_of<Block>(forward), params.dnormal, middle_image(forward),
            params.coefficients};
  }
  InputRows input_rows() const { return {forward.x, input_image(forward)}; }

  int32_t normal_rows() const {
    return static_cast<int32_t>(
        convolution_blocks(convolution_plan<NormalShape>(forward, true)) *
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
    also(gradient_partials<GradRows, Active, 2>(forward, false));
    also(gradient_partials<MiddleGradient, InputRows, 2>(forward, true));
    if constexpr (!Block::kIdentity)
      also(gradient_partials<GradRows, InputRows, 1>(forward, false));
    return most;
  }

  const char* launch_normal() const {
    ConvolutionPlan plan = convolution_plan<NormalShape>(forward, true);
    plan.weights = packed_weights(forward, 1);
    return launch_convolution<NormalShape>(
        grad_rows(), NoRows{},
        NormalGradientSink<Middle>{params.dnormal, middle_image(forward),
                                   middle_of<Block>(forward), forward.norm,
                                   params.mean, params.partials},
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
        residual_channels_kernel, bounded_blocks(kOutputs, kMaxBlocks),
        kTotalThreads, 0, stream, params,
        (PartialSums{params.partials, normal_rows(), kOutputs}),
        (PartialSums{of_grads, grad_sum_rows(), kOutputs}));
  }

  const char* launch_conv2_weight() const {
    if (const char* error = launch_gradient<2>(
            grad_rows(), Active{middle_of<Block>(forward), forward.norm},
            forward, false, kOutputs, params.partials, params.dconv2_weight,
            stream))
      return error;
    if constexpr (Block::kIdentity)
      return nullptr;
    else
      return launch_gradient<1>(grad_rows(), input_rows(), forward, false,
                                forward.inputs, params.partials,
                                params.dshortcut_weight, stream);
  }

  const char* launch_input() const {
    using Shape = ConvolutionShape<kOutputs, Block::kIdentity ? 0 : kOutputs,
                                   Block::kInputs>;
    using Side = std::conditional_t<Block::kIdentity, NoRows, GradRows>;
    ConvolutionPlan plan = convolution_plan<Shape>(forward, false);
    plan.weights = packed_weights(forward, 0);
    plan.side_weights = packed_weights(forward, 2);
    Side side{};
    if constexpr (!Block::kIdentity)
      side = grad_rows();
    const auto launch = [&](const auto& sink) {
      return launch_convolution<Shape>(middle_gradient(), side, sink, plan,
                                       stream);
    };
    if constexpr (Block::kFirst)
      return launch(FirstInputGradientSink{params.dx, input_image(forward)});
    else
      return launch(InputGradientSink<Block::kIdentity, Shape::kTiles>{
          params.dx, input_image(forward), unpooled()});
  }

  const char* launch_conv1_weight() const {
    return launch_gradient<2>(middle_gradient(), input_rows(), forward, true,
                              forward.inputs, params.partials,
                              params.dconv1_weight, stream);
  }
};

}  // namespace

int64_t residual_backward_partials_cuda(const ResidualCudaParams& params) {
  int64_t size = 0;
  with_block(params, [&](auto block) -> const char* {
    ResidualCudaBackwardParams of{};
    of.forward = params;
    size = Backward<decltype(block)>(of, nullptr).partials();
    return nullptr;
  });
  return size;
}

const char* residual_block_training_backward_cuda(
    const ResidualCudaBackwardParams& params,
    void* stream) {
  if (params.forward.batch == 0)
    return nullptr;
  if (const char* error = pack_weights(packing(params.forward, true), stream))
    return error;
  if (const char* error =
          SPARSE_AASIST_LAUNCH(residual_norm_kernel, 1, 64, 0, stream, params))
    return error;
  return with_block(params.forward, [&](auto block) -> const char* {
    const Backward<decltype(block)> backward(params, stream);
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
