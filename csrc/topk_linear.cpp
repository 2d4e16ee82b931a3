// topk_linear: schemas, checks, allocation and registration.
#include "topk_linear.h"

#include <algorithm>
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

constexpr const char* kName = "topk_linear";

class Cpu {
 public:
  explicit Cpu(const Tensor&) {}

  void run(const TopkLinearParams& params) const {
    const auto kernel = SPARSE_AASIST_AT_SIMD_LEVEL(topk_linear_cpu);
    const TopkActivationParams& topk = params.topk;
    torch::stable::parallel_for(
        0, topk.rows, rows_per_thread(topk.dim),
        [&](int64_t begin, int64_t end) {
          const std::unique_ptr<int64_t[]> scratch(
              new int64_t[topk_scratch_size(topk.dim, topk.k)]);
          kernel(params, begin, end, scratch.get());
        });
  }

  void run(const TopkLinearBackwardParams& params) const {
    const auto rows_kernel =
        SPARSE_AASIST_AT_SIMD_LEVEL(topk_linear_backward_rows_cpu);
    const auto columns_kernel =
        SPARSE_AASIST_AT_SIMD_LEVEL(topk_linear_backward_columns_cpu);
    const int32_t dim = params.topk.dim;
    torch::stable::parallel_for(
        0, params.topk.rows, rows_per_thread(dim),
        [&](int64_t begin, int64_t end) { rows_kernel(params, begin, end); });
    // Every task looks into every row: few tasks, and one for a small batch.
    const int64_t entries = params.topk.rows * params.topk.k;
    const int64_t columns_per_thread =
        std::max<int64_t>(dim / 16 + 1, dim * kGrainEntries / (entries + 1));
    torch::stable::parallel_for(
        0, dim, columns_per_thread, [&](int64_t begin, int64_t end) {
          const std::unique_ptr<double[]> sums(
              new double[(end - begin) * params.classes]);
          columns_kernel(params, static_cast<int32_t>(begin),
                         static_cast<int32_t>(end), sums.get());
        });
  }

 private:
  static constexpr int64_t kGrainEntries = 1 << 12;
};

#ifdef SPARSE_AASIST_WITH_CUDA
class Cuda : public CudaDevice {
 public:
  using CudaDevice::CudaDevice;

  void run(const TopkLinearParams& params) const {
    check_launch(topk_linear_cuda(params, stream()), kName);
  }

  void run(TopkLinearBackwardParams params) const {
    const Tensor partials = new_float64(topk_linear_partials(
        params.topk.rows, params.topk.dim, params.classes));
    params.partials = static_cast<double*>(partials.mutable_data_ptr());
    check_launch(topk_linear_backward_cuda(params, stream()), kName);
  }
};
#endif

void check_scale(const std::optional<Tensor>& scale,
                 const Tensor& weight,
                 int64_t numel) {
  STD_TORCH_CHECK(
      !scale.has_value() || (scale->scalar_type() == weight.scalar_type() &&
                             scale->numel() == numel),
      kName, ": scale must have the shape and dtype of x");
}

// weight (classes, dim), bias (classes) and scale, of the dtype of x.
void check_layer(const Tensor& x,
                 const Tensor& weight,
                 const Tensor& bias,
                 const std::optional<Tensor>& scale) {
  STD_TORCH_CHECK(weight.dim() == 2 && weight.size(1) == last_size(x) &&
                      weight.size(0) >= 1 && weight.size(0) <= kMaxClasses &&
                      bias.dim() == 1 && bias.size(0) == weight.size(0),
                  kName,
                  ": weight must be (classes, dim) and bias (classes), 1..",
                  kMaxClasses, " classes");
  STD_TORCH_CHECK(weight.scalar_type() == x.scalar_type() &&
                      bias.scalar_type() == x.scalar_type(),
                  kName, ": weight and bias must have the dtype of x");
  STD_TORCH_CHECK(
      !scale.has_value() || (scale->scalar_type() == x.scalar_type() &&
                             scale->numel() == x.numel()),
      kName, ": scale must have the shape and dtype of x");
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor, Tensor> forward(Tensor x,
                                                   int64_t k,
                                                   int64_t by,
                                                   Tensor weight,
                                                   Tensor bias,
                                                   std::optional<Tensor> scale,
                                                   bool dense) {
  const Device device(x);
  TopkCall call = new_topk_call(x, k, by, dense, true, kName);
  check_layer(x, weight, bias, scale);
  weight = packed(weight);
  bias = packed(bias);
  if (scale.has_value())
    scale = packed(*scale);
  Tensor out = new_tensor(x, with_last(x, weight.size(0)), x.scalar_type());
  if (!dense)
    call.y = new_tensor(x, {0}, x.scalar_type());
  TopkLinearParams params{};
  params.topk = call.params;
  params.weight = weight.const_data_ptr();
  params.bias = bias.const_data_ptr();
  params.scale = data_or_null(scale);
  params.out = out.mutable_data_ptr();
  params.classes = static_cast<int32_t>(weight.size(0));
  device.run(params);
  return {out, call.y, call.values, call.indices};
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor> backward(Tensor grad_out,
                                            std::optional<Tensor> grad_y,
                                            Tensor values,
                                            Tensor indices,
                                            Tensor weight,
                                            std::optional<Tensor> scale) {
  const Device device(indices);
  grad_out = packed(grad_out);
  weight = packed(weight);
  if (scale.has_value())
    scale = packed(*scale);
  STD_TORCH_CHECK(weight.dim() == 2, kName, ": weight must be (classes, dim)");
  const int64_t classes = weight.size(0), dim = weight.size(1);
  STD_TORCH_CHECK(
      values.numel() == indices.numel() && values.is_contiguous() &&
          last_size(grad_out) == classes &&
          grad_out.numel() * last_size(indices) == indices.numel() * classes &&
          values.scalar_type() == weight.scalar_type() &&
          grad_out.scalar_type() == weight.scalar_type(),
      kName, ": the gradient does not fit values, indices and weight");
  const ScalarType dtype = weight.scalar_type();
  Tensor dx = new_tensor(weight, with_last(indices, dim), dtype);
  check_scale(scale, weight, dx.numel());
  Tensor dweight = new_tensor(weight, {classes, dim}, dtype);
  Tensor dbias = new_tensor(weight, {classes}, dtype);
  std::optional<Rows> grad_rows;
  if (grad_y.has_value())
    grad_rows = as_rows(*grad_y, false);
  TopkLinearBackwardParams params{};
  params.topk = topk_backward_params(grad_rows, indices, dx, kName);
  params.grad_out = grad_out.const_data_ptr();
  params.values = values.const_data_ptr();
  params.weight = weight.const_data_ptr();
  params.scale = data_or_null(scale);
  params.dweight = dweight.mutable_data_ptr();
  params.dbias = dbias.mutable_data_ptr();
  params.classes = static_cast<int32_t>(classes);
  device.run(params);
  return {dx, dweight, dbias};
}

STABLE_TORCH_LIBRARY_FRAGMENT(sparse_aasist, m) {
  m.def(
      "topk_linear(Tensor x, int k, int by, Tensor weight, Tensor bias, "
      "Tensor? scale, bool dense) -> (Tensor out, Tensor y, Tensor values, "
      "Tensor indices)");
  m.def(
      "topk_linear_backward(Tensor grad_out, Tensor? grad_y, Tensor values, "
      "Tensor indices, Tensor weight, Tensor? scale) -> (Tensor dx, Tensor "
      "dweight, Tensor dbias)");
}

STABLE_TORCH_LIBRARY_IMPL(sparse_aasist, CPU, m) {
  m.impl("topk_linear", TORCH_BOX(&forward<Cpu>));
  m.impl("topk_linear_backward", TORCH_BOX(&backward<Cpu>));
}

#ifdef SPARSE_AASIST_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(sparse_aasist, CUDA, m) {
  m.impl("topk_linear", TORCH_BOX(&forward<Cuda>));
  m.impl("topk_linear_backward", TORCH_BOX(&backward<Cuda>));
}
#endif

}  // namespace
}  // namespace sparse_aasist
