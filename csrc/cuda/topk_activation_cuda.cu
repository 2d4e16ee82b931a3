// topk_activation on a GPU: rank by counting, one thread per element.
//
//   kept(j)  <=>  #{i : key_i > key_j, or key_i == key_j and i < j} < k
//
// O(dim^2) comparisons per row, no collectives, no shared memory: exact and
// simple.
#include "launch.h"
#include "order_key.h"
#include "topk_activation.h"

namespace sparse_aasist {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 0x7fffffff;  // limit of gridDim.x

template <class Format>
__global__ void topk_activation_kernel(TopkActivationParams params) {
  using Bits = typename Format::Bits;
  for (int64_t row = blockIdx.x; row < params.rows; row += gridDim.x) {
    const int64_t offset = row * params.dim;
    const Bits* __restrict__ x = static_cast<const Bits*>(params.x) + offset;
    Bits* __restrict__ y = static_cast<Bits*>(params.y) + offset;
    bool* __restrict__ mask = params.mask + offset;
    // Unsigned: j + blockDim.x may pass the largest int32.
    const uint32_t dim = static_cast<uint32_t>(params.dim);
    for (uint32_t j = threadIdx.x; j < dim; j += blockDim.x) {
      const Bits key = order_key<Format>(x[j], params.by_abs);
      int32_t ahead = 0;
      for (uint32_t i = 0; i < dim; ++i) {
        const Bits other = order_key<Format>(x[i], params.by_abs);
        ahead += other > key || (other == key && i < j);
      }
      const bool kept = ahead < params.k;
      mask[j] = kept;
      y[j] = kept ? x[j] : Bits{0};
    }
  }
}

template <class Format>
const char* launch(const TopkActivationParams& params, void* stream) {
  const int64_t blocks = params.rows < kMaxBlocks ? params.rows : kMaxBlocks;
  return SPARSE_AASIST_LAUNCH((topk_activation_kernel<Format>),
                              static_cast<unsigned>(blocks), kThreads, stream,
                              params);
}

}  // namespace

const char* topk_activation_cuda(const TopkActivationParams& params,
                                 void* stream) {
  if (params.rows == 0)
    return nullptr;  // CUDA refuses a launch of no blocks
  switch (params.format) {
    case FloatFormat::kFloat32:
      return launch<Float32>(params, stream);
    case FloatFormat::kFloat64:
      return launch<Float64>(params, stream);
    case FloatFormat::kFloat16:
      return launch<Float16>(params, stream);
    case FloatFormat::kBFloat16:
      return launch<BFloat16>(params, stream);
  }
  return "unknown floating point format";
}

}  // namespace sparse_aasist
