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
        0, topk.rows, rows_per_thread(work_per_row(topk, params.classes)),
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
    const TopkActivationBackwardParams& topk = params.topk;
    if (topk.dx != nullptr)
      torch::stable::parallel_for(
          0, topk.rows, rows_per_thread(work_per_row(topk, params.classes)),
          [&](int64_t begin, int64_t end) { rows_kernel(params, begin, end); });
    if (params.dweight == nullptr)
      return;
    // Every task looks into every row: few tasks, and one for little work.
    const int64_t sums = topk.rows * topk.k * params.classes;
    const int64_t columns_per_thread = std::max<int64_t>(
        topk.dim / 16 + 1, topk.dim * kGrainSums / (sums + 1));
    torch::stable::parallel_for(
        0, topk.dim, columns_per_thread, [&](int64_t begin, int64_t end) {
          const std::unique_ptr<double[]> room(
              new double[(end - begin) * params.classes]);
          columns_kernel(params, static_cast<int32_t>(begin),
                         static_cast<int32_t>(end), room.get());
        });
  }

 private:
  static constexpr int64_t kGrainSums = 1 << 13;

  template <class Params>
  static int64_t work_per_row(const Params& params, int64_t classes) {
    return params.dim + params.k * classes;
  }
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

bool same_device(const Tensor& a, const Tensor& b) {
  return a.device() == b.device();
}

// The layer that goes with rows (..., dim) of `like`, which has their dtype.
void check_layer(const Tensor& like,
                 const std::vector<int64_t>& sizes,
                 const Tensor& weight,
                 const std::optional<Tensor>& scale) {
  const int64_t dim = sizes.back();
  STD_TORCH_CHECK(weight.dim() == 2 && weight.size(1) == dim &&
                      weight.size(0) >= 1 && weight.size(0) <= kMaxClasses,
                  kName, ": weight must be (classes, ", dim, "), 1..",
                  kMaxClasses, " classes");
  STD_TORCH_CHECK(
      weight.scalar_type() == like.scalar_type() && same_device(weight, like),
      kName, ": weight must have the dtype and device of x");
  STD_TORCH_CHECK(!scale.has_value() ||
                      (scale->scalar_type() == like.scalar_type() &&
                       same_device(*scale, like) && sizes_of(*scale) == sizes),
                  kName, ": scale must have the shape, dtype and device of x");
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
  check_layer(x, sizes_of(x), weight, scale);
  STD_TORCH_CHECK(
      bias.dim() == 1 && bias.size(0) == weight.size(0) &&
          bias.scalar_type() == x.scalar_type() && same_device(bias, x),
      kName, ": bias must be (classes), of the dtype and device of x");
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

// Leaves out dx, or dweight and dbias, where they are not wanted.
template <class Device>
std::tuple<Tensor, Tensor, Tensor> backward(Tensor grad_out,
                                            std::optional<Tensor> grad_y,
                                            Tensor values,
                                            Tensor indices,
                                            Tensor weight,
                                            std::optional<Tensor> scale,
                                            bool want_dx,
                                            bool want_layer) {
  const Device device(values);
  STD_TORCH_CHECK(weight.dim() == 2, kName, ": weight must be (classes, dim)");
  const int64_t classes = weight.size(0), dim = weight.size(1);
  check_layer(values, with_last(values, dim), weight, scale);
  STD_TORCH_CHECK(sizes_of(values) == sizes_of(indices) &&
                      values.is_contiguous() && same_device(values, indices) &&
                      sizes_of(grad_out) == with_last(values, classes) &&
                      grad_out.scalar_type() == values.scalar_type() &&
                      same_device(grad_out, values),
                  kName,
                  ": the gradient does not fit values, indices and weight");
  grad_out = packed(grad_out);
  weight = packed(weight);
  if (scale.has_value())
    scale = packed(*scale);
  const ScalarType dtype = values.scalar_type();
  const auto wanted = [](bool wanted, std::vector<int64_t> sizes) {
    return wanted ? sizes : std::vector<int64_t>{0};
  };
  Tensor dx =
      new_tensor(values, wanted(want_dx, with_last(values, dim)), dtype);
  Tensor dweight =
      new_tensor(values, wanted(want_layer, {classes, dim}), dtype);
  Tensor dbias = new_tensor(values, wanted(want_layer, {classes}), dtype);
  std::optional<Rows> grad_rows;
  if (grad_y.has_value())
    grad_rows = as_rows(*grad_y, false);
  TopkLinearBackwardParams params{};
  params.topk = topk_backward_params(grad_rows, indices, values, dim, kName);
  params.topk.dx = want_dx ? dx.mutable_data_ptr() : nullptr;
  params.grad_out = grad_out.const_data_ptr();
  params.values = values.const_data_ptr();
  params.weight = weight.const_data_ptr();
  params.scale = data_or_null(scale);
  params.dweight = want_layer ? dweight.mutable_data_ptr() : nullptr;
  params.dbias = want_layer ? dbias.mutable_data_ptr() : nullptr;
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
      "Tensor indices, Tensor weight, Tensor? scale, bool want_dx, bool "
      "want_layer) "
      "-> (Tensor dx, Tensor "
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
