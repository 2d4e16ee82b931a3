// The passes of residual_block and its training on a CPU in bfloat16, in their
// order. threads(count, bytes, run) calls run(begin, end, scratch) for parts of
// [0, count), each with `bytes` of scratch, and returns when all are done.
#pragma once

#include <algorithm>
#include <cstdint>

#include "residual_block_bfloat16.h"
#include "residual_block_training.h"

namespace sparse_aasist {

// Entries of `packed`, forward or backward.
inline int64_t residual_packed_tiles(const ResidualBfloat16Params& params) {
  return std::max(
      SPARSE_AASIST_AT_TILE_LEVEL(residual_bfloat16_packed_cpu)(params),
      SPARSE_AASIST_AT_TILE_LEVEL(residual_backward_bfloat16_packed_cpu)(
          params));
}

template <class Threads>
void residual_block_tiles(const ResidualBfloat16Params& params,
                          const Normalisation& norm,
                          const Threads& threads) {
  SPARSE_AASIST_AT_TILE_LEVEL(residual_bfloat16_pack_cpu)(params);
  SPARSE_AASIST_AT_TILE_LEVEL(residual_bfloat16_norm_cpu)(params, norm);
  const auto block = SPARSE_AASIST_AT_TILE_LEVEL(residual_bfloat16_cpu);
  threads(params.batch * residual_tasks(params.steps).per_clip,
          SPARSE_AASIST_AT_TILE_LEVEL(residual_bfloat16_scratch_cpu)(params),
          [&](int64_t begin, int64_t end, void* scratch) {
            block(params, begin, end, scratch);
          });
}

template <class Threads>
void residual_block_training_tiles(const ResidualBfloat16Params& params,
                                   const ResidualStatisticsParams& statistics,
                                   const Threads& threads) {
  const int64_t groups = residual_groups(params.batch, params.steps).count;
  const int64_t bytes =
      SPARSE_AASIST_AT_TILE_LEVEL(residual_bfloat16_scratch_cpu)(params);
  const auto middle =
      SPARSE_AASIST_AT_TILE_LEVEL(residual_training_bfloat16_middle_cpu);
  const auto out =
      SPARSE_AASIST_AT_TILE_LEVEL(residual_training_bfloat16_out_cpu);
  SPARSE_AASIST_AT_TILE_LEVEL(residual_bfloat16_pack_cpu)(params);
  threads(groups, bytes, [&](int64_t begin, int64_t end, void* scratch) {
    middle(params, statistics, begin, end, scratch);
  });
  SPARSE_AASIST_AT_TILE_LEVEL(residual_training_bfloat16_statistics_cpu)
  (params, statistics);
  SPARSE_AASIST_AT_TILE_LEVEL(residual_bfloat16_norm_cpu)
  (params, {statistics.weight, statistics.bias, statistics.mean,
            statistics.variance, statistics.eps});
  threads(groups, bytes, [&](int64_t begin, int64_t end, void* scratch) {
    out(params, begin, end, scratch);
  });
}

template <class Threads>
void residual_block_training_backward_tiles(
    const ResidualBfloat16BackwardParams& params,
    const Threads& threads) {
  constexpr int64_t kEntries = 1 << 10;  // of a part of the last sums
  const ResidualBfloat16Params& forward = params.forward;
  const int64_t groups = residual_groups(forward.batch, forward.steps).count;
  const int64_t bytes = SPARSE_AASIST_AT_TILE_LEVEL(
      residual_backward_bfloat16_scratch_cpu)(forward);
  const auto middle =
      SPARSE_AASIST_AT_TILE_LEVEL(residual_backward_bfloat16_middle_cpu);
  const auto input =
      SPARSE_AASIST_AT_TILE_LEVEL(residual_backward_bfloat16_input_cpu);
  const auto sum =
      SPARSE_AASIST_AT_TILE_LEVEL(residual_backward_bfloat16_sum_cpu);
  SPARSE_AASIST_AT_TILE_LEVEL(residual_backward_bfloat16_pack_cpu)(params);
  threads(groups, bytes, [&](int64_t begin, int64_t end, void* scratch) {
    middle(params, begin, end, scratch);
  });
  SPARSE_AASIST_AT_TILE_LEVEL(residual_backward_bfloat16_norm_cpu)(params);
  threads(groups, bytes, [&](int64_t begin, int64_t end, void* scratch) {
    input(params, begin, end, scratch);
  });
  const int64_t entries = residual_backward_bfloat16_entries(forward);
  threads((entries + kEntries - 1) / kEntries, 0,
          [&](int64_t begin, int64_t end, void*) {
            sum(params, begin * kEntries, std::min(end * kEntries, entries));
          });
}

}  // namespace sparse_aasist
