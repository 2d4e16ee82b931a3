// What the bindings of the encoder's stages share.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "residual_block.h"
#include "tensor_rows.h"

namespace sparse_aasist {

// Checks weights and keeps them, made contiguous, for a call.
class Weights {
 public:
  Weights(const char* op, const Tensor& like) : op_(op), like_(like) {}

  const float* next(const Tensor& tensor, const std::vector<int64_t>& sizes) {
    STD_TORCH_CHECK(fits(tensor, like_, sizes), op_, ": weight ", kept_.size(),
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
                                const std::vector<int64_t>& sizes) {
  return new_strided_tensor(
      like, sizes,
      {sizes[1] * sizes[2] * sizes[3], 1, sizes[1] * sizes[3], sizes[1]},
      ScalarType::Float);
}

// Calls run(begin, end, scratch) for parts of `tasks` tasks, each with scratch
// of its own.
template <class Run>
void run_tasks(int64_t tasks, int64_t scratch_size, const Run& run) {
  constexpr int64_t kAlignment = 64;
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<char[]> room(
        new char[scratch_size * sizeof(float) + kAlignment]);
    const auto address = reinterpret_cast<uintptr_t>(room.get());
    run(begin, end,
        reinterpret_cast<float*>(room.get() +
                                 (kAlignment - address % kAlignment)));
  });
}

}  // namespace sparse_aasist
