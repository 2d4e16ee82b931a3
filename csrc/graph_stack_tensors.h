// What the bindings of graph_stack and of its training share: the tensors of a
// call, checked and contiguous, as parameters of the kernels.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include "graph_stack.h"
#include "tensor_rows.h"

namespace sparse_aasist {

// What makes one model differ from another, beside its weights.
struct StackShape {
  std::vector<int64_t> kept;  // by the first pools, then by those of a branch
  std::vector<double> temperatures;
  std::vector<double> eps;
};

inline GraphStackSizes stack_sizes(const char* op,
                                   const Tensor& features,
                                   const std::vector<Tensor>& weights,
                                   const StackShape& shape) {
  STD_TORCH_CHECK(features.dim() == 4, op,
                  ": features must be (batch, channels, bands, steps)");
  const FloatFormat format = format_of(features, op);
  STD_TORCH_CHECK(
      format == FloatFormat::kFloat32 || format == FloatFormat::kFloat64, op,
      ": tensors must be float32 or float64");
  STD_TORCH_CHECK(shape.kept.size() == 2 * kHalves &&
                      shape.temperatures.size() == kStackLayers &&
                      shape.eps.size() == kStackLayers,
                  op, ": wants ", 2 * kHalves, " counts of kept nodes and ",
                  kStackLayers, " temperatures and eps");
  // A master is (1, 1, dim), the score of the last pool (1, hidden).
  STD_TORCH_CHECK(weights.size() > 3 && weights[1].dim() == 3 &&
                      weights[weights.size() - 2].dim() == 2,
                  op, ": weights must end with the layer of a pool");
  const auto narrow = [](int64_t size) {
    return static_cast<int32_t>(std::clamp<int64_t>(size, 0, 1 << 20));
  };
  GraphStackSizes sizes{};
  sizes.format = format;
  sizes.batch = features.size(0);
  sizes.channels = narrow(features.size(1));
  sizes.bands = narrow(features.size(2));
  sizes.steps = narrow(features.size(3));
  sizes.dim = narrow(weights[1].size(2));
  sizes.hidden = narrow(weights[weights.size() - 2].size(1));
  for (int32_t half = 0; half < kHalves; ++half) {
    sizes.first_kept[half] = narrow(shape.kept[half]);
    sizes.kept[half] = narrow(shape.kept[kHalves + half]);
  }
  std::copy(shape.temperatures.begin(), shape.temperatures.end(),
            sizes.temperatures);
  std::copy(shape.eps.begin(), shape.eps.end(), sizes.eps);
  const char* reason = refusal(sizes);
  STD_TORCH_CHECK(reason == nullptr, op, ": ", reason);
  return sizes;
}

// Hands out the tensors of a list, each checked and made contiguous in it.
class TensorList {
 public:
  TensorList(const char* op,
             const char* name,
             std::vector<Tensor>& tensors,
             const Tensor& like)
      : op_(op), name_(name), tensors_(tensors), like_(like) {}

  const Tensor& next(std::initializer_list<int64_t> expected) {
    STD_TORCH_CHECK(
        read_ < tensors_.size() && fits(tensors_[read_], like_, expected), op_,
        ": ", name_, " ", read_,
        " is missing, or of another shape, dtype or device");
    Tensor& tensor = tensors_[read_++];
    tensor = packed(tensor);
    return tensor;
  }

  void finish() const {
    STD_TORCH_CHECK(read_ == tensors_.size(), op_, ": wants ", read_, " ",
                    name_, "s, got ", tensors_.size());
  }

 private:
  const char* op_;
  const char* name_;
  std::vector<Tensor>& tensors_;
  const Tensor& like_;
  size_t read_ = 0;
};

// The parameters of these tensors, which become contiguous.
inline GraphStackParams stack_params(const char* op,
                                     const GraphStackSizes& sizes,
                                     Tensor& features,
                                     std::vector<Tensor>& weights) {
  features = packed(features);
  TensorList list(op, "weight", weights, features);
  const auto next = [&](std::initializer_list<int64_t> expected) {
    return list.next(expected).const_data_ptr();
  };
  GraphStackParams params = StackWeights(sizes, next).read();
  list.finish();
  params.features = features.const_data_ptr();
  return params;
}

inline bool is_aligned(const Tensor& room) {
  return reinterpret_cast<uintptr_t>(room.const_data_ptr()) % 64 == 0;
}

// Room for `bytes`; both allocators of torch align it to 64 or more.
inline Tensor new_room(const Tensor& like, int64_t bytes) {
  return new_tensor(like, {bytes}, ScalarType::Byte);
}

inline void* room_at(const char* op, const Tensor& room) {
  STD_TORCH_CHECK(is_aligned(room), op, ": memory must be aligned to 64 bytes");
  return room.mutable_data_ptr();
}

}  // namespace sparse_aasist
