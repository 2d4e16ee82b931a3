// What the bindings of topk_activation and topk_linear share.
#pragma once

#include "tensor_rows.h"
#include "topk_activation.h"

namespace sparse_aasist {

// A selection, and the tensors that its parameters point into.
struct TopkCall {
  Rows x;
  Tensor y;        // (..., dim), or undefined
  Tensor values;   // (..., k), or undefined
  Tensor indices;  // (..., k), int32, or undefined
  TopkActivationParams params;
};

// Allocates what is asked for. The checks are those that a direct call of a
// raw op would miss; the Python functions raise the friendlier errors first.
inline TopkCall new_topk_call(const Tensor& x,
                              int64_t k,
                              int64_t by,
                              bool dense,
                              bool compact,
                              const char* op) {
  STD_TORCH_CHECK(x.dim() >= 1, op, ": x needs a last dimension");
  const int64_t dim = last_size(x);
  STD_TORCH_CHECK(dim <= kMaxDim, op, ": rows are at most ", kMaxDim,
                  " long, got ", dim);
  STD_TORCH_CHECK(k >= 1 && k <= dim, op, ": k must be in 1..", dim, ", got ",
                  k);
  STD_TORCH_CHECK(by >= 0 && by <= 2, op, ": no rule ", by);
  TopkCall call{as_rows(x, true), {}, {}, {}, {}};
  TopkActivationParams& params = call.params;
  params.x = call.x.tensor.const_data_ptr();
  params.x_stride = call.x.row_stride;
  params.rows = call.x.count;
  params.dim = static_cast<int32_t>(dim);
  params.k = static_cast<int32_t>(k);
  params.by = static_cast<RankBy>(by);
  params.format = format_of(x, op);
  if (dense) {
    call.y = new_tensor(x, sizes_of(x), x.scalar_type());
    params.y = call.y.mutable_data_ptr();
  }
  if (compact) {
    const std::vector<int64_t> sizes = with_last(x, k);
    call.values = new_tensor(x, sizes, x.scalar_type());
    call.indices = new_tensor(x, sizes, ScalarType::Int);
    params.values = call.values.mutable_data_ptr();
    params.indices = static_cast<int32_t*>(call.indices.mutable_data_ptr());
  }
  return call;
}

// The parameters that both backward passes need, but dx, for rows of `dim`
// with the dtype of `like`; `grad` must outlive them.
inline TopkActivationBackwardParams topk_backward_params(
    const std::optional<Rows>& grad,
    const Tensor& indices,
    const Tensor& like,
    int64_t dim,
    const char* op) {
  STD_TORCH_CHECK(
      indices.scalar_type() == ScalarType::Int && indices.is_contiguous(), op,
      ": indices must be int32 and contiguous");
  const int64_t k = last_size(indices);
  STD_TORCH_CHECK(k >= 1 && k <= dim && dim <= kMaxDim, op,
                  ": k must be in 1..", dim, ", got ", k);
  STD_TORCH_CHECK(
      !grad.has_value() || (sizes_of(grad->tensor) == with_last(indices, dim) &&
                            grad->tensor.scalar_type() == like.scalar_type() &&
                            grad->tensor.device() == indices.device()),
      op, ": the gradient does not fit the indices");
  TopkActivationBackwardParams params{};
  if (grad.has_value()) {
    params.grad = grad->tensor.const_data_ptr();
    params.grad_row_stride = grad->row_stride;
    params.grad_dim_stride = grad->dim_stride;
  }
  params.indices = static_cast<const int32_t*>(indices.const_data_ptr());
  params.dim = static_cast<int32_t>(dim);
  params.k = static_cast<int32_t>(k);
  params.rows = indices.numel() / k;
  params.format = format_of(like, op);
  return params;
}

}  // namespace sparse_aasist
