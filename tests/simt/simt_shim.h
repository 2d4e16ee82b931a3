// A serial stand-in for CUDA: runs a kernel on a CPU, block after block and
// thread after thread, so that the device source itself is tested where there
// is no GPU. Good for kernels without barriers and warp collectives.
#pragma once

#include <cstdint>

#define __global__
#define __device__
#define __host__

namespace sparse_aasist::simt {

struct Index {
  unsigned x = 0;
};

inline Index block_index, thread_index, grid_size, block_size;

template <class Kernel, class... Args>
const char* launch(Kernel kernel, unsigned grid, unsigned block, Args... args) {
  if (grid == 0 || block == 0 || block > 1024)
    return "invalid configuration argument";
  grid_size.x = grid;
  block_size.x = block;
  for (block_index.x = 0; block_index.x < grid; ++block_index.x)
    for (thread_index.x = 0; thread_index.x < block; ++thread_index.x)
      kernel(args...);
  return nullptr;
}

}  // namespace sparse_aasist::simt

#define blockIdx (::sparse_aasist::simt::block_index)
#define threadIdx (::sparse_aasist::simt::thread_index)
#define gridDim (::sparse_aasist::simt::grid_size)
#define blockDim (::sparse_aasist::simt::block_size)

#define SPARSE_AASIST_LAUNCH(kernel, grid, block, stream, ...) \
  ((void)(stream),                                             \
   ::sparse_aasist::simt::launch(kernel, grid, block, __VA_ARGS__))
