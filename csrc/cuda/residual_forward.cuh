// The two convolutions of a residual block, for scoring and training.
#pragma once

#include "residual_sinks.cuh"

namespace sparse_aasist {

// The kinds of blocks that there are kernels for: has_residual_block_cuda().
template <int kInputs_, int kOutputs_>
struct Block {
  static constexpr bool kFirst = kInputs_ == 1;
  static constexpr bool kIdentity = kInputs_ == kOutputs_;
  static constexpr int kInputs = kFirst ? kPaddedInput : kInputs_;
  static constexpr int kOutputs = kOutputs_;
  using Middle = std::conditional_t<kFirst, FirstMiddle, StoredMiddle>;
  using InputRows = std::conditional_t<kFirst, PaddedRows, RawRows<kInputs>>;
};

template <class Run>
const char* with_block(const ResidualCudaParams& params, const Run& run) {
  if (!has_residual_block_cuda(params.inputs, params.outputs,
                               params.shortcut.weight != nullptr))
    return "no kernel for a block of these widths";
  if (params.inputs == 1)
    return run(Block<1, 32>{});
  if (params.inputs == 64)
    return run(Block<64, 64>{});
  return params.outputs == 32 ? run(Block<32, 32>{}) : run(Block<32, 64>{});
}

inline Image input_image(const ResidualCudaParams& params) {
  return {params.height, params.inputs, params.steps};
}

inline Image middle_image(const ResidualCudaParams& params) {
  return {params.height + 1, params.outputs, params.steps};
}

inline Image pooled_image(const ResidualCudaParams& params) {
  return {params.height, params.outputs, params.steps / kPoolSteps};
}

template <class Block>
typename Block::Middle middle_of(const ResidualCudaParams& params) {
  if constexpr (Block::kFirst)
    return {params.x, input_image(params), params.conv1};
  else
    return {params.middle, middle_image(params)};
}

// `packed` holds conv1, conv2 and the shortcut.
inline PackPlan packing(const ResidualCudaParams& params, bool mirrored) {
  const int32_t inputs = params.inputs, outputs = params.outputs;
  return {{{params.conv1.weight, outputs, inputs, 2, mirrored},
           {params.conv2.weight, outputs, outputs, 2, mirrored},
           {params.shortcut.weight, outputs, inputs, 1, mirrored}},
          params.packed};
}

inline int64_t packed_size(const ResidualCudaParams& params) {
  int64_t size = 0;
  for (const WeightsToPack& of : packing(params, false).of)
    size += of.size();
  return size;
}

// The weights number `index` of packing().
inline const uint32_t* packed_weights(const ResidualCudaParams& params,
                                      int index) {
  const PackPlan plan = packing(params, false);
  const uint32_t* at = params.packed;
  for (int i = 0; i < index; ++i)
    at += plan.of[i].size();
  return at;
}

inline const char* pack_forward(const ResidualCudaParams& params,
                                void* stream) {
  return pack_weights(packing(params, false), stream);
}

// Launches conv1; the sums of its result go to `partials` where that is not
// null. Nothing with one input channel, whose middle is not kept.
template <class Block>
const char* launch_middle(const ResidualCudaParams& params,
                          float* partials,
                          void* stream) {
  if constexpr (Block::kFirst) {
    return nullptr;
  } else {
    using Shape = ConvolutionShape<Block::kInputs, 0, Block::kOutputs>;
    ConvolutionPlan plan = convolution_plan<Shape>(params, true);
    plan.weights = packed_weights(params, 0);
    return launch_convolution<Shape>(
        RawRows<Block::kInputs>{params.x, input_image(params)}, NoRows{},
        MiddleSink{params.middle, middle_image(params), params.conv1.bias,
                   partials},
        plan, stream);
  }
}

// Launches all that follows the norm's statistics.
template <class Block>
const char* launch_out(const ResidualCudaParams& params, void* stream) {
  using Shape =
      ConvolutionShape<Block::kOutputs, Block::kIdentity ? 0 : Block::kInputs,
                       Block::kOutputs>;
  using Side =
      std::conditional_t<Block::kIdentity, NoRows, typename Block::InputRows>;
  ConvolutionPlan plan = convolution_plan<Shape>(params, false);
  plan.weights = packed_weights(params, 1);
  plan.side_weights = packed_weights(params, 2);
  Side side{};
  if constexpr (!Block::kIdentity)
    side = {params.x, input_image(params)};
  return launch_convolution<Shape>(
      ActiveRows<typename Block::Middle, Block::kOutputs>{
          middle_of<Block>(params), params.norm},
      side,
      PoolSink<Block::kIdentity>{
          params.out, params.chosen, pooled_image(params), params.conv2.bias,
          params.shortcut.bias, params.x, input_image(params)},
      plan, stream);
}

}  // namespace sparse_aasist
