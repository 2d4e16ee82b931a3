// graph_pool on a GPU, a block per clip: a warp scores a node, a thread counts
// how many keys come before that of its node, and warps write what is kept.
#include <cmath>

#include "graph_pool.h"
#include "kept_rows.h"
#include "launch.h"
#include "order_key.h"
#include "warp_sum.cuh"

namespace sparse_aasist {
namespace {

constexpr int32_t kThreads = 256;
constexpr int32_t kWarps = kThreads / 32;

template <class Format>
__device__ double rounded(double score) {
  return Format::to_double(Format::from_double(score));
}

template <class Format>
__global__ void __launch_bounds__(kThreads)
    graph_pool_kernel(GraphPoolParams params) {
  using Bits = typename Format::Bits;
  // Of all nodes.
  SPARSE_AASIST_DYNAMIC_SHARED(double, all_scores);
  const int32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int32_t nodes = params.nodes, kept = params.kept;
  const int64_t dim = params.dim;
  const Bits* weight = static_cast<const Bits*>(params.weight);
  const double bias = Format::to_double(*static_cast<const Bits*>(params.bias));
  for (int64_t clip = blockIdx.x; clip < params.batch; clip += gridDim.x) {
    for (int32_t i = warp; i < nodes; i += kWarps) {
      const Bits* h = at<Bits>(params.h, (clip * nodes + i) * dim);
      const Bits* scale = at<Bits>(params.scale, (clip * nodes + i) * dim);
      double sum = 0;
      for (int32_t d = lane; d < dim; d += 32) {
        const double factor =
            scale == nullptr ? 1.0 : Format::to_double(scale[d]);
        sum += Format::to_double(h[d]) * factor * Format::to_double(weight[d]);
      }
      sum = warp_sum(sum);
      if (lane == 0)
        all_scores[i] = 1 / (1 + exp(-sum - bias));
    }
    __syncthreads();
    int32_t* indices = params.indices + clip * kept;
    for (int32_t i = threadIdx.x; i < nodes; i += kThreads) {
      const auto key_of = [&](int32_t j) {
        return order_key<Format, RankBy::kValue, Bits>(
            Format::from_double(all_scores[j]));
      };
      const Bits key = key_of(i);
      int32_t rank = 0;
      for (int32_t j = 0; j < nodes; ++j) {
        const Bits other = key_of(j);
        rank += other > key || (other == key && j < i);
      }
      if (rank < kept) {
        indices[rank] = i;
        params.scores[clip * kept + rank] = all_scores[i];
      }
    }
    __syncthreads();
    for (int32_t r = warp; r < kept; r += kWarps) {
      const int32_t i = indices[r];
      const Bits* h = at<Bits>(params.h, (clip * nodes + i) * dim);
      Bits* out = at<Bits>(params.out, (clip * kept + r) * dim);
      const double score = rounded<Format>(all_scores[i]);
      for (int32_t d = lane; d < dim; d += 32)
        out[d] = Format::from_double(Format::to_double(h[d]) * score);
    }
    // The next clip writes new scores.
    __syncthreads();
  }
}

template <class Format>
__global__ void __launch_bounds__(kThreads)
    graph_pool_backward_kernel(GraphPoolBackwardParams params) {
  using Bits = typename Format::Bits;
  // Gradients of the sums before the sigmoid, of what is kept.
  SPARSE_AASIST_DYNAMIC_SHARED(double, dsums);
  const GraphPoolParams& forward = params.forward;
  const int32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t nodes = forward.nodes, dim = forward.dim;
  const int32_t kept = forward.kept;
  const Bits* weight = static_cast<const Bits*>(forward.weight);
  for (int64_t clip = blockIdx.x; clip < forward.batch; clip += gridDim.x) {
    Bits* dh = at<Bits>(params.dh, clip * nodes * dim);
    for (int64_t i = threadIdx.x; i < nodes * dim; i += kThreads)
      dh[i] = 0;
    __syncthreads();
    for (int32_t r = warp; r < kept; r += kWarps) {
      const int64_t rank = clip * kept + r;
      const int64_t node = clip * nodes + forward.indices[rank];
      const Bits* h = at<Bits>(forward.h, node * dim);
      const Bits* scale = at<Bits>(forward.scale, node * dim);
      const Bits* grad = at<Bits>(params.grad_out, rank * dim);
      const double score = forward.scores[rank];
      double dscore = 0;
      for (int32_t d = lane; d < dim; d += 32)
        dscore += Format::to_double(grad[d]) * Format::to_double(h[d]);
      const double dsum = warp_sum(dscore) * score * (1 - score);
      for (int32_t d = lane; d < dim; d += 32) {
        const double factor =
            scale == nullptr ? dsum : dsum * Format::to_double(scale[d]);
        at<Bits>(params.dh, node * dim)[d] = Format::from_double(
            Format::to_double(grad[d]) * rounded<Format>(score) +
            factor * Format::to_double(weight[d]));
      }
      if (lane == 0)
        dsums[r] = dsum;
    }
    __syncthreads();
    double* sums = params.partials + clip * (dim + 1);
    for (int32_t d = threadIdx.x; d <= dim; d += kThreads) {
      const int32_t* indices = forward.indices + clip * kept;
      const Bits* h = at<Bits>(forward.h, clip * nodes * dim + d);
      const Bits* scale = at<Bits>(forward.scale, clip * nodes * dim + d);
      double sum = 0;
      for (int32_t r = 0; r < kept; ++r) {
        double term = dsums[r];
        if (d < dim)
          term *= Format::to_double(h[indices[r] * dim]);
        if (d < dim && scale != nullptr)
          term *= Format::to_double(scale[indices[r] * dim]);
        sum += term;
      }
      sums[d] = sum;
    }
    // The next clip writes new gradients.
    __syncthreads();
  }
}

template <class Format>
__global__ void graph_pool_sum_kernel(GraphPoolBackwardParams params) {
  using Bits = typename Format::Bits;
  const int64_t dim = params.forward.dim;
  const int64_t d = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (d > dim)
    return;
  double sum = 0;
  for (int64_t clip = 0; clip < params.forward.batch; ++clip)
    sum += params.partials[clip * (dim + 1) + d];
  Bits* to =
      d < dim ? at<Bits>(params.dweight, d) : static_cast<Bits*>(params.dbias);
  *to = Format::from_double(sum);
}

unsigned blocks_for(int64_t clips) {
  return static_cast<unsigned>(clips < kMaxBlocks ? clips : kMaxBlocks);
}

}  // namespace

const char* graph_pool_cuda(const GraphPoolParams& params, void* stream) {
  if (params.batch == 0)
    return nullptr;
  return with_format(params.format, [&](auto format) {
    using Format = decltype(format);
    const size_t bytes = params.nodes * sizeof(double);
    return SPARSE_AASIST_LAUNCH((graph_pool_kernel<Format>),
                                blocks_for(params.batch), kThreads, bytes,
                                stream, params);
  });
}

const char* graph_pool_backward_cuda(const GraphPoolBackwardParams& params,
                                     void* stream) {
  const GraphPoolParams& forward = params.forward;
  return with_format(forward.format, [&](auto format) -> const char* {
    using Format = decltype(format);
    if (forward.batch > 0) {
      const size_t bytes = forward.kept * sizeof(double);
      const char* error = SPARSE_AASIST_LAUNCH(
          (graph_pool_backward_kernel<Format>), blocks_for(forward.batch),
          kThreads, bytes, stream, params);
      if (error != nullptr)
        return error;
    }
    return SPARSE_AASIST_LAUNCH(
        (graph_pool_sum_kernel<Format>),
        static_cast<unsigned>(forward.dim / kThreads + 1), kThreads, 0, stream,
        params);
  });
}

}  // namespace sparse_aasist
