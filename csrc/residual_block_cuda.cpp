// residual_block and its training on a GPU. The schemas are in
// residual_block.cpp and residual_block_training.cpp.
#ifdef SPARSE_AASIST_WITH_CUDA

#include <cstdint>

#include <torch/csrc/stable/library.h>

#include "cuda_device.h"
#include "residual_bfloat16_tensors.h"

namespace sparse_aasist::bfloat16 {
namespace {

class Cuda : public CudaDevice {
 public:
  using CudaDevice::CudaDevice;
  static constexpr bool kKeepsMiddle = true;

  int64_t packed(const ResidualBfloat16Params& params) const {
    return residual_packed_cuda(params);
  }
  int64_t training_partials(const ResidualBfloat16Params& params) const {
    return residual_training_partials_cuda(params);
  }
  int64_t backward_partials(const ResidualBfloat16Params& params) const {
    return residual_backward_partials_cuda(params);
  }

  void run(const ResidualBfloat16Params& params,
           const Normalisation& norm) const {
    check_launch(residual_block_cuda(params, norm, stream()), kScoring);
  }
  void run(const ResidualBfloat16Params& params,
           const ResidualStatisticsParams& statistics) const {
    check_launch(residual_block_training_cuda(params, statistics, stream()),
                 kTraining);
  }
  void run(const ResidualBfloat16BackwardParams& params) const {
    check_launch(residual_block_training_backward_cuda(params, stream()),
                 kTraining);
  }
};

STABLE_TORCH_LIBRARY_IMPL(sparse_aasist, CUDA, m) {
  m.impl("residual_block", TORCH_BOX(&forward<Cuda>));
  m.impl("residual_block_training", TORCH_BOX(&train<Cuda>));
  m.impl("residual_block_training_backward", TORCH_BOX(&backward<Cuda>));
}

}  // namespace
}  // namespace sparse_aasist::bfloat16

#endif
