// topk_linear on a GPU. Forward: a warp that has selected a row, or the warps
// of a block, gather the k columns of the weight. Backward: a warp owns a tile
// of columns for a chunk of rows and walks them in order, so that no sum is
// shared; a second kernel adds the chunks, again in order.
#include "launch.h"
#include "row_access.cuh"
#include "topk_linear.h"
#include "topk_select.cuh"

namespace sparse_aasist {
namespace {

template <class Format>
struct LinearFinish {
  TopkLinearParams params;

  __device__ void operator()(int64_t row, int32_t warp, int32_t warps) const {
    using Bits = typename Format::Bits;
    const int32_t lane = threadIdx.x % 32;
    const int64_t dim = params.topk.dim;
    const int32_t k = params.topk.k;
    const Bits* values = at<Bits>(params.topk.values, row * k);
    const int32_t* indices = params.topk.indices + row * k;
    const Bits* scale = at<Bits>(params.scale, row * dim);
    for (int32_t c = warp; c < params.classes; c += warps) {
      const Bits* weight = at<Bits>(params.weight, c * dim);
      double sum = 0;
      for (int32_t i = lane; i < k; i += 32) {
        const int32_t index = position(indices[i]);
        double value = Format::to_double(values[i]);
        if (scale != nullptr)
          value *= Format::to_double(scale[index]);
        sum += value * Format::to_double(weight[index]);
      }
#pragma unroll
      for (int32_t distance = 16; distance > 0; distance /= 2)
        sum += __shfl_xor_sync(kAllLanes, sum, distance);
      if (lane == 0) {
        const Bits bias = at<Bits>(params.bias, c)[0];
        at<Bits>(params.out, row * params.classes + c)[0] =
            Format::from_double(sum + Format::to_double(bias));
      }
    }
  }
};

// How the backward pass is cut up; a function of the sizes alone.
struct Tiling {
  int64_t chunks;  // of rows
  int64_t rows_per_chunk;
  int32_t tiles;  // of columns
  int32_t tile_columns;
  int64_t sums;  // per chunk: of weight and bias
};

constexpr int64_t kSharedSums = 6144;       // float64, 48 KB
constexpr int64_t kMostPartials = 1 << 22;  // float64, 32 MB
constexpr int64_t kLeastRowsPerChunk = 32;

Tiling tiling(int64_t rows, int32_t dim, int32_t classes) {
  Tiling t{};
  t.sums = int64_t{classes} * dim + classes;
  const int64_t most = kMostPartials / t.sums > 1 ? kMostPartials / t.sums : 1;
  const int64_t wanted = (rows + kLeastRowsPerChunk - 1) / kLeastRowsPerChunk;
  t.chunks = wanted < most ? wanted : most;
  t.rows_per_chunk = t.chunks > 0 ? (rows + t.chunks - 1) / t.chunks : 0;
  const int64_t columns = (kSharedSums - classes) / classes;
  t.tile_columns = static_cast<int32_t>(columns < dim ? columns : dim);
  t.tiles = (dim + t.tile_columns - 1) / t.tile_columns;
  return t;
}

template <class Format>
__global__ void __launch_bounds__(32)
    topk_linear_backward_kernel(TopkLinearBackwardParams params,
                                Tiling tiling) {
  using Bits = typename Format::Bits;
  SPARSE_AASIST_DYNAMIC_SHARED(double, sums);
  const TopkActivationBackwardParams& topk = params.topk;
  const int32_t lane = threadIdx.x;
  const int32_t k = topk.k, classes = params.classes;
  const int64_t dim = topk.dim;
  const int64_t chunk = blockIdx.x / tiling.tiles;
  const int32_t tile = blockIdx.x % tiling.tiles;
  const int32_t begin = tile * tiling.tile_columns;
  const int32_t columns = topk.dim - begin < tiling.tile_columns
                              ? topk.dim - begin
                              : tiling.tile_columns;
  const int32_t end = begin + columns;
  // Sums of the weight's columns, then, in the first tile, of the bias.
  const int32_t count = classes * columns + (tile == 0 ? classes : 0);
  for (int32_t i = lane; i < count; i += 32)
    sums[i] = 0;
  __syncwarp();

  const Bits* weight = static_cast<const Bits*>(params.weight);
  const int64_t first_row = chunk * tiling.rows_per_chunk;
  int64_t last_row = first_row + tiling.rows_per_chunk;
  last_row = last_row < topk.rows ? last_row : topk.rows;
  for (int64_t row = first_row; row < last_row; ++row) {
    const Bits* grad_out = at<Bits>(params.grad_out, row * classes);
    const Bits* grad_y = at<Bits>(topk.grad, row * topk.grad_row_stride);
    const Bits* values = at<Bits>(params.values, row * k);
    const Bits* scale = at<Bits>(params.scale, row * dim);
    const int32_t* indices = topk.indices + row * k;
    Bits* dx = at<Bits>(topk.dx, row * dim);
    if (dx != nullptr)
      for (int32_t index = begin + lane; index < end; index += 32)
        dx[index] = 0;
    // Also between the rows: a column's sum may belong to another lane next.
    __syncwarp();
    for (int32_t i = lower_bound(indices, k, begin) + lane;
         i < k && position(indices[i]) < end; i += 32) {
      const int32_t index = indices[i];
      if (index < 0)
        continue;
      const double factor =
          scale != nullptr ? Format::to_double(scale[index]) : 1.0;
      const double value = factor * Format::to_double(values[i]);
      double gradient = 0;
      for (int32_t c = 0; c < classes; ++c) {
        const double grad = Format::to_double(grad_out[c]);
        sums[c * columns + index - begin] += value * grad;
        gradient += grad * Format::to_double(weight[c * dim + index]);
      }
      gradient *= factor;
      if (grad_y != nullptr)
        gradient += Format::to_double(grad_y[index * topk.grad_dim_stride]);
      if (dx != nullptr)
        dx[index] = Format::from_double(gradient);
    }
    if (tile == 0)
      for (int32_t c = lane; c < classes; c += 32)
        sums[classes * columns + c] += Format::to_double(grad_out[c]);
  }
  __syncwarp();
  if (params.dweight == nullptr)
    return;
  double* partials = params.partials + chunk * tiling.sums;
  for (int32_t c = 0; c < classes; ++c)
    for (int32_t j = lane; j < columns; j += 32)
      partials[c * dim + begin + j] = sums[c * columns + j];
  if (tile == 0)
    for (int32_t c = lane; c < classes; c += 32)
      partials[classes * dim + c] = sums[classes * columns + c];
}

template <class Format>
__global__ void topk_linear_sum_kernel(TopkLinearBackwardParams params,
                                       Tiling tiling) {
  using Bits = typename Format::Bits;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= tiling.sums)
    return;
  double sum = 0;
  for (int64_t chunk = 0; chunk < tiling.chunks; ++chunk)
    sum += params.partials[chunk * tiling.sums + i];
  const int64_t weights = int64_t{params.classes} * params.topk.dim;
  Bits* to = i < weights ? at<Bits>(params.dweight, i)
                         : at<Bits>(params.dbias, i - weights);
  *to = Format::from_double(sum);
}

}  // namespace

int64_t topk_linear_partials(int64_t rows, int32_t dim, int32_t classes) {
  const Tiling t = tiling(rows, dim, classes);
  return t.chunks * t.sums;
}

const char* topk_linear_cuda(const TopkLinearParams& params, void* stream) {
  return with_format(params.topk.format, [&](auto format) {
    const LinearFinish<decltype(format)> finish{params};
    return launch_select<decltype(format)>(params.topk, finish, stream);
  });
}

const char* topk_linear_backward_cuda(const TopkLinearBackwardParams& params,
                                      void* stream) {
  const Tiling t = tiling(params.topk.rows, params.topk.dim, params.classes);
  return with_format(params.topk.format, [&](auto format) -> const char* {
    using Format = decltype(format);
    if (t.chunks > 0) {
      const unsigned shared_bytes = static_cast<unsigned>(
          sizeof(double) * params.classes * (t.tile_columns + 1));
      const char* error =
          SPARSE_AASIST_LAUNCH((topk_linear_backward_kernel<Format>),
                               static_cast<unsigned>(t.chunks * t.tiles), 32,
                               shared_bytes, stream, params, t);
      if (error != nullptr)
        return error;
    }
    if (params.dweight == nullptr)
      return nullptr;
    constexpr int64_t kThreads = 256;
    return SPARSE_AASIST_LAUNCH(
        (topk_linear_sum_kernel<Format>),
        static_cast<unsigned>((t.sums + kThreads - 1) / kThreads), kThreads, 0,
        stream, params, t);
  });
}

}  // namespace sparse_aasist
