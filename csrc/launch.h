// The thin layer under the CUDA sources: what a kernel needs from CUDA, in a
// form that nvcc and a plain C++ compiler both take.
//
// nvcc gets the CUDA runtime. Any other compiler gets simt_shim.h, found on
// its include path (tests/simt/), which runs the same kernel on a CPU.
//
//   const char* error = SPARSE_AASIST_LAUNCH((kernel<T>), grid, block,
//                                            shared_bytes, stream,
//                                            arguments...);
//   error is nullptr, or the reason why the launch failed.
//
//   allow_dynamic_shared(kernel, bytes) returns the same.
//
//   SPARSE_AASIST_SHARED(T, name, count);      T name[count] of the block
//   SPARSE_AASIST_DYNAMIC_SHARED(T, name);     T* name, of shared_bytes
#pragma once

#ifdef __CUDACC__

#include <cstdint>

#include <cuda_runtime.h>

namespace sparse_aasist {

constexpr int64_t kMaxBlocks = 0x7fffffff;  // limit of gridDim.x

inline const char* launch_error() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

// Before a launch with more than 48 KB.
template <class Kernel>
const char* allow_dynamic_shared(Kernel* kernel, size_t bytes) {
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(bytes));
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace sparse_aasist

#define SPARSE_AASIST_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  (kernel<<<(grid), (block), (shared_bytes),                                 \
            static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__),               \
   ::sparse_aasist::launch_error())

#define SPARSE_AASIST_SHARED(type, name, count) __shared__ type name[count]

#define SPARSE_AASIST_DYNAMIC_SHARED(type, name)                         \
  extern __shared__ __align__(16) unsigned char sparse_aasist_dynamic[]; \
  type* const name = reinterpret_cast<type*>(sparse_aasist_dynamic)

#else

#include "simt_shim.h"

#endif

namespace sparse_aasist {

// For `count` pieces of work, over which the blocks walk where they are fewer.
inline unsigned blocks_for(int64_t count, int64_t most = kMaxBlocks) {
  most = most < kMaxBlocks ? most : kMaxBlocks;
  return static_cast<unsigned>(count < most ? count : most);
}

}  // namespace sparse_aasist
