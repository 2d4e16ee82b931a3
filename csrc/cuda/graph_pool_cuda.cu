// graph_pool on a GPU, a block per clip.
#include "graph_pool.h"
#include "graph_pool_clip.cuh"

namespace sparse_aasist {
namespace {

template <class Format>
__global__ void __launch_bounds__(kPoolThreads)
    graph_pool_kernel(GraphPoolParams params) {
  SPARSE_AASIST_DYNAMIC_SHARED(double, all_scores);  // of all nodes
  for (int64_t clip = blockIdx.x; clip < params.batch; clip += gridDim.x) {
    pool_clip<Format>(params, clip, all_scores);
    // The next clip writes new scores.
    __syncthreads();
  }
}

template <class Format>
__global__ void __launch_bounds__(kPoolThreads)
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
    const Bits* clip_h = at<Bits>(forward.h, clip * forward.h_stride);
    Bits* clip_dh = at<Bits>(params.dh, clip * forward.h_stride);
    for (int64_t i = threadIdx.x; i < nodes * dim; i += kPoolThreads)
      clip_dh[i] = 0;
    __syncthreads();
    for (int32_t r = warp; r < kept; r += kPoolWarps) {
      const int64_t rank = clip * kept + r;
      const int64_t node = forward.indices[rank];
      const Bits* h = clip_h + node * dim;
      const Bits* scale = at<Bits>(forward.scale, (clip * nodes + node) * dim);
      Bits* dh = clip_dh + node * dim;
      const Bits* grad = at<Bits>(params.grad_out, rank * dim);
      const double score = forward.scores[rank];
      double dscore = 0;
      for (int32_t d = lane; d < dim; d += 32)
        dscore += Format::to_double(grad[d]) * Format::to_double(h[d]);
      const double dsum = warp_sum(dscore) * score * (1 - score);
      for (int32_t d = lane; d < dim; d += 32) {
        const double factor =
            scale == nullptr ? dsum : dsum * Format::to_double(scale[d]);
        dh[d] = Format::from_double(Format::to_double(grad[d]) *
                                        rounded<Format>(score) +
                                    factor * Format::to_double(weight[d]));
      }
      if (lane == 0)
        dsums[r] = dsum;
    }
    __syncthreads();
    double* sums = params.partials + clip * (dim + 1);
    for (int32_t d = threadIdx.x; d <= dim; d += kPoolThreads) {
      const int32_t* indices = forward.indices + clip * kept;
      const Bits* scale = at<Bits>(forward.scale, clip * nodes * dim + d);
      double sum = 0;
      for (int32_t r = 0; r < kept; ++r) {
        double term = dsums[r];
        if (d < dim)
          term *= Format::to_double(clip_h[indices[r] * dim + d]);
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

}  // namespace

const char* graph_pool_cuda(const GraphPoolParams& params, void* stream) {
  if (params.batch == 0)
    return nullptr;
  return with_format(params.format, [&](auto format) {
    using Format = decltype(format);
    return SPARSE_AASIST_LAUNCH((graph_pool_kernel<Format>),
                                blocks_for(params.batch), kPoolThreads,
                                paired_bytes(params.nodes), stream, params);
  });
}

const char* graph_pool_backward_cuda(const GraphPoolBackwardParams& params,
                                     void* stream) {
  const GraphPoolParams& forward = params.forward;
  return with_format(forward.format, [&](auto format) -> const char* {
    using Format = decltype(format);
    if (forward.batch > 0) {
      const char* error = SPARSE_AASIST_LAUNCH(
          (graph_pool_backward_kernel<Format>), blocks_for(forward.batch),
          kPoolThreads, paired_bytes(forward.kept), stream, params);
      if (error != nullptr)
        return error;
    }
    return SPARSE_AASIST_LAUNCH(
        (graph_pool_sum_kernel<Format>),
        static_cast<unsigned>(forward.dim / kPoolThreads + 1), kPoolThreads, 0,
        stream, params);
  });
}

}  // namespace sparse_aasist
