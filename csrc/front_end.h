// front_end: AASIST's filter bank and what follows it, without gradients, in
// one pass. Parameters and launchers, free of torch.
//
//   bands = the waveform filtered by each of the filters, which are symmetric
//   m = the largest magnitude of three neighbouring filters and three
//       neighbouring samples, NaN above all
//   out = selu(norm(m)), or m where statistics are still to be taken
#pragma once

#include <cstdint>

#include "residual_block.h"
#include "simd_level.h"

namespace sparse_aasist {

constexpr int32_t kPoolFilters = 3;

// float32.
struct FrontEndParams {
  int64_t batch;
  int64_t samples;
  int32_t filters;
  int32_t taps;               // odd
  const float* waveform;      // (batch, samples)
  const float* coefficients;  // (filters, taps)
  Normalisation norm;         // of one channel; null: out is m
  float* out;  // (batch, filters / kPoolFilters, front_end_steps())
};

SPARSE_AASIST_HOST_INLINE int64_t
front_end_steps(const FrontEndParams& params) {
  return (params.samples - params.taps + 1) / kPoolSteps;
}

// A task is this many steps of the output, of a clip and all filters.
constexpr int64_t kFrontEndSteps = 512;

SPARSE_AASIST_HOST_INLINE int64_t
front_end_tasks_per_clip(const FrontEndParams& params) {
  return (front_end_steps(params) + kFrontEndSteps - 1) / kFrontEndSteps;
}

SPARSE_AASIST_FOR_EACH_SIMD_LEVEL(
    // Entries of scratch for a task.
    int64_t front_end_scratch_cpu(const FrontEndParams& params);
    // Tasks [begin, end) of batch * front_end_tasks_per_clip().
    void front_end_cpu(const FrontEndParams& params,
                       int64_t begin,
                       int64_t end,
                       float* scratch);)

// Filters that are not symmetric count as NaN: to refuse them, the host would
// have to wait for the device.
const char* front_end_cuda(const FrontEndParams& params, void* stream);

}  // namespace sparse_aasist
