// The kernels of front_end, residual_block and its training, for
// tests/encoder_implementations.py and tests/bfloat16_block.py.
#include "float_format.h"
#include "front_end.h"
#include "residual_block.h"
#include "residual_block_cuda.h"
#include "residual_block_training.h"
#include "where.h"

namespace sparse_aasist::simt {
namespace {

Normalisation normalisation(const Call& call, size_t first) {
  return {call.array_or_null<float>(first),
          call.array_or_null<float>(first + 1),
          call.array_or_null<float>(first + 2),
          call.array_or_null<float>(first + 3),
          bit_cast<double>(call.scalars.back())};
}

// Calls kernel(begin, end, scratch) for [0, count) in two parts, as two
// threads would.
template <class Kernel>
void in_parts(int64_t count, int64_t scratch_size, const Kernel& kernel) {
  const auto run = [&](int64_t begin, int64_t end) {
    const Room scratch(4 * scratch_size);
    kernel(begin, end, scratch.data<float>());
  };
  if (count > 1)
    run(0, count / 2);
  if (count > 0)
    run(count / 2, count);
}

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

// Of the weights of a block, from array number `first` on.
ResidualGradients gradients(const Call& call, size_t first) {
  const auto at = [&](size_t i) {
    return call.array_or_null<float>(first + i);
  };
  return {at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7)};
}

// Of a block on a device, but for the results; its x is bfloat16. conv2 is
// array number `conv2`, the shortcut the next.
ResidualCudaParams device_block(const Call& call, size_t conv2) {
  ResidualCudaParams params{};
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

// The scratch of a pass on a device.
class DeviceScratch {
 public:
  explicit DeviceScratch(ResidualCudaParams& params)
      : affine_(4 * 2 * params.outputs),
        packed_(4 * residual_packed_cuda(params)) {
    params.affine = affine_.data<float>();
    params.packed = packed_.data<uint32_t>();
  }

 private:
  Room affine_, packed_;
};

// In bfloat16.
int64_t middle_bytes(const ResidualCudaParams& params) {
  return 2 * params.batch * (params.height + 1) * params.steps * params.outputs;
}

const char* run_on_device(const Call& call) {
  ResidualCudaParams params = device_block(call, 7);
  const DeviceScratch scratch(params);
  const Room middle(middle_bytes(params));
  if (params.inputs > 1)
    params.middle = middle.data<uint16_t>();
  params.out = call.array<uint16_t>(11);
  return residual_block_cuda(params, normalisation(call, 3), nullptr);
}

// Scalars: where, schedule, batch, inputs, outputs, height, steps, the bits of
// eps. Arrays: x, conv1, norm, conv2, shortcut, out; on a device x and out in
// bfloat16.
const char* run_residual_block(const Call& call) {
  if (begin(call) == kOnDevice)
    return run_on_device(call);
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

const char* train_on_device(const Call& call) {
  ResidualCudaBackwardParams backward{};
  backward.norm = {call.array<float>(3), call.array<float>(4),
                   call.array<float>(12), call.array<float>(13),
                   bit_cast<double>(call.scalars.at(7))};
  backward.grad_out = call.array<uint16_t>(16);
  backward.dx = call.array<uint16_t>(17);
  backward.gradients = gradients(call, 18);
  ResidualCudaParams params = device_block(call, 5);
  params.middle = call.array_or_null<uint16_t>(10);
  params.out = call.array<uint16_t>(9);
  params.chosen = call.array<uint8_t>(11);
  {
    const DeviceScratch scratch(params);
    const Room partials(4 * residual_training_partials_cuda(params));
    const ResidualStatisticsParams statistics = {
        backward.norm.weight,  backward.norm.bias,    backward.norm.eps,
        call.array<float>(12), call.array<float>(13), call.array<float>(14),
        call.array<float>(15), partials.data<float>()};
    const char* error =
        residual_block_training_cuda(params, statistics, nullptr);
    if (error != nullptr)
      return error;
  }
  // Nothing but what is kept reaches the gradient.
  const DeviceScratch scratch(params);
  const Room dnormal(middle_bytes(params));
  const Room coefficients(4 * 3 * params.outputs);
  const Room partials(4 * residual_backward_partials_cuda(params));
  params.out = nullptr;
  backward.forward = params;
  backward.dnormal = dnormal.data<uint16_t>();
  backward.coefficients = coefficients.data<float>();
  backward.partials = partials.data<float>();
  return residual_block_training_backward_cuda(backward, nullptr);
}

// Scalars as for residual_block. Arrays: x, conv1, weight and bias of norm,
// conv2, shortcut, out, middle, chosen, both means and variances, the gradient
// of out, the gradients of x and the weights. On a device x, out, middle and
// the gradients of x and out are bfloat16.
const char* run_residual_block_training(const Call& call) {
  if (begin(call) == kOnDevice)
    return train_on_device(call);
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
                {"residual_block_training", run_residual_block_training}});
}
