// topk_activation: schemas, checks and registration.
#include "topk_activation.h"

#include <memory>
#include <optional>
#include <tuple>

#include <torch/csrc/stable/library.h>

#include "cpu/topk_scratch.h"
#include "topk_tensors.h"

#ifdef SPARSE_AASIST_WITH_CUDA
#include "cuda_device.h"
#endif

namespace sparse_aasist {
namespace {

constexpr const char* kName = "topk_activation";

class Cpu {
 public:
  explicit Cpu(const Tensor&) {}

  void run(const TopkActivationParams& params) const {
    const auto kernel = SPARSE_AASIST_AT_SIMD_LEVEL(topk_activation_cpu);
    torch::stable::parallel_for(
        0, params.rows, rows_per_thread(params.dim),
        [&](int64_t begin, int64_t end) {
          const std::unique_ptr<int64_t[]> scratch(
              new int64_t[topk_scratch_size(params.dim, params.k)]);
          kernel(params, begin, end, scratch.get());
        });
  }

  void run(const TopkActivationBackwardParams& params) const {
    const auto kernel =
        SPARSE_AASIST_AT_SIMD_LEVEL(topk_activation_backward_cpu);
    torch::stable::parallel_for(
        0, params.rows, rows_per_thread(params.dim),
        [&](int64_t begin, int64_t end) { kernel(params, begin, end); });
  }
};

#ifdef SPARSE_AASIST_WITH_CUDA
class Cuda : public CudaDevice {
 public:
  using CudaDevice::CudaDevice;

  void run(const TopkActivationParams& params) const {
    check_launch(topk_activation_cuda(params, stream()), kName);
  }

  void run(const TopkActivationBackwardParams& params) const {
    check_launch(topk_activation_backward_cuda(params, stream()), kName);
  }
};
#endif

template <class Device>
Tensor forward(Tensor x, int64_t k, int64_t by) {
  const Device device(x);
  const TopkCall call = new_topk_call(x, k, by, true, false, kName);
  device.run(call.params);
  return call.y;
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor> forward_compact(Tensor x,
                                                   int64_t k,
                                                   int64_t by) {
  const Device device(x);
  const TopkCall call = new_topk_call(x, k, by, true, true, kName);
  device.run(call.params);
  return {call.y, call.values, call.indices};
}

template <class Device>
Tensor backward(std::optional<Tensor> grad,
                std::optional<Tensor> grad_values,
                Tensor indices,
                int64_t dim) {
  STD_TORCH_CHECK(grad.has_value() || grad_values.has_value(), kName,
                  ": backward needs a gradient");
  const Device device(indices);
  const Tensor& like = grad.has_value() ? *grad : *grad_values;
  std::optional<Rows> grad_rows;
  if (grad.has_value())
    grad_rows = as_rows(*grad, false);
  if (grad_values.has_value()) {
    grad_values = packed(*grad_values);
    STD_TORCH_CHECK(sizes_of(*grad_values) == sizes_of(indices) &&
                        grad_values->scalar_type() == like.scalar_type() &&
                        grad_values->device() == indices.device(),
                    kName, ": the gradients do not fit the indices");
  }
  TopkActivationBackwardParams params =
      topk_backward_params(grad_rows, indices, like, dim, kName);
  Tensor dx = new_tensor(like, with_last(indices, dim), like.scalar_type());
  params.dx = dx.mutable_data_ptr();
  params.grad_values = data_or_null(grad_values);
  device.run(params);
  return dx;
}

STABLE_TORCH_LIBRARY_FRAGMENT(sparse_aasist, m) {
  m.def("topk_activation(Tensor x, int k, int by) -> Tensor");
  m.def(
      "topk_activation_compact(Tensor x, int k, int by) -> (Tensor y, Tensor "
      "values, Tensor indices)");
  m.def(
      "topk_activation_backward(Tensor? grad, Tensor? grad_values, Tensor "
      "indices, int dim) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(sparse_aasist, CPU, m) {
  m.impl("topk_activation", TORCH_BOX(&forward<Cpu>));
  m.impl("topk_activation_compact", TORCH_BOX(&forward_compact<Cpu>));
  m.impl("topk_activation_backward", TORCH_BOX(&backward<Cpu>));
}

#ifdef SPARSE_AASIST_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(sparse_aasist, CUDA, m) {
  m.impl("topk_activation", TORCH_BOX(&forward<Cuda>));
  m.impl("topk_activation_compact", TORCH_BOX(&forward_compact<Cuda>));
  m.impl("topk_activation_backward", TORCH_BOX(&backward<Cuda>));
}
#endif

}  // namespace
}  // namespace sparse_aasist
