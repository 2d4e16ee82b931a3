// The kernels of topk_activation and topk_linear, device and CPU code, for
// tests/topk_implementations.py.
#include <memory>

#include "cpu/topk_scratch.h"
#include "topk_activation.h"
#include "topk_linear.h"
#include "where.h"

namespace sparse_aasist::simt {
namespace {

// Scalars: where, schedule, format, by, rows, dim, k, stride of x.
TopkActivationParams selection(const Call& call, size_t x, size_t y) {
  TopkActivationParams params{};
  params.format = static_cast<FloatFormat>(call.scalars.at(2));
  params.by = static_cast<RankBy>(call.scalars.at(3));
  params.rows = call.scalars.at(4);
  params.dim = static_cast<int32_t>(call.scalars.at(5));
  params.k = static_cast<int32_t>(call.scalars.at(6));
  params.x = call.array(x);
  params.x_stride = call.scalars.at(7);
  params.y = call.array_or_null(y);
  params.values = call.array_or_null(y + 1);
  params.indices = call.array_or_null<int32_t>(y + 2);
  return params;
}

std::unique_ptr<int64_t[]> scratch_of(const TopkActivationParams& params) {
  return std::unique_ptr<int64_t[]>(
      new int64_t[topk_scratch_size(params.dim, params.k)]);
}

// Arrays: x, y, values, indices.
const char* run_activation(const Call& call) {
  const int64_t where = begin(call);
  const TopkActivationParams params = selection(call, 0, 1);
  if (where == kOnDevice)
    return topk_activation_cuda(params, nullptr);
  SPARSE_AASIST_AT_SIMD_LEVEL(topk_activation_cpu)
  (params, 0, params.rows, scratch_of(params).get());
  return nullptr;
}

// Scalars: where, schedule, format, rows, dim, k, row and dim stride of grad.
// Arrays: grad, grad_values, indices, dx.
const char* run_activation_backward(const Call& call) {
  const int64_t where = begin(call);
  TopkActivationBackwardParams params{};
  params.format = static_cast<FloatFormat>(call.scalars.at(2));
  params.rows = call.scalars.at(3);
  params.dim = static_cast<int32_t>(call.scalars.at(4));
  params.k = static_cast<int32_t>(call.scalars.at(5));
  params.grad_row_stride = call.scalars.at(6);
  params.grad_dim_stride = call.scalars.at(7);
  params.grad = call.array_or_null(0);
  params.grad_values = call.array_or_null(1);
  params.indices = call.array<int32_t>(2);
  params.dx = call.array(3);
  if (where == kOnDevice)
    return topk_activation_backward_cuda(params, nullptr);
  SPARSE_AASIST_AT_SIMD_LEVEL(topk_activation_backward_cpu)(params, 0,
                                                            params.rows);
  return nullptr;
}

// Scalars: those of run_activation, then classes.
// Arrays: x, y, values, indices, weight, bias, scale, out.
const char* run_linear(const Call& call) {
  const int64_t where = begin(call);
  TopkLinearParams params{};
  params.topk = selection(call, 0, 1);
  params.classes = static_cast<int32_t>(call.scalars.at(8));
  params.weight = call.array(4);
  params.bias = call.array(5);
  params.scale = call.array_or_null(6);
  params.out = call.array(7);
  if (where == kOnDevice)
    return topk_linear_cuda(params, nullptr);
  SPARSE_AASIST_AT_SIMD_LEVEL(topk_linear_cpu)
  (params, 0, params.topk.rows, scratch_of(params.topk).get());
  return nullptr;
}

// Scalars: those of run_activation_backward, then classes and how many columns
// a task of the CPU takes. Arrays: grad_out, grad_y, values, indices, weight,
// scale, dx, dweight, dbias.
const char* run_linear_backward(const Call& call) {
  const int64_t where = begin(call);
  TopkLinearBackwardParams params{};
  params.topk.format = static_cast<FloatFormat>(call.scalars.at(2));
  params.topk.rows = call.scalars.at(3);
  params.topk.dim = static_cast<int32_t>(call.scalars.at(4));
  params.topk.k = static_cast<int32_t>(call.scalars.at(5));
  params.topk.grad_row_stride = call.scalars.at(6);
  params.topk.grad_dim_stride = call.scalars.at(7);
  params.classes = static_cast<int32_t>(call.scalars.at(8));
  params.grad_out = call.array(0);
  params.topk.grad = call.array_or_null(1);
  params.values = call.array(2);
  params.topk.indices = call.array<int32_t>(3);
  params.weight = call.array(4);
  params.scale = call.array_or_null(5);
  params.topk.dx = call.array(6);
  params.dweight = call.array(7);
  params.dbias = call.array(8);
  const int32_t dim = params.topk.dim;
  if (where == kOnDevice) {
    const std::unique_ptr<double[]> partials(new double[topk_linear_partials(
        params.topk.rows, dim, params.classes)]);
    params.partials = partials.get();
    return topk_linear_backward_cuda(params, nullptr);
  }
  SPARSE_AASIST_AT_SIMD_LEVEL(topk_linear_backward_rows_cpu)
  (params, 0, params.topk.rows);
  const int32_t step = static_cast<int32_t>(call.scalars.at(9));
  for (int32_t column = 0; column < dim; column += step) {
    const int32_t end = column + step < dim ? column + step : dim;
    const std::unique_ptr<double[]> sums(
        new double[(end - column) * params.classes]);
    SPARSE_AASIST_AT_SIMD_LEVEL(topk_linear_backward_columns_cpu)
    (params, column, end, sums.get());
  }
  return nullptr;
}

}  // namespace
}  // namespace sparse_aasist::simt

int main() {
  using namespace sparse_aasist::simt;
  return serve({{"topk_activation", run_activation},
                {"topk_activation_backward", run_activation_backward},
                {"topk_linear", run_linear},
                {"topk_linear_backward", run_linear_backward}});
}
