// Launches the selection that suits the length of the rows.
#pragma once

#include "launch.h"
#include "topk_block.cuh"
#include "topk_warp.cuh"

namespace sparse_aasist {

// For kernels whose blocks walk on over the rows that are left.
template <class Format, int kGroups, class Finish>
const char* launch_warps(const TopkActivationParams& params,
                         const Finish& finish,
                         void* stream) {
  const unsigned blocks =
      blocks_for((params.rows + kWarpsPerBlock - 1) / kWarpsPerBlock);
  return SPARSE_AASIST_LAUNCH((topk_warp_kernel<Format, kGroups, Finish>),
                              blocks, 32 * kWarpsPerBlock, 0, stream, params,
                              finish);
}

// Selects in all rows; finish(row, warp, warps) is called on the device by
// `warps` whole warps behind each of them.
template <class Format, class Finish>
const char* launch_select(const TopkActivationParams& params,
                          const Finish& finish,
                          void* stream) {
  if (params.rows == 0)
    return nullptr;  // CUDA refuses a launch of no blocks
  if constexpr (sizeof(typename Format::Bits) <= 4) {
    const int32_t groups = (params.dim + kGroup - 1) / kGroup;
    if (groups <= 1)
      return launch_warps<Format, 1>(params, finish, stream);
    if (groups <= 2)
      return launch_warps<Format, 2>(params, finish, stream);
    if (groups <= 3)
      return launch_warps<Format, 3>(params, finish, stream);
    if (groups <= 4)
      return launch_warps<Format, 4>(params, finish, stream);
    if (groups <= 8)
      return launch_warps<Format, 8>(params, finish, stream);
    if (groups <= 16)
      return launch_warps<Format, 16>(params, finish, stream);
  }
  return SPARSE_AASIST_LAUNCH((topk_block_kernel<Format, Finish>),
                              blocks_for(params.rows), kBlockThreads, 0, stream,
                              params, finish);
}

}  // namespace sparse_aasist
