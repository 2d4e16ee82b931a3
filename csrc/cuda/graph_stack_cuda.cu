// graph_stack on a GPU, in seven launches: the nodes, three times layers of
// both halves, pools behind the first two of them, and the readout.
#include <cmath>

#include "graph_attention_rows.cuh"
#include "graph_pool_clip.cuh"
#include "graph_stack.h"
#include "graph_stack_ends.cuh"
#include "projection.cuh"
#include "selu.cuh"

namespace sparse_aasist {
namespace {

using Rows = RowReader<float>;

__global__ void __launch_bounds__(kNodeThreads)
    graph_stack_nodes_kernel(const __grid_constant__ StackNodes nodes) {
  for_each_channel(nodes, [&](int64_t i) { take_nodes(nodes, i); });
}

// One layer of either half.
struct LayerPair {
  StackLayer layers[kHalves];
  RowGroups groups[kHalves];
};

// Rows of a group, warps with a few of them each, and their two linear layers,
// normalisation and SELU.
__device__ __forceinline__ void mix_rows(const StackLayer& layer,
                                         const RowGroup& group,
                                         const float* read,
                                         float* room) {
  const GraphAttentionParams& attention = layer.attention;
  constexpr int32_t kRows = kMostGroupRows / kAttentionWarps;
  constexpr FloatFormat kFormat = FloatFormat::kFloat32;
  const int32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int32_t dim = attention.dim, hidden = attention.hidden;
  const StackMix& mix = group.master ? layer.master_mix : layer.mix;
  const int64_t first = group.clip * attention.nodes + group.first;
  const Rows read_rows = {read, kFormat, dim, kMaxWidth};
  const Rows own = group.master ? Rows{attention.master, kFormat, dim,
                                       attention.master_stride}
                                : Rows{layer.x, kFormat, dim, dim};
  const int64_t own_first = group.master ? group.clip : first;
  float* out = group.master ? at<float>(layer.master_out, group.clip * hidden)
                            : at<float>(layer.out, first * hidden);
  for (int32_t output = 0; output < hidden; output += kProjectionOutputs) {
    float sums[kRows] = {};
    add_projection<kAttentionThreads>(read_rows, 0, group.count,
                                      {mix.read.weight, kFormat, dim, dim},
                                      hidden, output, room, sums);
    add_projection<kAttentionThreads>(own, own_first, group.count,
                                      {mix.own.weight, kFormat, dim, dim},
                                      hidden, output, room, sums);
    const int32_t o = output + lane;
    if (o >= hidden)
      continue;
    float scale = 1;
    float shift = value_at(mix.read.bias, o) + value_at(mix.own.bias, o);
    if (mix.weight != nullptr) {
      const float eps = static_cast<float>(mix.eps);
      scale =
          value_at(mix.weight, o) / std::sqrt(value_at(mix.variance, o) + eps);
      shift = (shift - value_at(mix.mean, o)) * scale + value_at(mix.bias, o);
    }
#pragma unroll
    for (int32_t i = 0; i < kRows; ++i) {
      const int32_t r = warp + i * kAttentionWarps;
      if (r >= group.count)
        continue;
      const float value = sums[i] * scale + shift;
      out[int64_t{r} * hidden + o] =
          mix.weight != nullptr ? selu(value) : value;
    }
  }
}

template <class Tile>
__global__ void __launch_bounds__(kAttentionThreads, 4)
    graph_stack_layers_kernel(const __grid_constant__ LayerPair pair) {
  SPARSE_AASIST_DYNAMIC_SHARED(float, scores);  // (rows of a group, nodes)
  SPARSE_AASIST_SHARED(Pack<float>, products, Tile::kPairs * kRowPacks);
  SPARSE_AASIST_SHARED(Pack<float>, weight, Tile::kOutputs * kRowPacks);
  SPARSE_AASIST_SHARED(float, layer_room, 4 * Tile::kOutputs);
  static_assert(Tile::kPairs * kRow<float> >=
                    kWeightedSumRoom + kMostGroupRows * kMaxWidth,
                "what is read lies behind the sums in the products");
  static_assert(Tile::kOutputs >= kProjectionOutputs, "room");
  const GroupRoom<Tile> room = {reinterpret_cast<float*>(products),
                                reinterpret_cast<float*>(weight), layer_room};
  float* const read = room.products + kWeightedSumRoom;
  const int64_t first_half = pair.groups[0].count;
  for (int64_t item = blockIdx.x; item < first_half + pair.groups[1].count;
       item += gridDim.x) {
    const int32_t half = item < first_half ? 0 : 1;
    const StackLayer& layer = pair.layers[half];
    const RowGroups& groups = pair.groups[half];
    const RowGroup group =
        row_group(layer.attention, groups, item - half * first_half);
    attend_group<Tile>(layer.attention, group, groups.shift, room, scores,
                       [&](int32_t r, int32_t d, float value) {
                         read[r * kMaxWidth + d] = value;
                       });
    mix_rows(layer, group, read, room.weight);
  }
}

// A pool, and where the projections of what it keeps are joined.
struct PoolTask {
  GraphPoolParams pool;
  int32_t projections;
  StackLinear linear[kHalves];
  void* x[kHalves];  // from the row of the pool on
  int64_t x_stride;  // from clip to clip
};

constexpr int32_t kMostPools = kHalves * kHalves;

struct PoolTasks {
  int64_t batch;
  int32_t count;
  PoolTask tasks[kMostPools];
};

__global__ void __launch_bounds__(kPoolThreads)
    graph_stack_pools_kernel(const __grid_constant__ PoolTasks tasks) {
  SPARSE_AASIST_DYNAMIC_SHARED(double, all_scores);  // of all nodes
  SPARSE_AASIST_SHARED(Pack<float>, room, kProjectionOutputs * kRowPacks);
  constexpr int32_t kRows = 4;
  constexpr int32_t kBlockRows = kRows * kPoolWarps;
  const int32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int64_t item = blockIdx.x; item < tasks.batch * tasks.count;
       item += gridDim.x) {
    const PoolTask& task = tasks.tasks[item % tasks.count];
    const int64_t clip = item / tasks.count;
    const int32_t kept = task.pool.kept, dim = task.pool.dim;
    pool_clip<Float32>(task.pool, clip, all_scores);
    const Rows rows = {task.pool.out, FloatFormat::kFloat32, dim, dim};
    for (int32_t p = 0; p < task.projections; ++p) {
      const StackLinear& linear = task.linear[p];
      float* x = at<float>(task.x[p], clip * task.x_stride);
      for (int32_t first = 0; first < kept; first += kBlockRows)
        for (int32_t output = 0; output < dim; output += kProjectionOutputs) {
          float sums[kRows] = {};
          // Its first barrier also lets all rows of the pool be read.
          add_projection<kPoolThreads>(
              rows, clip * kept + first, kept - first,
              {linear.weight, FloatFormat::kFloat32, dim, dim}, dim, output,
              reinterpret_cast<float*>(room), sums);
          const int32_t o = output + lane;
          for (int32_t i = 0; i < kRows; ++i) {
            const int32_t r = first + warp + i * kPoolWarps;
            if (o < dim && r < kept)
              x[int64_t{r} * dim + o] = sums[i] + value_at(linear.bias, o);
          }
        }
    }
    // The next clip writes new scores.
    __syncthreads();
  }
}

__global__ void __launch_bounds__(kMaxWidth)
    graph_stack_readout_kernel(const __grid_constant__ StackReadout from,
                               void* readout) {
  read_out(from, readout, nullptr);
}

const char* run_layers(const StackLayer& first,
                       const StackLayer& second,
                       void* stream) {
  const LayerPair pair = {
      {first, second},
      {row_groups(first.attention), row_groups(second.attention)}};
  int32_t most = 0;
  for (int32_t half = 0; half < kHalves; ++half) {
    const int32_t scores = pair.layers[half].attention.nodes
                           << pair.groups[half].shift;
    most = scores > most ? scores : most;
  }
  const unsigned grid = blocks_for(pair.groups[0].count + pair.groups[1].count);
  if (tile_outputs(first.attention) == 32)
    return SPARSE_AASIST_LAUNCH((graph_stack_layers_kernel<Tile<float, 32, 4>>),
                                grid, kAttentionThreads, most * sizeof(float),
                                stream, pair);
  return SPARSE_AASIST_LAUNCH((graph_stack_layers_kernel<Tile<float, 64, 4>>),
                              grid, kAttentionThreads, most * sizeof(float),
                              stream, pair);
}

// Adds the pool of nodes of `from`, those of a type, whose projection is to be
// joined in the layer `to`.
void add_pool(const StackPool& pool,
              const StackLayer& from,
              int32_t first,
              const StackLayer& to,
              int32_t type,
              PoolTasks& tasks) {
  PoolTask& task = tasks.tasks[tasks.count++];
  const int32_t dim = from.attention.hidden;
  task.pool.format = FloatFormat::kFloat32;
  task.pool.nodes = pool.nodes;
  task.pool.dim = dim;
  task.pool.kept = pool.kept;
  task.pool.h_stride = int64_t{from.attention.nodes} * dim;
  task.pool.h = at<float>(from.out, int64_t{first} * dim);
  task.pool.weight = pool.score.weight;
  task.pool.bias = pool.score.bias;
  task.pool.out = pool.out;
  task.pool.scores = pool.scores;
  task.pool.indices = pool.indices;
  const int64_t row = type == 0 ? 0 : to.attention.num_type1;
  task.projections = 1;
  task.linear[0] = to.types[type];
  task.x[0] = at<float>(to.x, row * dim);
  task.x_stride = int64_t{to.attention.nodes} * dim;
}

const char* run_pools(const PoolTasks& tasks, int32_t nodes, void* stream) {
  return SPARSE_AASIST_LAUNCH(graph_stack_pools_kernel,
                              blocks_for(tasks.batch * tasks.count),
                              kPoolThreads, paired_bytes(nodes), stream, tasks);
}

const char* run_first_pools(const GraphStackParams& params, void* stream) {
  PoolTasks tasks{};
  tasks.batch = params.batch;
  int32_t nodes = 0;
  for (int32_t type = 0; type < kHalves; ++type) {
    const StackLayer& from = params.first[type];
    nodes = from.attention.nodes > nodes ? from.attention.nodes : nodes;
    add_pool(params.first_pools[type], from, 0, params.joint[0][0], type,
             tasks);
    // The other branch has the same nodes, and a projection of its own.
    PoolTask& task = tasks.tasks[type];
    const StackLayer& other = params.joint[1][0];
    const int64_t row = type == 0 ? 0 : other.attention.num_type1;
    task.projections = kHalves;
    task.linear[1] = other.types[type];
    task.x[1] = at<float>(other.x, row * other.attention.dim);
  }
  return run_pools(tasks, nodes, stream);
}

const char* run_branch_pools(const GraphStackParams& params, void* stream) {
  PoolTasks tasks{};
  tasks.batch = params.batch;
  int32_t nodes = 0;
  for (int32_t branch = 0; branch < kHalves; ++branch)
    for (int32_t type = 0; type < kHalves; ++type) {
      const StackLayer& from = params.joint[branch][0];
      const StackPool& pool = params.pools[branch][type];
      nodes = pool.nodes > nodes ? pool.nodes : nodes;
      add_pool(pool, from, type == 0 ? 0 : from.attention.num_type1,
               params.joint[branch][1], type, tasks);
    }
  return run_pools(tasks, nodes, stream);
}

}  // namespace

const char* graph_stack_cuda(const GraphStackParams& params, void* stream) {
  const StackNodes nodes = stack_nodes(params);
  const char* error =
      SPARSE_AASIST_LAUNCH(graph_stack_nodes_kernel, node_blocks(nodes),
                           kNodeThreads, 0, stream, nodes);
  if (error == nullptr)
    error = run_layers(params.first[0], params.first[1], stream);
  if (error == nullptr)
    error = run_first_pools(params, stream);
  if (error == nullptr)
    error = run_layers(params.joint[0][0], params.joint[1][0], stream);
  if (error == nullptr)
    error = run_branch_pools(params, stream);
  if (error == nullptr)
    error = run_layers(params.joint[0][1], params.joint[1][1], stream);
  if (error != nullptr)
    return error;
  return SPARSE_AASIST_LAUNCH(
      graph_stack_readout_kernel, blocks_for(params.batch * kReadoutParts),
      kMaxWidth, 0, stream, stack_readout(params), params.readout);
}

}  // namespace sparse_aasist
