// residual_block and its training on a GPU: checks, allocation and
// registration. The schemas are in residual_block.cpp and
// residual_block_training.cpp.
#ifdef SPARSE_AASIST_WITH_CUDA

#include "residual_block_cuda.h"

#include <optional>
#include <tuple>

#include <torch/csrc/stable/library.h>

#include "cuda_device.h"
#include "encoder_tensors.h"

namespace sparse_aasist {
namespace {

constexpr const char* kName = "residual_block";
constexpr const char* kTraining = "residual_block_training";

template <class T>
T* data_of(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// With neighbouring channels, from a multiple of 16 bytes on: kernels load
// eight channels at once.
Tensor as_octets(const Tensor& tensor) {
  const Tensor rows = as_channels_last(tensor);
  const auto address = reinterpret_cast<uintptr_t>(rows.const_data_ptr());
  return address % 16 == 0 ? rows : torch::stable::clone(rows);
}

// What all are given, checked; x is laid out as kernels read it.
ResidualCudaParams check(const char* op,
                         Tensor& x,
                         const Tensor& conv1_weight,
                         const Tensor& conv1_bias,
                         const Tensor& conv2_weight,
                         const Tensor& conv2_bias,
                         const std::optional<Tensor>& shortcut_weight,
                         const std::optional<Tensor>& shortcut_bias,
                         Weights& weights) {
  STD_TORCH_CHECK(x.dim() == 4 && conv1_weight.dim() == 4, op,
                  ": x and conv1_weight must have 4 dimensions");
  const int64_t inputs = x.size(1), outputs = conv1_weight.size(0);
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::BFloat16, op,
                  ": x on a GPU must be bfloat16");
  STD_TORCH_CHECK(
      has_residual_block_cuda(inputs, outputs, shortcut_weight.has_value()), op,
      ": blocks on a GPU are 1 to 32, 32 to 32, 32 to 64 or 64 to 64 channels "
      "wide, with a shortcut where these differ, got ",
      inputs, " to ", outputs,
      shortcut_weight.has_value() ? " with" : " without", " one");
  check_image(op, x);
  STD_TORCH_CHECK(x.size(3) < (1 << 30), op, ": too many steps");
  ResidualCudaParams params{};
  params.batch = x.size(0);
  params.inputs = static_cast<int32_t>(inputs);
  params.outputs = static_cast<int32_t>(outputs);
  params.height = static_cast<int32_t>(x.size(2));
  params.steps = x.size(3);
  x = as_octets(x);
  params.x = static_cast<const uint16_t*>(x.const_data_ptr());
  params.conv1 =
      weights.convolution(conv1_weight, conv1_bias, {outputs, inputs, 2, 3});
  params.conv2 =
      weights.convolution(conv2_weight, conv2_bias, {outputs, outputs, 2, 3});
  params.shortcut =
      weights.shortcut(shortcut_weight, shortcut_bias, outputs, inputs);
  return params;
}

std::vector<int64_t> out_sizes(const ResidualCudaParams& params) {
  return {params.batch, params.outputs, params.height,
          params.steps / kPoolSteps};
}

std::vector<int64_t> middle_sizes(const ResidualCudaParams& params) {
  return {params.batch, params.outputs, params.height + 1, params.steps};
}

// Of no elements where it is not kept.
Tensor new_middle(const Tensor& x, const ResidualCudaParams& params) {
  return params.inputs == 1
             ? new_tensor(x, {0}, ScalarType::BFloat16)
             : new_channels_last(x, middle_sizes(params), ScalarType::BFloat16);
}

uint16_t* middle_data(const Tensor& middle, const ResidualCudaParams& params) {
  return params.inputs == 1 ? nullptr : data_of<uint16_t>(middle);
}

// Gives params what every pass writes before it reads it.
class Scratch {
 public:
  Scratch(const Tensor& x, ResidualCudaParams& params)
      : norm_(new_tensor(x, {2, params.outputs}, ScalarType::Float)),
        packed_(
            new_tensor(x, {residual_packed_cuda(params)}, ScalarType::Int)) {
    params.norm = data_of<float>(norm_);
    params.packed = data_of<uint32_t>(packed_);
  }

 private:
  Tensor norm_, packed_;
};

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
  const CudaDevice device(x);
  Weights weights(kName, x);
  ResidualCudaParams params =
      check(kName, x, conv1_weight, conv1_bias, conv2_weight, conv2_bias,
            shortcut_weight, shortcut_bias, weights);
  const Normalisation norm = weights.normalisation(
      {norm_weight, norm_bias, norm_mean, norm_variance}, eps, params.outputs);
  Tensor out = new_channels_last(x, out_sizes(params), ScalarType::BFloat16);
  if (params.batch == 0)
    return out;
  const Tensor middle = new_middle(x, params);
  const Scratch scratch(x, params);
  params.middle = middle_data(middle, params);
  params.out = data_of<uint16_t>(out);
  check_launch(residual_block_cuda(params, norm, device.stream()), kName);
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> train(
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
  const CudaDevice device(x);
  Weights weights(kTraining, x);
  ResidualCudaParams params =
      check(kTraining, x, conv1_weight, conv1_bias, conv2_weight, conv2_bias,
            shortcut_weight, shortcut_bias, weights);
  ResidualStatisticsParams statistics{};
  statistics.weight = weights.next(norm_weight, {params.outputs});
  statistics.bias = weights.next(norm_bias, {params.outputs});
  statistics.eps = eps;
  Tensor out = new_channels_last(x, out_sizes(params), ScalarType::BFloat16);
  Tensor chosen = new_channels_last(x, out_sizes(params), ScalarType::Byte);
  Tensor middle = new_middle(x, params);
  Tensor mean = new_tensor(x, {params.outputs}, ScalarType::Float);
  Tensor variance = new_tensor(x, {params.outputs}, ScalarType::Float);
  Tensor input_mean = new_tensor(x, {params.inputs}, ScalarType::Float);
  Tensor input_variance = new_tensor(x, {params.inputs}, ScalarType::Float);
  if (params.batch == 0) {
    fill({mean, variance, input_mean, input_variance}, kNaN);
    return {out, middle, chosen, mean, variance, input_mean, input_variance};
  }
  const Scratch scratch(x, params);
  const Tensor partials =
      new_tensor(x, {residual_partials_cuda(params)}, ScalarType::Float);
  params.out = data_of<uint16_t>(out);
  params.chosen = data_of<uint8_t>(chosen);
  params.middle = middle_data(middle, params);
  statistics.mean = data_of<float>(mean);
  statistics.variance = data_of<float>(variance);
  statistics.input_mean = data_of<float>(input_mean);
  statistics.input_variance = data_of<float>(input_variance);
  statistics.partials = data_of<float>(partials);
  check_launch(
      residual_block_training_cuda(params, statistics, device.stream()),
      kTraining);
  return {out, middle, chosen, mean, variance, input_mean, input_variance};
}

// What the forward pass kept, and the gradient of its result, checked and laid
// out as kernels read them.
void check_kept(const Tensor& x,
                ResidualCudaBackwardParams& params,
                Tensor& grad_out,
                Tensor& middle,
                Tensor& chosen,
                Tensor& mean,
                Tensor& variance) {
  ResidualCudaParams& forward = params.forward;
  const bool is_first = forward.inputs == 1;
  const std::vector<int64_t> out = out_sizes(forward);
  const auto is_statistic = [&](const Tensor& tensor) {
    return sizes_of(tensor) == std::vector<int64_t>{forward.outputs} &&
           tensor.scalar_type() == ScalarType::Float &&
           tensor.device() == x.device();
  };
  STD_TORCH_CHECK(
      sizes_of(grad_out) == out && grad_out.device() == x.device() &&
          sizes_of(chosen) == out && chosen.device() == x.device() &&
          chosen.scalar_type() == ScalarType::Byte && is_statistic(mean) &&
          is_statistic(variance) &&
          (is_first || fits(middle, x, middle_sizes(forward))),
      kTraining, ": the gradient or what was kept does not fit x");
  // Outside of the engine a gradient may come in float32.
  if (grad_out.scalar_type() != ScalarType::BFloat16)
    grad_out = torch::stable::to(grad_out, ScalarType::BFloat16);
  grad_out = as_octets(grad_out);
  chosen = as_octets(chosen);
  mean = packed(mean);
  variance = packed(variance);
  if (!is_first)
    middle = as_octets(middle);
  params.grad_out = static_cast<const uint16_t*>(grad_out.const_data_ptr());
  params.mean = static_cast<const float*>(mean.const_data_ptr());
  params.variance = static_cast<const float*>(variance.const_data_ptr());
  forward.chosen = data_of<uint8_t>(chosen);
  forward.middle = middle_data(middle, forward);
}

std::tuple<Tensor,
           Tensor,
           Tensor,
           Tensor,
           Tensor,
           Tensor,
           Tensor,
           Tensor,
           Tensor>
backward(Tensor grad_out,
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
  const CudaDevice device(x);
  Weights weights(kTraining, x);
  ResidualCudaBackwardParams params{};
  ResidualCudaParams& forward = params.forward;
  forward = check(kTraining, x, conv1_weight, conv1_bias, conv2_weight,
                  conv2_bias, shortcut_weight, shortcut_bias, weights);
  params.norm_weight = weights.next(norm_weight, {forward.outputs});
  params.norm_bias = weights.next(norm_bias, {forward.outputs});
  params.eps = eps;
  check_kept(x, params, grad_out, middle, chosen, mean, variance);
  Tensor dx = new_channels_last(x, sizes_of(x), ScalarType::BFloat16);
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
  if (forward.batch == 0) {
    fill({dconv1_weight, dconv1_bias, dnorm_weight, dnorm_bias, dconv2_weight,
          dconv2_bias, dshortcut_weight, dshortcut_bias},
         0);
  } else {
    const Scratch scratch(x, forward);
    const Tensor dnormal =
        new_channels_last(x, middle_sizes(forward), ScalarType::BFloat16);
    const Tensor coefficients =
        new_tensor(x, {3, forward.outputs}, ScalarType::Float);
    const Tensor partials = new_tensor(
        x, {residual_backward_partials_cuda(forward)}, ScalarType::Float);
    params.dnormal = data_of<uint16_t>(dnormal);
    params.coefficients = data_of<float>(coefficients);
    params.partials = data_of<float>(partials);
    params.dx = data_of<uint16_t>(dx);
    params.dconv1_weight = data_of<float>(dconv1_weight);
    params.dconv1_bias = data_of<float>(dconv1_bias);
    params.dnorm_weight = data_of<float>(dnorm_weight);
    params.dnorm_bias = data_of<float>(dnorm_bias);
    params.dconv2_weight = data_of<float>(dconv2_weight);
    params.dconv2_bias = data_of<float>(dconv2_bias);
    if (shortcut_weight.has_value()) {
      params.dshortcut_weight = data_of<float>(dshortcut_weight);
      params.dshortcut_bias = data_of<float>(dshortcut_bias);
    }
    check_launch(residual_block_training_backward_cuda(params, device.stream()),
                 kTraining);
  }
  return {dx,           dconv1_weight,    dconv1_bias,
          dnorm_weight, dnorm_bias,       dconv2_weight,
          dconv2_bias,  dshortcut_weight, dshortcut_bias};
}

STABLE_TORCH_LIBRARY_IMPL(sparse_aasist, CUDA, m) {
  m.impl("residual_block", TORCH_BOX(&forward));
  m.impl("residual_block_training", TORCH_BOX(&train));
  m.impl("residual_block_training_backward", TORCH_BOX(&backward));
}

}  // namespace
}  // namespace sparse_aasist

#endif
