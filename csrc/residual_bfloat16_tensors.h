// residual_block and its training in bfloat16: checks and allocation for any
// device. A `Device` runs the passes and says how much room they want:
//
//   explicit Device(const Tensor&)
//   static constexpr bool kKeepsMiddle  // without gradients, too
//   int64_t packed(const ResidualBfloat16Params&) const
//   int64_t training_partials(const ResidualBfloat16Params&) const
//   int64_t backward_partials(const ResidualBfloat16Params&) const
//   void run(const ResidualBfloat16Params&, const Normalisation&) const
//   void run(const ResidualBfloat16Params&,
//            const ResidualStatisticsParams&) const
//   void run(const ResidualBfloat16BackwardParams&) const
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "residual_block_bfloat16.h"
#include "residual_tensors.h"

namespace sparse_aasist::bfloat16 {

constexpr const char* kScoring = "residual_block";
constexpr const char* kTraining = "residual_block_training";

// Kernels index a row, of up to 64 channels, and the clips in 32 bits.
constexpr int64_t kMostSteps = (1 << 25) - 1;
constexpr int64_t kMostClips = 1 << 30;

// With neighbouring channels, from a multiple of 16 bytes on: kernels load
// eight channels at once.
inline Tensor as_octets(const Tensor& tensor) {
  const Tensor rows = as_channels_last(tensor);
  const auto address = reinterpret_cast<uintptr_t>(rows.const_data_ptr());
  return address % 16 == 0 ? rows : torch::stable::clone(rows);
}

// What all are given, checked; x is laid out as kernels read it.
inline ResidualBfloat16Params check(
    Weights& weights,
    Tensor& x,
    const Tensor& conv1_weight,
    const Tensor& conv1_bias,
    const Tensor& conv2_weight,
    const Tensor& conv2_bias,
    const std::optional<Tensor>& shortcut_weight,
    const std::optional<Tensor>& shortcut_bias) {
  const char* const op = weights.op();
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::BFloat16, op,
                  ": x must be bfloat16");
  auto params = block_params<ResidualBfloat16Params>(
      weights, x, conv1_weight, conv1_bias, conv2_weight, conv2_bias,
      shortcut_weight, shortcut_bias);
  STD_TORCH_CHECK(has_residual_block_bfloat16(params.inputs, params.outputs,
                                              shortcut_weight.has_value()),
                  op,
                  ": blocks in bfloat16 are 1 to 32, 32 to 32, 32 to 64 or 64 "
                  "to 64 channels "
                  "wide, with a shortcut where these differ, got ",
                  params.inputs, " to ", params.outputs,
                  shortcut_weight.has_value() ? " with" : " without", " one");
  STD_TORCH_CHECK(params.batch <= kMostClips && params.steps <= kMostSteps, op,
                  ": x in bfloat16 may have ", kMostClips, " clips of ",
                  kMostSteps, " steps, got ", params.batch, " of ",
                  params.steps);
  x = as_octets(x);
  params.x = static_cast<const uint16_t*>(x.const_data_ptr());
  return params;
}

// Of no elements where it is not kept.
inline Tensor new_middle(const Tensor& x,
                         const ResidualBfloat16Params& params) {
  return params.inputs == 1
             ? new_tensor(x, {0}, ScalarType::BFloat16)
             : new_channels_last(x, middle_sizes(params), ScalarType::BFloat16);
}

inline uint16_t* middle_data(const Tensor& middle,
                             const ResidualBfloat16Params& params) {
  return params.inputs == 1 ? nullptr : data_of<uint16_t>(middle);
}

// Gives params what every pass writes before it reads it.
class Scratch {
 public:
  template <class Device>
  Scratch(const Tensor& x, const Device& device, ResidualBfloat16Params& params)
      : affine_(new_tensor(x, {2, params.outputs}, ScalarType::Float)),
        packed_(new_tensor(x, {device.packed(params)}, ScalarType::Int)) {
    params.affine = data_of<float>(affine_);
    params.packed = data_of<uint32_t>(packed_);
  }

 private:
  Tensor affine_, packed_;
};

template <class Device>
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
  const Device device(x);
  Weights weights(kScoring, x);
  ResidualBfloat16Params params =
      check(weights, x, conv1_weight, conv1_bias, conv2_weight, conv2_bias,
            shortcut_weight, shortcut_bias);
  const Normalisation norm = weights.normalisation(
      {norm_weight, norm_bias, norm_mean, norm_variance}, eps, params.outputs);
  const Tensor out =
      new_channels_last(x, out_sizes(params), ScalarType::BFloat16);
  if (params.batch == 0)
    return out;
  std::optional<Tensor> middle;
  if (Device::kKeepsMiddle) {
    middle = new_middle(x, params);
    params.middle = middle_data(*middle, params);
  }
  const Scratch scratch(x, device, params);
  params.out = data_of<uint16_t>(out);
  device.run(params, norm);
  return out;
}

template <class Device>
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
  const Device device(x);
  Weights weights(kTraining, x);
  ResidualBfloat16Params params =
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
  const Scratch scratch(x, device, params);
  const Tensor partials =
      new_tensor(x, {device.training_partials(params)}, ScalarType::Float);
  params.out = data_of<uint16_t>(out);
  params.chosen = data_of<uint8_t>(chosen);
  params.middle = middle_data(middle, params);
  kept.give(statistics);
  statistics.partials = data_of<float>(partials);
  device.run(params, statistics);
  return kept.with(out, middle, chosen);
}

// What the forward pass kept beside statistics, and the gradient of its result,
// checked and laid out as kernels read them.
inline void check_kept(const Tensor& x,
                       ResidualBfloat16BackwardParams& params,
                       Tensor& grad_out,
                       Tensor& middle,
                       Tensor& chosen) {
  ResidualBfloat16Params& forward = params.forward;
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
template <class Device>
void run_backward(const Tensor& x,
                  const Device& device,
                  ResidualBfloat16BackwardParams& params) {
  ResidualBfloat16Params& forward = params.forward;
  const Scratch scratch(x, device, forward);
  const Tensor dnormal =
      new_channels_last(x, middle_sizes(forward), ScalarType::BFloat16);
  const Tensor coefficients =
      new_tensor(x, {3, forward.outputs}, ScalarType::Float);
  const Tensor partials =
      new_tensor(x, {device.backward_partials(forward)}, ScalarType::Float);
  params.dnormal = data_of<uint16_t>(dnormal);
  params.coefficients = data_of<float>(coefficients);
  params.partials = data_of<float>(partials);
  device.run(params);
}

template <class Device>
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
  const Device device(x);
  Weights weights(kTraining, x);
  ResidualBfloat16BackwardParams params{};
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
    run_backward(x, device, params);
  return gradients.with(dx);
}

}  // namespace sparse_aasist::bfloat16
