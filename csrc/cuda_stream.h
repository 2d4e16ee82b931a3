// The framework's current CUDA stream, reachable from a library that must also
// load beside a torch without CUDA.
#pragma once

#include <cstdint>

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/headeronly/util/Exception.h>

// Weak: a CPU build of torch lacks this symbol, and then it is null.
extern "C" __attribute__((weak)) AOTITorchError
aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

namespace sparse_aasist {

inline void* current_cuda_stream(int32_t device_index) {
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr,
                  "this torch was built without CUDA");
  void* stream = nullptr;
  const AOTITorchError error =
      aoti_torch_get_current_cuda_stream(device_index, &stream);
  STD_TORCH_CHECK(error == 0, "cannot get the current CUDA stream of device ",
                  device_index);
  return stream;
}

}  // namespace sparse_aasist
