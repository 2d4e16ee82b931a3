// residual_block on a GPU: the weights packed and the norm folded, conv1, and
// the rest of the block.
#include "residual_block_cuda.h"
#include "residual_forward.cuh"

namespace sparse_aasist {
namespace {

__global__ void residual_fold_kernel(Normalisation norm,
                                     int32_t channels,
                                     float* to) {
  const int32_t channel = threadIdx.x;
  if (channel >= channels)
    return;
  const float scale =
      norm.weight[channel] /
      sqrtf(norm.variance[channel] + static_cast<float>(norm.eps));
  to[channel] = scale;
  to[channels + channel] = norm.bias[channel] - norm.mean[channel] * scale;
}

}  // namespace

int64_t residual_packed_cuda(const ResidualCudaParams& params) {
  return packed_size(params);
}

const char* residual_block_cuda(const ResidualCudaParams& params,
                                const Normalisation& norm,
                                void* stream) {
  if (params.batch == 0)
    return nullptr;
  if (const char* error = pack_forward(params, stream))
    return error;
  if (const char* error =
          SPARSE_AASIST_LAUNCH(residual_fold_kernel, 1, 64, 0, stream, norm,
                               params.outputs, params.norm))
    return error;
  return with_block(params, [&](auto block) -> const char* {
    using Block = decltype(block);
    if (const char* error = launch_middle<Block>(params, nullptr, stream))
      return error;
    return launch_out<Block>(params, stream);
  });
}

}  // namespace sparse_aasist
