// The gradients of graph_attention on a GPU, in three launches without atomics.
//
// 1. By rows: dS, and what the sums behind the softmax give to the nodes.
// 2. A block owns a run of rows and walks their pairs (k, j), all j, in order.
//    It computes the hidden layer H again and sums up, in registers,
//      Z_j = (dS_kj + dS_jk) v * (1 - H_kj^2);  M_k = sum over j of Z_j x_j^T
//    from which dx_k = sum over o of W[o,:] M_k[o,:] and
//    dW = 1/2 sum over k of M_k diag(x_k). The master is one more row per clip,
//    with dS_j alone for both and the whole of M; what it gives to the nodes is
//    a product of its own, (Z_j W) * master.
// 3. Adds up, in order and in float64, what runs and tiles have left.
#include "graph_attention_gradient.cuh"
#include "warp_sum.cuh"

namespace sparse_aasist {
namespace {

// Turns dP into dS, for a row, by a warp.
template <class T>
__device__ __forceinline__ void score_gradient_row(int32_t nodes,
                                                   T scale,
                                                   const T* attention,
                                                   const T* dattention,
                                                   T* dscores) {
  const int32_t lane = threadIdx.x % 32;
  T dot = 0;
  for (int32_t j = lane; j < nodes; j += 32)
    dot += attention[j] * dattention[j];
  dot = warp_sum(dot);
  for (int32_t j = lane; j < nodes; j += 32)
    dscores[j] = attention[j] * (dattention[j] - dot) * scale;
}

// dP of the rows of a group, whose gradients are the rows of `grads`.
template <class T>
__device__ __forceinline__ void attention_gradients(const RowGroup& group,
                                                    int32_t shift,
                                                    int32_t nodes,
                                                    const RowReader<T>& grads,
                                                    int64_t first_grad,
                                                    const RowReader<T>& values,
                                                    T* grad_room,
                                                    T* dattention) {
  const int32_t quads = (values.width + kQuad - 1) / kQuad;
  for (int32_t unit = threadIdx.x; unit < group.count * quads;
       unit += kAttentionThreads)
    store_row_quad(grad_room + unit * kQuad,
                   grads.quad(first_grad + unit / quads, unit % quads * kQuad));
  __syncthreads();
  for (int32_t pair = threadIdx.x; pair < nodes << shift;
       pair += kAttentionThreads) {
    const int32_t r = pair & ((1 << shift) - 1), j = pair >> shift;
    if (r >= group.count)
      continue;
    T sum = 0;
    for (int32_t q = 0; q < quads; ++q) {
      const Quad<T> value = values.quad(group.clip * nodes + j, q * kQuad);
#pragma unroll
      for (int32_t e = 0; e < kQuad; ++e)
        sum += value.of[e] * grad_room[(r * quads + q) * kQuad + e];
    }
    dattention[r * nodes + j] = sum;
  }
}

template <class T>
__global__ void __launch_bounds__(kAttentionThreads, 8)
    graph_attention_rows_kernel(GraphAttentionBackwardParams params,
                                BackwardPlan plan,
                                RowGroups groups) {
  SPARSE_AASIST_DYNAMIC_SHARED(T, weights);  // (rows of a group, nodes)
  SPARSE_AASIST_SHARED(Pack<T>, grad_room,
                       kMostGroupRows * kMaxWidth / kPack<T>);
  SPARSE_AASIST_SHARED(T, room, kWeightedSumRoom);
  const GraphAttentionParams& forward = params.forward;
  const int32_t nodes = forward.nodes, dim = forward.dim;
  const int32_t warp = threadIdx.x / 32;
  const T scale = static_cast<T>(1 / forward.temperature);
  const RowReader<T> x = node_rows<T>(forward, forward.x);
  const RowReader<T> grad_out = node_rows<T>(forward, params.grad_out);
  const RowReader<T> grad_summary = node_rows<T>(forward, params.grad_summary);
  for (int64_t item = blockIdx.x; item < groups.count; item += gridDim.x) {
    const RowGroup group = row_group(forward, groups, item);
    const int64_t first_node = group.clip * nodes;
    const int64_t first_row = first_node + group.first;
    const RowReader<T> grads = node_rows<T>(
        forward, group.master ? params.grad_summary : params.grad_out);
    attention_gradients<T>(group, groups.shift, nodes, grads,
                           group.master ? group.clip : first_row, x,
                           reinterpret_cast<T*>(grad_room), weights);
    __syncthreads();
    const T* attention = group.master
                             ? at<T>(forward.master_attention, first_node)
                             : at<T>(forward.attention, first_row * nodes);
    T* dscores = group.master
                     ? at<T>(params.partials, plan.master_scores + first_node)
                     : at<T>(params.score_gradients, first_row * nodes);
    for (int32_t r = warp; r < group.count; r += kAttentionWarps)
      score_gradient_row<T>(nodes, scale, attention + int64_t{r} * nodes,
                            weights + r * nodes, dscores + int64_t{r} * nodes);
    // The weights are free again, or, for the next item, all of shared memory.
    __syncthreads();
    if (group.master)
      continue;
    // Columns of the attention: who reads the nodes of the group, and how.
    for (int32_t i = threadIdx.x; i < nodes << groups.shift;
         i += kAttentionThreads) {
      const int32_t r = i & ((1 << groups.shift) - 1);
      const int32_t reader = i >> groups.shift;
      if (r < group.count)
        weights[r * nodes + reader] = *at<T>(
            forward.attention, (first_node + reader) * nodes + group.first + r);
    }
    __syncthreads();
    weighted_sums<T>(weights, group.count, nodes, grad_out, first_node, room,
                     [&](int32_t r, int32_t d, T value) {
                       if (has_master(forward))
                         value +=
                             *at<T>(forward.master_attention, first_row + r) *
                             grad_summary.value(group.clip, d);
                       *at<T>(params.partials,
                              plan.read_dx + (first_row + r) * dim + d) = value;
                     });
  }
}

template <class Tile>
__global__ void __launch_bounds__(kAttentionThreads, kGradientBlocks)
    graph_attention_pairs_kernel(GraphAttentionBackwardParams params,
                                 BackwardPlan plan) {
  using T = typename Tile::Real;
  SPARSE_AASIST_SHARED(Pack<T>, product_room, Tile::kPairs * kRowPacks);
  SPARSE_AASIST_SHARED(Pack<T>, node_room, Tile::kPairs * kRowPacks);
  SPARSE_AASIST_SHARED(Pack<T>, weight_room, Tile::kOutputs * kRowPacks);
  SPARSE_AASIST_SHARED(T, layer, 4 * Tile::kOutputs);
  SPARSE_AASIST_SHARED(T, row_room, (1 + Outer<Tile>::kWarpRows) * kDepth<T>);
  SPARSE_AASIST_SHARED(T, sums, kAttentionWarps * 4 * Tile::kOutputs);
  SPARSE_AASIST_SHARED(PairEntry<T>, entries, Tile::kPairs);
  const GradientRoom<T> room = {reinterpret_cast<T*>(product_room),
                                reinterpret_cast<T*>(node_room),
                                reinterpret_cast<T*>(weight_room),
                                layer,
                                row_room,
                                sums,
                                entries};
  const int32_t tiles = plan.output_tiles * plan.depth_tiles;
  const int32_t items = (plan.pairs.count + plan.masters.count) * tiles;
  for (int32_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int32_t run = item / tiles, tile = item % tiles;
    const TilePlace place = {tile / plan.depth_tiles * Tile::kOutputs,
                             tile % plan.depth_tiles * kDepth<T>,
                             tile / plan.depth_tiles};
    if (run < plan.pairs.count)
      run_gradients<Tile, false>(params, plan, place, run, room);
    else
      run_gradients<Tile, true>(params, plan, place, run - plan.pairs.count,
                                room);
    // The next item writes over the shared memory.
    __syncthreads();
  }
}

constexpr int32_t kSumThreads = 256;
constexpr int32_t kSumParts = kSumThreads / 32;

// The block adds up entries [begin, begin + 32) of the layers' gradients: a
// warp has a part of the runs, a lane an entry.
template <class Format>
__device__ __forceinline__ void sum_layer_entries(
    const GraphAttentionBackwardParams& params,
    const BackwardPlan& plan,
    int64_t begin,
    double* room) {
  const int32_t lane = threadIdx.x % 32, part = threadIdx.x / 32;
  const int64_t entry = begin + lane;
  if (entry < plan.layer_values) {
    const bool of_pairs = entry < plan.pair_sum_size;
    const int64_t runs = of_pairs ? plan.pairs.count : plan.masters.count;
    const int64_t stride = of_pairs ? plan.pair_sum_size : plan.master_sum_size;
    const Real<Format>* from = at<Real<Format>>(
        params.partials, of_pairs
                             ? plan.pair_sums + entry
                             : plan.master_sums + entry - plan.pair_sum_size);
    double sum = 0;
#pragma unroll 8
    for (int64_t run = runs * part / kSumParts;
         run < runs * (part + 1) / kSumParts; ++run)
      sum += static_cast<double>(from[run * stride]);
    room[threadIdx.x] = sum;
  }
  __syncthreads();
  if (part == 0 && entry < plan.layer_values) {
    double sum = 0;
    for (int32_t p = 0; p < kSumParts; ++p)
      sum += room[p * 32 + lane];
    *layer_entry<typename Format::Bits>(params, entry) =
        Format::from_double(sum);
  }
  __syncthreads();
}

template <class Format>
__global__ void __launch_bounds__(kSumThreads)
    graph_attention_sum_kernel(GraphAttentionBackwardParams params,
                               BackwardPlan plan) {
  using Bits = typename Format::Bits;
  using T = Real<Format>;
  SPARSE_AASIST_SHARED(double, room, kSumThreads);
  for (int64_t begin = int64_t{blockIdx.x} * 32; begin < plan.layer_values;
       begin += int64_t{gridDim.x} * 32)
    sum_layer_entries<Format>(params, plan, begin, room);
  const T* partials = static_cast<const T*>(params.partials);
  for (int64_t i = int64_t{blockIdx.x} * kSumThreads + threadIdx.x;
       i < plan.node_values + plan.master_values;
       i += int64_t{gridDim.x} * kSumThreads) {
    double sum = 0;
    if (i < plan.node_values) {
      sum = static_cast<double>(partials[plan.read_dx + i]);
      for (int32_t tile = 0; tile < plan.output_tiles; ++tile) {
        const int64_t entry = tile * plan.node_values + i;
        sum += static_cast<double>(partials[plan.pair_dx + entry]);
        if (plan.masters.count > 0)
          sum += static_cast<double>(partials[plan.master_dx + entry]);
      }
      at<Bits>(params.dx, i)[0] = Format::from_double(sum);
    } else {
      const int64_t entry = i - plan.node_values;
      for (int32_t tile = 0; tile < plan.output_tiles; ++tile)
        sum += static_cast<double>(
            partials[plan.dmaster + tile * plan.master_values + entry]);
      at<Bits>(params.dmaster, entry)[0] = Format::from_double(sum);
    }
  }
}

const char* launch_rows(const GraphAttentionBackwardParams& params,
                        const BackwardPlan& plan,
                        void* stream) {
  const RowGroups groups = row_groups(params.forward);
  const size_t scores =
      static_cast<size_t>(params.forward.nodes << groups.shift);
  if (is_double(params.forward.format))
    return SPARSE_AASIST_LAUNCH((graph_attention_rows_kernel<double>),
                                blocks_for(groups.count), kAttentionThreads,
                                scores * sizeof(double), stream, params, plan,
                                groups);
  return SPARSE_AASIST_LAUNCH(
      (graph_attention_rows_kernel<float>), blocks_for(groups.count),
      kAttentionThreads, scores * sizeof(float), stream, params, plan, groups);
}

const char* launch_pairs(const GraphAttentionBackwardParams& params,
                         const BackwardPlan& plan,
                         void* stream) {
  const int32_t items = (plan.pairs.count + plan.masters.count) *
                        plan.output_tiles * plan.depth_tiles;
  return with_tile<kWideGradientRows>(params.forward, [&](auto tile) {
    return SPARSE_AASIST_LAUNCH((graph_attention_pairs_kernel<decltype(tile)>),
                                blocks_for(items), kAttentionThreads, 0, stream,
                                params, plan);
  });
}

const char* launch_sum(const GraphAttentionBackwardParams& params,
                       const BackwardPlan& plan,
                       void* stream) {
  const int64_t of_layers = (plan.layer_values + 31) / 32;
  const int64_t values = plan.node_values + plan.master_values;
  const int64_t of_values = (values + kSumThreads - 1) / kSumThreads;
  const int64_t blocks = of_layers > of_values ? of_layers : of_values;
  return with_format(params.forward.format, [&](auto format) {
    return SPARSE_AASIST_LAUNCH((graph_attention_sum_kernel<decltype(format)>),
                                blocks_for(blocks), kSumThreads, 0, stream,
                                params, plan);
  });
}

}  // namespace

int64_t graph_attention_partials_cuda(const GraphAttentionParams& params) {
  return backward_plan(params).size;
}

const char* graph_attention_backward_cuda(
    const GraphAttentionBackwardParams& params,
    void* stream) {
  const BackwardPlan plan = backward_plan(params.forward);
  if (params.forward.batch > 0) {
    const char* error = launch_rows(params, plan, stream);
    if (error == nullptr)
      error = launch_pairs(params, plan, stream);
    if (error != nullptr)
      return error;
  }
  return launch_sum(params, plan, stream);
}

}  // namespace sparse_aasist
