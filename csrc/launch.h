// The thin layer under the CUDA sources: what a kernel needs from CUDA, in a
// form that nvcc and a plain C++ compiler both take.
//
// nvcc gets the CUDA runtime. Any other compiler gets simt_shim.h, found on
// its include path (tests/simt/), which runs the same kernel on a CPU.
//
//   const char* error = SPARSE_AASIST_LAUNCH((kernel<T>), grid, block, stream,
//                                            arguments...);
//   error is nullptr, or the reason why the launch failed.
#pragma once

#ifdef __CUDACC__

#include <cuda_runtime.h>

namespace sparse_aasist {

inline const char* launch_error() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace sparse_aasist

#define SPARSE_AASIST_LAUNCH(kernel, grid, block, stream, ...)        \
  (kernel<<<(grid), (block), 0, static_cast<cudaStream_t>(stream)>>>( \
       __VA_ARGS__),                                                  \
   ::sparse_aasist::launch_error())

#else

#include "simt_shim.h"

#endif
