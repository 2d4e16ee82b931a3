// topk_activation on a GPU: selection is in topk_warp.cuh and topk_block.cuh;
// backward, a warp or a block writes the zeros of a row and then the gradients
// of what was kept.
#include "launch.h"
#include "row_access.cuh"
#include "topk_activation.h"
#include "topk_select.cuh"

namespace sparse_aasist {
namespace {

struct NoFinish {
  __device__ void operator()(int64_t, int32_t, int32_t) const {}
};

// kThreads work on a row: a warp, or a block.
template <class Format, int kThreads>
__global__ void topk_activation_backward_kernel(
    TopkActivationBackwardParams params) {
  using Bits = typename Format::Bits;
  const int32_t rows_per_block = blockDim.x / kThreads;
  const int32_t thread = threadIdx.x % kThreads;
  const int64_t step = static_cast<int64_t>(gridDim.x) * rows_per_block;
  int64_t row = static_cast<int64_t>(blockIdx.x) * rows_per_block +
                static_cast<int32_t>(threadIdx.x) / kThreads;
  for (; row < params.rows; row += step) {
    Bits* dx = at<Bits>(params.dx, row * params.dim);
    for (int32_t index = thread * kQuad; index < params.dim;
         index += kThreads * kQuad)
      store_quad<Bits>(dx, index, params.dim, Quad<Bits>{});
    if constexpr (kThreads == 32)
      __syncwarp();
    else
      __syncthreads();
    const Bits* grad = at<Bits>(params.grad, row * params.grad_row_stride);
    const Bits* grad_values = at<Bits>(params.grad_values, row * params.k);
    const int32_t* indices = params.indices + row * params.k;
    for (int32_t i = thread; i < params.k; i += kThreads) {
      const int32_t index = indices[i];
      if (index < 0)
        continue;
      const int64_t offset = index * params.grad_dim_stride;
      if (grad_values == nullptr)
        dx[index] = grad[offset];
      else if (grad == nullptr)
        dx[index] = grad_values[i];
      else
        dx[index] = Format::from_double(Format::to_double(grad[offset]) +
                                        Format::to_double(grad_values[i]));
    }
  }
}

}  // namespace

const char* topk_activation_cuda(const TopkActivationParams& params,
                                 void* stream) {
  return with_format(params.format, [&](auto format) {
    return launch_select<decltype(format)>(params, NoFinish{}, stream);
  });
}

const char* topk_activation_backward_cuda(
    const TopkActivationBackwardParams& params,
    void* stream) {
  if (params.rows == 0)
    return nullptr;  // CUDA refuses a launch of no blocks
  return with_format(params.format, [&](auto format) {
    using Format = decltype(format);
    constexpr int kBlock = 256;
    if (params.dim > 2048)
      return SPARSE_AASIST_LAUNCH(
          (topk_activation_backward_kernel<Format, kBlock>),
          blocks_for(params.rows), kBlock, 0, stream, params);
    constexpr int kRows = kBlock / 32;
    return SPARSE_AASIST_LAUNCH((topk_activation_backward_kernel<Format, 32>),
                                blocks_for((params.rows + kRows - 1) / kRows),
                                kBlock, 0, stream, params);
  });
}

}  // namespace sparse_aasist
