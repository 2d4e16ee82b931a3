// Calls of residual_block and its training in bfloat16: device code, and tiles
// of a CPU.
#pragma once

#include <cstdint>

#include "encoder_call.h"
#include "residual_block_bfloat16.h"
#include "residual_block_tiles.h"

namespace sparse_aasist::simt {

// Of a block, but for the results. conv2 is array number `conv2`, the shortcut
// the next.
inline ResidualBfloat16Params bfloat16_block(const Call& call, size_t conv2) {
  ResidualBfloat16Params params{};
  params.batch = call.scalars.at(2);
  params.inputs = static_cast<int32_t>(call.scalars.at(3));
  params.outputs = static_cast<int32_t>(call.scalars.at(4));
  params.height = static_cast<int32_t>(call.scalars.at(5));
  params.steps = call.scalars.at(6);
  params.x = call.array<uint16_t>(0);
  params.conv1 = {call.array<float>(1), call.array<float>(2)};
  params.conv2 = {call.array<float>(conv2), call.array<float>(conv2 + 1)};
  params.shortcut = {call.array_or_null<float>(conv2 + 2),
                     call.array_or_null<float>(conv2 + 3)};
  return params;
}

// What a pass writes before it reads it.
class BlockScratch {
 public:
  BlockScratch(int64_t where, ResidualBfloat16Params& params)
      : affine_(4 * 2 * params.outputs),
        packed_(4 * (where == kOnDevice ? residual_packed_cuda(params)
                                        : residual_packed_tiles(params))) {
    params.affine = affine_.data<float>();
    params.packed = packed_.data<uint32_t>();
  }

 private:
  Room affine_, packed_;
};

inline int64_t middle_bytes(const ResidualBfloat16Params& params) {
  return 2 * params.batch * (params.height + 1) * params.steps * params.outputs;
}

struct InParts {
  template <class Run>
  void operator()(int64_t count, int64_t bytes, const Run& run) const {
    in_parts(count, (bytes + 3) / 4, run);
  }
};

// Scalars and arrays as for residual_block; x and out are bfloat16.
inline const char* run_bfloat16_block(const Call& call) {
  const int64_t where = begin(call);
  ResidualBfloat16Params params = bfloat16_block(call, 7);
  const BlockScratch scratch(where, params);
  params.out = call.array<uint16_t>(11);
  const Normalisation norm = normalisation(call, 3);
  if (where != kOnDevice) {
    residual_block_tiles(params, norm, InParts{});
    return nullptr;
  }
  const Room middle(middle_bytes(params));
  if (params.inputs > 1)
    params.middle = middle.data<uint16_t>();
  return residual_block_cuda(params, norm, nullptr);
}

// Scalars and arrays as for residual_block_training; x, out, middle and the
// gradients of x and out are bfloat16.
inline const char* run_bfloat16_training(const Call& call) {
  const int64_t where = begin(call);
  ResidualBfloat16BackwardParams backward{};
  backward.norm = {call.array<float>(3), call.array<float>(4),
                   call.array<float>(12), call.array<float>(13),
                   bit_cast<double>(call.scalars.at(7))};
  backward.grad_out = call.array<uint16_t>(16);
  backward.dx = call.array<uint16_t>(17);
  backward.gradients = gradients(call, 18);
  ResidualBfloat16Params params = bfloat16_block(call, 5);
  params.middle = call.array_or_null<uint16_t>(10);
  params.out = call.array<uint16_t>(9);
  params.chosen = call.array<uint8_t>(11);
  {
    const BlockScratch scratch(where, params);
    const Room partials(
        4 * (where == kOnDevice
                 ? residual_training_partials_cuda(params)
                 : SPARSE_AASIST_AT_TILE_LEVEL(
                       residual_training_bfloat16_partials_cpu)(params)));
    const ResidualStatisticsParams statistics = {
        backward.norm.weight,  backward.norm.bias,    backward.norm.eps,
        call.array<float>(12), call.array<float>(13), call.array<float>(14),
        call.array<float>(15), partials.data<float>()};
    const char* error = nullptr;
    if (where == kOnDevice)
      error = residual_block_training_cuda(params, statistics, nullptr);
    else
      residual_block_training_tiles(params, statistics, InParts{});
    if (error != nullptr)
      return error;
  }
  // Nothing but what is kept reaches the gradient.
  const BlockScratch scratch(where, params);
  const Room dnormal(middle_bytes(params));
  const Room coefficients(4 * 3 * params.outputs);
  const Room partials(
      4 * (where == kOnDevice
               ? residual_backward_partials_cuda(params)
               : SPARSE_AASIST_AT_TILE_LEVEL(
                     residual_backward_bfloat16_partials_cpu)(params)));
  params.out = nullptr;
  backward.forward = params;
  backward.dnormal = dnormal.data<uint16_t>();
  backward.coefficients = coefficients.data<float>();
  backward.partials = partials.data<float>();
  if (where == kOnDevice)
    return residual_block_training_backward_cuda(backward, nullptr);
  residual_block_training_backward_tiles(backward, InParts{});
  return nullptr;
}

}  // namespace sparse_aasist::simt
