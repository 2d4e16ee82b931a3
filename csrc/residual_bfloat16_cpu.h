// residual_block and its training on a CPU in bfloat16, on PyTorch's threads.
#pragma once

#include <cstdint>

#include "residual_bfloat16_tensors.h"
#include "residual_block_tiles.h"
#include "task_scratch.h"

namespace sparse_aasist::bfloat16 {

class Cpu {
 public:
  explicit Cpu(const Tensor&) {}
  // One pass makes a middle and uses it up.
  static constexpr bool kKeepsMiddle = false;

  int64_t packed(const ResidualBfloat16Params& params) const {
    return residual_packed_tiles(params);
  }
  int64_t training_partials(const ResidualBfloat16Params& params) const {
    return SPARSE_AASIST_AT_TILE_LEVEL(residual_training_bfloat16_partials_cpu)(
        params);
  }
  int64_t backward_partials(const ResidualBfloat16Params& params) const {
    return SPARSE_AASIST_AT_TILE_LEVEL(residual_backward_bfloat16_partials_cpu)(
        params);
  }

  void run(const ResidualBfloat16Params& params,
           const Normalisation& norm) const {
    residual_block_tiles(params, norm, Threads{});
  }
  void run(const ResidualBfloat16Params& params,
           const ResidualStatisticsParams& statistics) const {
    residual_block_training_tiles(params, statistics, Threads{});
  }
  void run(const ResidualBfloat16BackwardParams& params) const {
    residual_block_training_backward_tiles(params, Threads{});
  }

 private:
  struct Threads {
    template <class Run>
    void operator()(int64_t count, int64_t bytes, const Run& run) const {
      run_with_scratch(count, 1, bytes, run);
    }
  };
};

}  // namespace sparse_aasist::bfloat16
