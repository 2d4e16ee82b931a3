// The CPU kernels of front_end and residual_block, for
// tests/encoder_implementations.py.
#include <memory>

#include "float_format.h"
#include "front_end.h"
#include "residual_block.h"
#include "where.h"

namespace sparse_aasist::simt {
namespace {

Normalisation normalisation(const Call& call, size_t first) {
  return {call.array<float>(first), call.array<float>(first + 1),
          call.array<float>(first + 2), call.array<float>(first + 3),
          bit_cast<double>(call.scalars.back())};
}

// Calls kernel(begin, end, scratch) for [0, count) in two parts, as two
// threads would.
template <class Kernel>
void in_parts(int64_t count, int64_t scratch_size, const Kernel& kernel) {
  const auto run = [&](int64_t begin, int64_t end) {
    const Array scratch(static_cast<size_t>(scratch_size) * sizeof(float));
    // What a kernel reads before it writes shows.
    std::memset(scratch.data(), 0xff, scratch.bytes());
    kernel(begin, end, reinterpret_cast<float*>(scratch.data()));
  };
  if (count > 1)
    run(0, count / 2);
  if (count > 0)
    run(count / 2, count);
}

// Scalars: where, schedule, batch, samples, filters, taps, the bits of eps.
// Arrays: waveform, filters, norm, out.
const char* run_front_end(const Call& call) {
  begin(call);
  FrontEndParams params{};
  params.batch = call.scalars.at(2);
  params.samples = call.scalars.at(3);
  params.filters = static_cast<int32_t>(call.scalars.at(4));
  params.taps = static_cast<int32_t>(call.scalars.at(5));
  params.waveform = call.array<float>(0);
  params.coefficients = call.array<float>(1);
  params.norm = normalisation(call, 2);
  params.out = call.array<float>(6);
  const auto kernel = SPARSE_AASIST_AT_SIMD_LEVEL(front_end_cpu);
  in_parts(params.batch * front_end_tasks(params),
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
  const Array packed(sizeof(float) *
                     static_cast<size_t>(SPARSE_AASIST_AT_SIMD_LEVEL(
                         residual_block_packed_cpu)(params)));
  std::memset(packed.data(), 0xff, packed.bytes());
  params.packed = reinterpret_cast<float*>(packed.data());
  SPARSE_AASIST_AT_SIMD_LEVEL(residual_block_pack_cpu)(params);
  const auto kernel = SPARSE_AASIST_AT_SIMD_LEVEL(residual_block_cpu);
  in_parts(params.batch * residual_tasks(params.steps).per_clip,
           SPARSE_AASIST_AT_SIMD_LEVEL(residual_block_scratch_cpu)(params),
           [&](int64_t begin, int64_t end, float* scratch) {
             kernel(params, begin, end, scratch);
           });
  return nullptr;
}

}  // namespace
}  // namespace sparse_aasist::simt

int main() {
  using namespace sparse_aasist::simt;
  return serve(
      {{"front_end", run_front_end}, {"residual_block", run_residual_block}});
}
