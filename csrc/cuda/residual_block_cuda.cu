// residual_block on a GPU: the weights packed and the norm folded, conv1, and
// the rest of the block.
#include "residual_block_bfloat16.h"
#include "residual_forward.cuh"
#include "residual_norm.cuh"

namespace sparse_aasist {

int64_t residual_packed_cuda(const ResidualBfloat16Params& params) {
  return packed_weights(params, kPackedWeights) - params.packed;
}

const char* residual_block_cuda(const ResidualBfloat16Params& params,
                                const Normalisation& norm,
                                void* stream) {
  if (params.batch == 0)
    return nullptr;
  if (const char* error = pack_weights(params, false, stream))
    return error;
  if (const char* error = launch_norm(params, norm, stream))
    return error;
  return with_block(params, [&](auto kind) -> const char* {
    using Kind = decltype(kind);
    if (const char* error = launch_middle<Kind>(params, nullptr, stream))
      return error;
    return launch_out<Kind>(params, stream);
  });
}

}  // namespace sparse_aasist
