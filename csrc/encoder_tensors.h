// What the bindings of the encoder's stages share.
#pragma once

#include <cstdint>
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

  const char* op() const { return op_; }

 private:
  const char* op_;
  const Tensor& like_;
  std::vector<Tensor> kept_;
};

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
