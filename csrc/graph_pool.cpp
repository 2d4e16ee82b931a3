// graph_pool: schemas, checks, allocation and registration.
#include "graph_pool.h"

#include <optional>
#include <tuple>

#include <torch/csrc/stable/library.h>

#include "graph_passes_cpu.h"
#include "task_scratch.h"
#include "tensor_rows.h"

#ifdef SPARSE_AASIST_WITH_CUDA
#include "cuda_device.h"
#endif

namespace sparse_aasist {
namespace {

constexpr const char* kName = "graph_pool";

class Cpu {
 public:
  explicit Cpu(const Tensor&) {}

  void run(const GraphPoolParams& params) const {
    GraphPassesCpu(TorchThreads()).pool(params);
  }
  void run(const GraphPoolBackwardParams& params) const {
    GraphPassesCpu(TorchThreads()).pool_backward(params);
  }
};

#ifdef SPARSE_AASIST_WITH_CUDA
class Cuda : public CudaDevice {
 public:
  using CudaDevice::CudaDevice;

  void run(const GraphPoolParams& params) const {
    check_launch(graph_pool_cuda(params, stream()), kName);
  }
  void run(const GraphPoolBackwardParams& params) const {
    check_launch(graph_pool_backward_cuda(params, stream()), kName);
  }
};
#endif

// What both directions are given, checked; the tensors become contiguous.
GraphPoolParams check(Tensor& h, Tensor& weight, std::optional<Tensor>& scale) {
  STD_TORCH_CHECK(h.dim() == 3 && h.size(1) >= 1 && h.size(2) >= 1 &&
                      h.size(1) <= kMaxPoolNodes,
                  kName, ": h must be (batch, nodes, dim), 1..", kMaxPoolNodes,
                  " nodes");
  STD_TORCH_CHECK(fits(weight, h, {1, h.size(2)}), kName,
                  ": weight must be (1, ", h.size(2),
                  "), of the dtype and device of h");
  STD_TORCH_CHECK(!scale.has_value() || fits(*scale, h, sizes_of(h)), kName,
                  ": scale must have the shape, dtype and device of h");
  h = packed(h);
  weight = packed(weight);
  if (scale.has_value())
    scale = packed(*scale);
  GraphPoolParams params{};
  params.format = format_of(h, kName);
  params.batch = h.size(0);
  params.nodes = static_cast<int32_t>(h.size(1));
  params.dim = static_cast<int32_t>(h.size(2));
  params.h_stride = h.size(1) * h.size(2);
  params.h = h.const_data_ptr();
  params.weight = weight.const_data_ptr();
  params.scale = data_or_null(scale);
  return params;
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor> forward(Tensor h,
                                           Tensor weight,
                                           Tensor bias,
                                           int64_t kept,
                                           std::optional<Tensor> scale) {
  const Device device(h);
  GraphPoolParams params = check(h, weight, scale);
  STD_TORCH_CHECK(kept >= 1 && kept <= params.nodes, kName,
                  ": kept must be in 1..", params.nodes, ", got ", kept);
  STD_TORCH_CHECK(fits(bias, h, {1}), kName,
                  ": bias must be (1), of the dtype and device of h");
  Tensor out = new_tensor(h, {params.batch, kept, params.dim}, h.scalar_type());
  Tensor scores = new_tensor(h, {params.batch, kept}, ScalarType::Double);
  Tensor indices = new_tensor(h, {params.batch, kept}, ScalarType::Int);
  params.kept = static_cast<int32_t>(kept);
  params.bias = bias.const_data_ptr();
  params.out = out.mutable_data_ptr();
  params.scores = static_cast<double*>(scores.mutable_data_ptr());
  params.indices = static_cast<int32_t*>(indices.mutable_data_ptr());
  device.run(params);
  return {out, scores, indices};
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor> backward(Tensor grad_out,
                                            Tensor scores,
                                            Tensor indices,
                                            Tensor h,
                                            Tensor weight,
                                            std::optional<Tensor> scale) {
  const Device device(h);
  GraphPoolBackwardParams params{};
  params.forward = check(h, weight, scale);
  GraphPoolParams& forward = params.forward;
  const int64_t kept = last_size(indices);
  const std::vector<int64_t> compact = {forward.batch, kept};
  const bool is_saved =
      sizes_of(indices) == compact && sizes_of(scores) == compact &&
      indices.scalar_type() == ScalarType::Int &&
      scores.scalar_type() == ScalarType::Double && indices.is_contiguous() &&
      scores.is_contiguous() && indices.device() == h.device() &&
      scores.device() == h.device();
  const std::vector<int64_t> pooled = {forward.batch, kept, forward.dim};
  STD_TORCH_CHECK(is_saved && fits(grad_out, h, pooled), kName,
                  ": the gradient, scores or indices do not fit h");
  grad_out = packed(grad_out);
  Tensor dh = new_tensor(h, sizes_of(h), h.scalar_type());
  Tensor dweight = new_tensor(h, sizes_of(weight), h.scalar_type());
  Tensor dbias = new_tensor(h, {1}, h.scalar_type());
  Tensor partials =
      new_tensor(h, {forward.batch, forward.dim + 1}, ScalarType::Double);
  forward.kept = static_cast<int32_t>(kept);
  forward.scores = static_cast<double*>(scores.mutable_data_ptr());
  forward.indices = static_cast<int32_t*>(indices.mutable_data_ptr());
  params.grad_out = grad_out.const_data_ptr();
  params.dh = dh.mutable_data_ptr();
  params.dweight = dweight.mutable_data_ptr();
  params.dbias = dbias.mutable_data_ptr();
  params.partials = static_cast<double*>(partials.mutable_data_ptr());
  device.run(params);
  return {dh, dweight, dbias};
}

STABLE_TORCH_LIBRARY_FRAGMENT(sparse_aasist, m) {
  m.def(
      "graph_pool(Tensor h, Tensor weight, Tensor bias, SymInt kept, Tensor? "
      "scale) -> (Tensor out, Tensor scores, Tensor indices)");
  m.def(
      "graph_pool_backward(Tensor grad_out, Tensor scores, Tensor indices, "
      "Tensor h, Tensor weight, Tensor? scale) -> (Tensor dh, Tensor dweight, "
      "Tensor dbias)");
}

STABLE_TORCH_LIBRARY_IMPL(sparse_aasist, CPU, m) {
  m.impl("graph_pool", TORCH_BOX(&forward<Cpu>));
  m.impl("graph_pool_backward", TORCH_BOX(&backward<Cpu>));
}

#ifdef SPARSE_AASIST_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(sparse_aasist, CUDA, m) {
  m.impl("graph_pool", TORCH_BOX(&forward<Cuda>));
  m.impl("graph_pool_backward", TORCH_BOX(&backward<Cuda>));
}
#endif

}  // namespace
}  // namespace sparse_aasist
