// topk_activation: schema, checks, allocation and registration.
#include "topk_activation.h"

#include <limits>
#include <tuple>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#ifdef SPARSE_AASIST_WITH_CUDA
#include "cuda_stream.h"
#endif

namespace sparse_aasist {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// A thread gets at least this many elements of work.
constexpr int64_t kGrainElements = 1 << 14;

FloatFormat format_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return FloatFormat::kFloat32;
    case ScalarType::Double:
      return FloatFormat::kFloat64;
    case ScalarType::Half:
      return FloatFormat::kFloat16;
    case ScalarType::BFloat16:
      return FloatFormat::kBFloat16;
    default:
      STD_TORCH_CHECK(false,
                      "topk_activation: x must be float32, float64, float16 or "
                      "bfloat16");
  }
}

// Argument checks that a direct call of the raw op would miss; the Python
// function raises the friendlier errors first.
void check(const Tensor& x, int64_t k) {
  STD_TORCH_CHECK(x.dim() >= 1, "topk_activation: x needs a last dimension");
  const int64_t dim = x.size(-1);
  STD_TORCH_CHECK(dim <= std::numeric_limits<int32_t>::max(),
                  "topk_activation: the last dimension is too large: ", dim);
  STD_TORCH_CHECK(k >= 1 && k <= dim, "topk_activation: k must be in 1..", dim,
                  ", got ", k);
}

struct Call {
  Tensor x;     // (..., dim), contiguous
  Tensor y;     // (..., dim)
  Tensor mask;  // (..., dim), bool
  TopkActivationParams params;
};

Call prepare(const Tensor& input, int64_t k, bool by_abs) {
  check(input, k);
  const FloatFormat format = format_of(input);
  Tensor x = torch::stable::contiguous(input);
  Tensor y = torch::stable::new_empty(x, x.sizes());
  Tensor mask = torch::stable::new_empty(x, x.sizes(), ScalarType::Bool);
  const int64_t dim = x.size(-1);
  TopkActivationParams params{x.const_data_ptr(),
                              y.mutable_data_ptr(),
                              static_cast<bool*>(mask.mutable_data_ptr()),
                              x.numel() / dim,
                              static_cast<int32_t>(dim),
                              static_cast<int32_t>(k),
                              by_abs,
                              format};
  return {std::move(x), std::move(y), std::move(mask), params};
}

std::tuple<Tensor, Tensor> run_cpu(Tensor x, int64_t k, bool by_abs) {
  Call call = prepare(x, k, by_abs);
  const TopkActivationParams& params = call.params;
  const int64_t grain = kGrainElements / params.dim + 1;
  torch::stable::parallel_for(0, params.rows, grain,
                              [&params](int64_t begin, int64_t end) {
                                topk_activation_cpu(params, begin, end);
                              });
  return {call.y, call.mask};
}

#ifdef SPARSE_AASIST_WITH_CUDA
std::tuple<Tensor, Tensor> run_cuda(Tensor x, int64_t k, bool by_abs) {
  const int32_t device = x.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  Call call = prepare(x, k, by_abs);
  const char* error =
      topk_activation_cuda(call.params, current_cuda_stream(device));
  STD_TORCH_CHECK(error == nullptr, "topk_activation: ", error);
  return {call.y, call.mask};
}
#endif

STABLE_TORCH_LIBRARY_FRAGMENT(sparse_aasist, m) {
  m.def(
      "topk_activation(Tensor x, int k, bool by_abs) -> (Tensor y, Tensor "
      "mask)");
}

STABLE_TORCH_LIBRARY_IMPL(sparse_aasist, CPU, m) {
  m.impl("topk_activation", TORCH_BOX(&run_cpu));
}

#ifdef SPARSE_AASIST_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(sparse_aasist, CUDA, m) {
  m.impl("topk_activation", TORCH_BOX(&run_cuda));
}
#endif

}  // namespace
}  // namespace sparse_aasist
