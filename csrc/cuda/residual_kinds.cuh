// The kinds of blocks, and the images of one.
#pragma once

#include <type_traits>

#include "residual_rows.cuh"

namespace sparse_aasist {

// The kinds of blocks that there are kernels for:
// has_residual_block_bfloat16().
template <int kInputs_, int kOutputs_>
struct BlockKind {
  static constexpr bool kFirst = kInputs_ == 1;
  static constexpr bool kIdentity = kInputs_ == kOutputs_;
  static constexpr int kInputs = kFirst ? kPaddedInput : kInputs_;
  static constexpr int kOutputs = kOutputs_;
  using Middle = std::conditional_t<kFirst, FirstMiddle, StoredMiddle>;
  using InputRows = std::conditional_t<kFirst, PaddedRows, RawRows<kInputs>>;
};

template <class Run>
const char* with_block(const ResidualBfloat16Params& params, const Run& run) {
  if (!has_residual_block_bfloat16(params.inputs, params.outputs,
                                   params.shortcut.weight != nullptr))
    return "no kernel for a block of these widths";
  if (params.inputs == 1)
    return run(BlockKind<1, 32>{});
  if (params.inputs == 64)
    return run(BlockKind<64, 64>{});
  return params.outputs == 32 ? run(BlockKind<32, 32>{})
                              : run(BlockKind<32, 64>{});
}

inline Image input_image(const ResidualBfloat16Params& params) {
  return {params.height, params.inputs, params.steps};
}

inline Image middle_image(const ResidualBfloat16Params& params) {
  return {params.height + 1, params.outputs, params.steps};
}

inline Image pooled_image(const ResidualBfloat16Params& params) {
  return {params.height, params.outputs, params.steps / kPoolSteps};
}

template <class Kind>
typename Kind::Middle middle_of(const ResidualBfloat16Params& params) {
  if constexpr (Kind::kFirst)
    return {params.x, input_image(params), params.conv1};
  else
    return {params.middle, middle_image(params)};
}

}  // namespace sparse_aasist
