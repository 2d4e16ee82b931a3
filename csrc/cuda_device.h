// A tensor's CUDA device made current, with the framework's current stream,
// in a library that must also load beside a torch without CUDA.
#pragma once

#include <cstdint>

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/headeronly/util/Exception.h>

#include "tensor_rows.h"

// Weak: a CPU build of torch lacks this symbol, and then it is null.
extern "C" __attribute__((weak)) AOTITorchError
aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

namespace sparse_aasist {

class CudaDevice {
 public:
  explicit CudaDevice(const Tensor& tensor)
      : tensor_(tensor), guard_(tensor.get_device_index()) {
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr,
                    "this torch was built without CUDA");
    const int32_t index = tensor.get_device_index();
    const AOTITorchError error =
        aoti_torch_get_current_cuda_stream(index, &stream_);
    STD_TORCH_CHECK(error == 0, "cannot get the current CUDA stream of device ",
                    index);
  }

  void* stream() const { return stream_; }

  Tensor new_float64(int64_t size) const {
    return new_tensor(tensor_, {size}, ScalarType::Double);
  }

 private:
  Tensor tensor_;
  torch::stable::accelerator::DeviceGuard guard_;
  void* stream_ = nullptr;
};

// `error` is what a launcher returned.
inline void check_launch(const char* error, const char* op) {
  STD_TORCH_CHECK(error == nullptr, op, ": ", error);
}

}  // namespace sparse_aasist
