// The kernels of front_end, residual_block and its training, for
// tests/encoder_implementations.py and tests/bfloat16_block.py.
#include "bfloat16_block.h"
#include "encoder_call.h"
#include "front_end.h"
#include "residual_block.h"
#include "residual_block_training.h"

namespace sparse_aasist::simt {
namespace {

// Scalars: where, schedule, batch, samples, filters, taps, the bits of eps.
// Arrays: waveform, filters, norm, out.
const char* run_front_end(const Call& call) {
  const int64_t where = begin(call);
  FrontEndParams params{};
  params.batch = call.scalars.at(2);
  params.samples = call.scalars.at(3);
  params.filters = static_cast<int32_t>(call.scalars.at(4));
  params.taps = static_cast<int32_t>(call.scalars.at(5));
  params.waveform = call.array<float>(0);
  params.coefficients = call.array<float>(1);
  params.norm = normalisation(call, 2);
  params.out = call.array<float>(6);
  if (where == kOnDevice)
    return front_end_cuda(params, nullptr);
  const auto kernel = SPARSE_AASIST_AT_SIMD_LEVEL(front_end_cpu);
  in_parts(params.batch * front_end_tasks_per_clip(params),
           SPARSE_AASIST_AT_SIMD_LEVEL(front_end_scratch_cpu)(params),
           [&](int64_t begin, int64_t end, float* scratch) {
             kernel(params, begin, end, scratch);
           });
  return nullptr;
}

// Scalars: where, schedule, batch, inputs, outputs, height, steps, the bits of
// eps. Arrays: x, conv1, norm, conv2, shortcut, out.
const char* run_residual_block(const Call& call) {
  begin(call);
  ResidualBlockParams params{};
  params.batch = call.scalars.at(2);
  params.inputs = static_cast<int32_t>(call.scalars.at(3));
  params.outputs = static_cast<int32_t>(call.scalars.at(4));
  params.height = static_cast<int32_t>(call.scalars.at(5));
  params.steps = call.scalars.at(6);
  params.x = call.array<float>(0);
  params.conv1 = {call.array<float>(1), call.array<float>(2)};
  params.norm = normalisation(call, 3);
  params.conv2 = {call.array<float>(7), call.array<float>(8)};
  params.shortcut = {call.array_or_null<float>(9),
                     call.array_or_null<float>(10)};
  params.out = call.array<float>(11);
  const Room packed(
      4 * SPARSE_AASIST_AT_SIMD_LEVEL(residual_block_packed_cpu)(params));
  params.packed = packed.data<float>();
  SPARSE_AASIST_AT_SIMD_LEVEL(residual_block_pack_cpu)(params);
  const auto kernel = SPARSE_AASIST_AT_SIMD_LEVEL(residual_block_cpu);
  in_parts(params.batch * residual_tasks(params.steps).per_clip,
           SPARSE_AASIST_AT_SIMD_LEVEL(residual_block_scratch_cpu)(params),
           [&](int64_t begin, int64_t end, float* scratch) {
             kernel(params, begin, end, scratch);
           });
  return nullptr;
}

// Scalars as for residual_block. Arrays: x, conv1, weight and bias of norm,
// conv2, shortcut, out, middle, chosen, both means and variances, the gradient
// of out, the gradients of x and the weights.
const char* run_residual_block_training(const Call& call) {
  begin(call);
  ResidualBackwardParams backward{};
  ResidualTrainingParams& params = backward.forward;
  params.batch = call.scalars.at(2);
  params.inputs = static_cast<int32_t>(call.scalars.at(3));
  params.outputs = static_cast<int32_t>(call.scalars.at(4));
  params.height = static_cast<int32_t>(call.scalars.at(5));
  params.steps = call.scalars.at(6);
  params.eps = bit_cast<double>(call.scalars.at(7));
  params.x = call.array<float>(0);
  params.conv1 = {call.array<float>(1), call.array<float>(2)};
  params.norm_weight = call.array<float>(3);
  params.norm_bias = call.array<float>(4);
  params.conv2 = {call.array<float>(5), call.array<float>(6)};
  params.shortcut = {call.array_or_null<float>(7),
                     call.array_or_null<float>(8)};
  params.out = call.array<float>(9);
  params.middle = call.array<float>(10);
  params.chosen = call.array<uint8_t>(11);
  params.mean = call.array<float>(12);
  params.variance = call.array<float>(13);
  params.input_mean = call.array<float>(14);
  params.input_variance = call.array<float>(15);
  const int64_t groups = residual_groups(params.batch, params.steps).count;
  const Room sums(8 * groups * kResidualSums * sum_width(params));
  params.sums = sums.data<double>();
  const Room packed(
      4 * SPARSE_AASIST_AT_SIMD_LEVEL(residual_training_packed_cpu)(params));
  params.packed = packed.data<float>();
  SPARSE_AASIST_AT_SIMD_LEVEL(residual_training_pack_cpu)(params);
  const auto run = [&](const auto& of, auto kernel, int64_t scratch_size) {
    in_parts(groups, scratch_size,
             [&](int64_t begin, int64_t end, float* scratch) {
               kernel(of, begin, end, scratch);
             });
  };
  const int64_t forward_scratch =
      SPARSE_AASIST_AT_SIMD_LEVEL(residual_training_scratch_cpu)(params);
  run(params, SPARSE_AASIST_AT_SIMD_LEVEL(residual_training_middle_cpu),
      forward_scratch);
  SPARSE_AASIST_AT_SIMD_LEVEL(residual_training_statistics_cpu)(params);
  run(params, SPARSE_AASIST_AT_SIMD_LEVEL(residual_training_out_cpu),
      forward_scratch);
  backward.grad_out = call.array<float>(16);
  backward.dx = call.array<float>(17);
  backward.gradients = gradients(call, 18);
  const Room dnormal(4 * params.batch * (params.height + 1) * params.steps *
                     params.outputs);
  backward.dnormal = dnormal.data<float>();
  const Room partials(
      4 * groups *
      SPARSE_AASIST_AT_SIMD_LEVEL(residual_backward_partials_cpu)(backward));
  backward.partials = partials.data<float>();
  const Room packed_back(
      4 * SPARSE_AASIST_AT_SIMD_LEVEL(residual_backward_packed_cpu)(backward));
  params.packed = packed_back.data<float>();
  SPARSE_AASIST_AT_SIMD_LEVEL(residual_backward_pack_cpu)(backward);
  const int64_t backward_scratch =
      SPARSE_AASIST_AT_SIMD_LEVEL(residual_backward_scratch_cpu)(backward);
  run(backward, SPARSE_AASIST_AT_SIMD_LEVEL(residual_backward_middle_cpu),
      backward_scratch);
  SPARSE_AASIST_AT_SIMD_LEVEL(residual_backward_norm_cpu)(backward);
  run(backward, SPARSE_AASIST_AT_SIMD_LEVEL(residual_backward_input_cpu),
      backward_scratch);
  const auto sum = SPARSE_AASIST_AT_SIMD_LEVEL(residual_backward_sum_cpu);
  in_parts(
      residual_backward_units(params), 1,
      [&](int64_t begin, int64_t end, float*) { sum(backward, begin, end); });
  return nullptr;
}

}  // namespace
}  // namespace sparse_aasist::simt

int main() {
  using namespace sparse_aasist::simt;
  return serve({{"front_end", run_front_end},
                {"residual_block", run_residual_block},
                {"residual_block_training", run_residual_block_training},
                {"residual_block_bfloat16", run_bfloat16_block},
                {"residual_block_training_bfloat16", run_bfloat16_training}});
}
