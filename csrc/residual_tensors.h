// What the bindings of residual blocks share: checks, layouts, and the tensors
// of a training pass. `Params` are those of a kernel on any device.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "encoder_tensors.h"
#include "residual_block.h"

namespace sparse_aasist {

template <class T>
T* data_of(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// (batch, channels, height, steps) with neighbouring channels.
inline Tensor new_channels_last(const Tensor& like,
                                const std::vector<int64_t>& sizes,
                                ScalarType dtype) {
  return new_strided_tensor(
      like, sizes,
      {sizes[1] * sizes[2] * sizes[3], 1, sizes[1] * sizes[3], sizes[1]},
      dtype);
}

inline Tensor as_channels_last(const Tensor& tensor) {
  return torch::stable::contiguous(
      tensor, torch::headeronly::MemoryFormat::ChannelsLast);
}

// The sizes and convolutions of a block, checked; x is (batch, inputs, height,
// steps), conv1_weight (outputs, inputs, 2, 3).
template <class Params>
Params block_params(Weights& weights,
                    const Tensor& x,
                    const Tensor& conv1_weight,
                    const Tensor& conv1_bias,
                    const Tensor& conv2_weight,
                    const Tensor& conv2_bias,
                    const std::optional<Tensor>& shortcut_weight,
                    const std::optional<Tensor>& shortcut_bias) {
  constexpr int64_t kMostRows = (1 << 20) - 1;
  const char* const op = weights.op();
  STD_TORCH_CHECK(x.dim() == 4 && conv1_weight.dim() == 4, op,
                  ": x and conv1_weight must have 4 dimensions");
  const int64_t inputs = x.size(1), outputs = conv1_weight.size(0);
  STD_TORCH_CHECK(inputs >= 1 && inputs <= kMaxChannels && outputs >= 1 &&
                      outputs <= kMaxChannels,
                  op, ": channels must be in 1..", kMaxChannels);
  STD_TORCH_CHECK(
      x.size(2) >= 1 && x.size(2) <= kMostRows && x.size(3) >= kPoolSteps, op,
      ": x must have 1 to ", kMostRows, " rows and ", kPoolSteps,
      " steps or more, got ", x.size(2), " and ", x.size(3));
  Params params{};
  params.batch = x.size(0);
  params.inputs = static_cast<int32_t>(inputs);
  params.outputs = static_cast<int32_t>(outputs);
  params.height = static_cast<int32_t>(x.size(2));
  params.steps = x.size(3);
  params.conv1 =
      weights.convolution(conv1_weight, conv1_bias, {outputs, inputs, 2, 3});
  params.conv2 =
      weights.convolution(conv2_weight, conv2_bias, {outputs, outputs, 2, 3});
  params.shortcut =
      weights.shortcut(shortcut_weight, shortcut_bias, outputs, inputs);
  return params;
}

template <class Params>
std::vector<int64_t> out_sizes(const Params& params) {
  return {params.batch, params.outputs, params.height,
          params.steps / kPoolSteps};
}

template <class Params>
std::vector<int64_t> middle_sizes(const Params& params) {
  return {params.batch, params.outputs, params.height + 1, params.steps};
}

// out, middle, chosen, and the statistics in their order.
using TrainingResults =
    std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// Means and biased variances in float32, NaN for an empty batch, of which
// kernels compute nothing.
struct StatisticTensors {
  Tensor mean, variance;              // (outputs), of the middle
  Tensor input_mean, input_variance;  // (inputs), of x

  StatisticTensors(const Tensor& x, int64_t inputs, int64_t outputs)
      : mean(new_statistic(x, outputs)),
        variance(new_statistic(x, outputs)),
        input_mean(new_statistic(x, inputs)),
        input_variance(new_statistic(x, inputs)) {}

  template <class Params>
  void give(Params& params) const {
    params.mean = data_of<float>(mean);
    params.variance = data_of<float>(variance);
    params.input_mean = data_of<float>(input_mean);
    params.input_variance = data_of<float>(input_variance);
  }

  TrainingResults with(const Tensor& out,
                       const Tensor& middle,
                       const Tensor& chosen) const {
    return {out, middle, chosen, mean, variance, input_mean, input_variance};
  }

 private:
  static Tensor new_statistic(const Tensor& x, int64_t channels) {
    Tensor statistic = new_tensor(x, {channels}, ScalarType::Float);
    if (x.size(0) == 0)
      torch::stable::fill_(statistic, std::numeric_limits<double>::quiet_NaN());
    return statistic;
  }
};

// Of x, then of the weights in the order of ResidualGradients.
using GradientResults = std::tuple<Tensor,
                                   Tensor,
                                   Tensor,
                                   Tensor,
                                   Tensor,
                                   Tensor,
                                   Tensor,
                                   Tensor,
                                   Tensor>;

// Gradients of weights, given in the order of ResidualGradients: zero for an
// empty batch, and of no elements for a weight that is not there.
class GradientTensors {
 public:
  GradientTensors(const Tensor& x,
                  const std::vector<std::optional<Tensor>>& weights) {
    for (const std::optional<Tensor>& weight : weights) {
      const std::vector<int64_t> absent = {0};
      of_.push_back(new_tensor(x, weight ? sizes_of(*weight) : absent,
                               ScalarType::Float));
      if (x.size(0) == 0)
        torch::stable::fill_(of_.back(), 0);
    }
  }

  ResidualGradients pointers() const {
    return {at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7)};
  }

  GradientResults with(const Tensor& dx) const {
    return {dx, of_[0], of_[1], of_[2], of_[3], of_[4], of_[5], of_[6], of_[7]};
  }

 private:
  float* at(size_t i) const {
    return of_[i].numel() == 0 ? nullptr : data_of<float>(of_[i]);
  }

  std::vector<Tensor> of_;
};

}  // namespace sparse_aasist
