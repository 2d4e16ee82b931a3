// What the bindings of the encoder's stages share.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "residual_block.h"
#include "task_scratch.h"
#include "tensor_rows.h"

namespace sparse_aasist {

// Checks weights, float32 beside x of any format, and keeps them, made
// contiguous, for a call.
class Weights {
 public:
  Weights(const char* op, const Tensor& like) : op_(op), like_(like) {}

  const float* next(const Tensor& tensor, const std::vector<int64_t>& sizes) {
    STD_TORCH_CHECK(sizes_of(tensor) == sizes &&
                        tensor.scalar_type() == ScalarType::Float &&
                        tensor.device() == like_.device(),
                    op_, ": weight ", kept_.size(),
                    " has another shape, dtype or device than it must");
    kept_.push_back(packed(tensor));
    return static_cast<const float*>(kept_.back().const_data_ptr());
  }

  Convolution convolution(const Tensor& weight,
                          const Tensor& bias,
                          const std::vector<int64_t>& sizes) {
    const float* const data = next(weight, sizes);
    return {data, next(bias, {sizes[0]})};
  }

  // None: x itself is added.
  Convolution shortcut(const std::optional<Tensor>& weight,
                       const std::optional<Tensor>& bias,
                       int64_t outputs,
                       int64_t inputs) {
    STD_TORCH_CHECK(weight.has_value() == bias.has_value() &&
                        (weight.has_value() || inputs == outputs),
                    op_,
                    ": a shortcut has weight and bias, and is needed where the "
                    "widths differ");
    if (!weight.has_value())
      return {nullptr, nullptr};
    return convolution(*weight, *bias, {outputs, inputs, 1, 3});
  }

  // Weight, bias, mean and variance.
  Normalisation normalisation(const std::vector<Tensor>& of,
                              double eps,
                              int64_t channels) {
    const float* data[4];
    for (size_t i = 0; i < 4; ++i)
      data[i] = next(of[i], {channels});
    return {data[0], data[1], data[2], data[3], eps};
  }

 private:
  const char* op_;
  const Tensor& like_;
  std::vector<Tensor> kept_;
};

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

// x is (batch, channels, height, steps).
inline void check_image(const char* op, const Tensor& x) {
  STD_TORCH_CHECK(
      x.size(2) >= 1 && x.size(2) < (1 << 20) && x.size(3) >= kPoolSteps, op,
      ": there must be a row and ", kPoolSteps, " steps");
}

inline void check_block(const char* op, const Tensor& x, int64_t outputs) {
  STD_TORCH_CHECK(x.dim() == 4 && x.scalar_type() == ScalarType::Float, op,
                  ": x must be float32, (batch, channels, height, steps)");
  STD_TORCH_CHECK(x.size(1) >= 1 && x.size(1) <= kMaxChannels && outputs >= 1 &&
                      outputs <= kMaxChannels,
                  op, ": channels must be in 1..", kMaxChannels);
  check_image(op, x);
}

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// For an empty batch, of which kernels compute nothing: its statistics are NaN,
// and gradients 0.
inline void fill(const std::vector<Tensor>& tensors, double value) {
  for (const Tensor& tensor : tensors)
    torch::stable::fill_(tensor, value);
}

// Calls run(begin, end, scratch) for parts of `tasks` tasks, with scratch of
// `size` entries each.
template <class Run>
void run_tasks(int64_t tasks, int64_t size, const Run& run) {
  const int64_t bytes = size * static_cast<int64_t>(sizeof(float));
  run_with_scratch(tasks, 1, bytes,
                   [&](int64_t begin, int64_t end, void* scratch) {
                     run(begin, end, static_cast<float*>(scratch));
                   });
}

}  // namespace sparse_aasist
