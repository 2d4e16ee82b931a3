// residual_block and its training on a GPU: checks, allocation and
// registration. The schemas are in residual_block.cpp and
// residual_block_training.cpp.
#ifdef SPARSE_AASIST_WITH_CUDA

#include "residual_block_cuda.h"

#include <cstdint>
#include <optional>

#include <torch/csrc/stable/library.h>

#include "cuda_device.h"
#include "residual_tensors.h"

namespace sparse_aasist {
namespace {

constexpr const char* kName = "residual_block";
constexpr const char* kTraining = "residual_block_training";

// Kernels index a row, of up to 64 channels, and the clips in 32 bits.
constexpr int64_t kMostSteps = (1 << 25) - 1;
constexpr int64_t kMostClips = 1 << 30;

// With neighbouring channels, from a multiple of 16 bytes on: kernels load
// eight channels at once.
Tensor as_octets(const Tensor& tensor) {
  const Tensor rows = as_channels_last(tensor);
  const auto address = reinterpret_cast<uintptr_t>(rows.const_data_ptr());
  return address % 16 == 0 ? rows : torch::stable::clone(rows);
}

// What all are given, checked; x is laid out as kernels read it.
ResidualCudaParams check(Weights& weights,
                         Tensor& x,
                         const Tensor& conv1_weight,
                         const Tensor& conv1_bias,
                         const Tensor& conv2_weight,
                         const Tensor& conv2_bias,
                         const std::optional<Tensor>& shortcut_weight,
                         const std::optional<Tensor>& shortcut_bias) {
  const char* const op = weights.op();
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::BFloat16, op,
                  ": x on a GPU must be bfloat16");
  auto params = block_params<ResidualCudaParams>(
      weights, x, conv1_weight, conv1_bias, conv2_weight, conv2_bias,
      shortcut_weight, shortcut_bias);
  STD_TORCH_CHECK(
      has_residual_block_cuda(params.inputs, params.outputs,
                              shortcut_weight.has_value()),
      op,
      ": blocks on a GPU are 1 to 32, 32 to 32, 32 to 64 or 64 to 64 channels "
      "wide, with a shortcut where these differ, got ",
      params.inputs, " to ", params.outputs,
      shortcut_weight.has_value() ? " with" : " without", " one");
  STD_TORCH_CHECK(params.batch <= kMostClips && params.steps <= kMostSteps, op,
                  ": x on a GPU may have ", kMostClips, " clips of ",
                  kMostSteps, " steps, got ", params.batch, " of ",
                  params.steps);
  x = as_octets(x);
  params.x = static_cast<const uint16_t*>(x.const_data_ptr());
  return params;
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
      : affine_(new_tensor(x, {2, params.outputs}, ScalarType::Float)),
        packed_(
            new_tensor(x, {residual_packed_cuda(params)}, ScalarType::Int)) {
    params.affine = data_of<float>(affine_);
    params.packed = data_of<uint32_t>(packed_);
  }

 private:
  Tensor affine_, packed_;
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
      check(weights, x, conv1_weight, conv1_bias, conv2_weight, conv2_bias,
            shortcut_weight, shortcut_bias);
  const Normalisation norm = weights.normalisation(
      {norm_weight, norm_bias, norm_mean, norm_variance}, eps, params.outputs);
  const Tensor out =
      new_channels_last(x, out_sizes(params), ScalarType::BFloat16);
  if (params.batch == 0)
    return out;
  const Tensor middle = new_middle(x, params);
  const Scratch scratch(x, params);
  params.middle = middle_data(middle, params);
  params.out = data_of<uint16_t>(out);
  check_launch(residual_block_cuda(params, norm, device.stream()), kName);
  return out;
}

TrainingResults train(Tensor x,
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
      check(weights, x, conv1_weight, conv1_bias, conv2_weight, conv2_bias,
            shortcut_weight, shortcut_bias);
  ResidualStatisticsParams statistics{};
  statistics.weight = weights.next(norm_weight, {params.outputs});
  statistics.bias = weights.next(norm_bias, {params.outputs});
  statistics.eps = eps;
  const Tensor out =
      new_channels_last(x, out_sizes(params), ScalarType::BFloat16);
  const Tensor chosen =
      new_channels_last(x, out_sizes(params), ScalarType::Byte);
  const Tensor middle = new_middle(x, params);
  const StatisticTensors kept(x, params.inputs, params.outputs);
  if (params.batch == 0)
    return kept.with(out, middle, chosen);
  const Scratch scratch(x, params);
  const Tensor partials = new_tensor(
      x, {residual_training_partials_cuda(params)}, ScalarType::Float);
  params.out = data_of<uint16_t>(out);
  params.chosen = data_of<uint8_t>(chosen);
  params.middle = middle_data(middle, params);
  kept.give(statistics);
  statistics.partials = data_of<float>(partials);
  check_launch(
      residual_block_training_cuda(params, statistics, device.stream()),
      kTraining);
  return kept.with(out, middle, chosen);
}

// What the forward pass kept beside statistics, and the gradient of its result,
// checked and laid out as kernels read them.
void check_kept(const Tensor& x,
                ResidualCudaBackwardParams& params,
                Tensor& grad_out,
                Tensor& middle,
                Tensor& chosen) {
  ResidualCudaParams& forward = params.forward;
  const bool is_first = forward.inputs == 1;
  const std::vector<int64_t> out = out_sizes(forward);
  STD_TORCH_CHECK(
      sizes_of(grad_out) == out && grad_out.device() == x.device() &&
          sizes_of(chosen) == out && chosen.device() == x.device() &&
          chosen.scalar_type() == ScalarType::Byte &&
          (is_first || fits(middle, x, middle_sizes(forward))),
      kTraining, ": the gradient or what was kept does not fit x");
  // Outside of the engine a gradient may come in float32.
  if (grad_out.scalar_type() != ScalarType::BFloat16)
    grad_out = torch::stable::to(grad_out, ScalarType::BFloat16);
  grad_out = as_octets(grad_out);
  chosen = as_octets(chosen);
  if (!is_first)
    middle = as_octets(middle);
  params.grad_out = static_cast<const uint16_t*>(grad_out.const_data_ptr());
  forward.chosen = data_of<uint8_t>(chosen);
  forward.middle = middle_data(middle, forward);
}

// All passes, with what they write before they read it.
void run_backward(const Tensor& x,
                  ResidualCudaBackwardParams& params,
                  void* stream) {
  ResidualCudaParams& forward = params.forward;
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
  check_launch(residual_block_training_backward_cuda(params, stream),
               kTraining);
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
  const CudaDevice device(x);
  Weights weights(kTraining, x);
  ResidualCudaBackwardParams params{};
  params.forward = check(weights, x, conv1_weight, conv1_bias, conv2_weight,
                         conv2_bias, shortcut_weight, shortcut_bias);
  params.norm = weights.normalisation({norm_weight, norm_bias, mean, variance},
                                      eps, params.forward.outputs);
  check_kept(x, params, grad_out, middle, chosen);
  const Tensor dx = new_channels_last(x, sizes_of(x), ScalarType::BFloat16);
  const GradientTensors gradients(
      x, {conv1_weight, conv1_bias, norm_weight, norm_bias, conv2_weight,
          conv2_bias, shortcut_weight, shortcut_bias});
  params.dx = data_of<uint16_t>(dx);
  params.gradients = gradients.pointers();
  if (params.forward.batch > 0)
    run_backward(x, params, device.stream());
  return gradients.with(dx);
}

STABLE_TORCH_LIBRARY_IMPL(sparse_aasist, CUDA, m) {
  m.impl("residual_block", TORCH_BOX(&forward));
  m.impl("residual_block_training", TORCH_BOX(&train));
  m.impl("residual_block_training_backward", TORCH_BOX(&backward));
}

}  // namespace
}  // namespace sparse_aasist

#endif
