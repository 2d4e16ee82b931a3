// graph_stack: the graph half of AASIST without gradients, from the output of
// the encoder to the readout. Parameters and launchers, free of torch.
//
//   nodes = max of |features| over bands (temporal), or over time, plus a
//           position (spectral)
//   layer(x) = selu(batch_norm(A read + C x)) for what graph_attention reads
//   pooled = graph_pool(layer(nodes)) of both types
//   a branch, of two: x = both types, each by a projection of its own, joined;
//           layer(x) with a master, graph_pool of both types, once more the
//           same layer; what is pooled and what the last layer gives is added
//   readout = max over branches; of each type the largest magnitude and the
//           mean over its nodes; the master
//
// Types are in the order temporal, spectral: so the layers join them.
#pragma once

#include <cstdint>

#include "float_format.h"
#include "graph_attention.h"
#include "graph_pool.h"
#include "simd_level.h"

namespace sparse_aasist {

constexpr int32_t kHalves = 2;  // types at first, then branches
constexpr int32_t kDepths = 2;  // layers of a branch
constexpr int32_t kStackLayers = kHalves + kHalves * kDepths;
constexpr int32_t kReadoutBlocks = 5;

struct StackLinear {
  const void* weight;  // (outputs, inputs)
  const void* bias;    // (outputs)
};

// Two linear layers whose outputs are added, and their normalisation.
struct StackMix {
  StackLinear read;  // of what is read
  StackLinear own;   // of the node itself
  // (hidden) each; a null weight: no normalisation, no SELU.
  const void* weight;
  const void* bias;
  const void* mean;  // running statistics; null in training
  const void* variance;
  double eps;
};

struct StackLayer {
  // Its out, summary and attentions are set where they are needed; x are the
  // nodes that are joined and projected.
  GraphAttentionParams attention;
  StackLinear types[kHalves];  // the projections; null: the nodes are x
  StackMix mix;
  StackMix master_mix;
  void* x;           // (batch, nodes, dim), attention.x
  void* out;         // (batch, nodes, hidden)
  void* master_out;  // (batch, hidden)
};

struct StackPool {
  StackLinear score;  // (1, dim) and (1)
  int32_t nodes;
  int32_t kept;
  void* out;         // (batch, kept, dim)
  double* scores;    // (batch, kept)
  int32_t* indices;  // (batch, kept)
};

// All tensors are contiguous and have the format, float32 or float64.
struct GraphStackParams {
  FloatFormat format;
  int64_t batch;
  int32_t channels;
  int32_t bands;
  int32_t steps;
  const void* features;                // (batch, channels, bands, steps)
  const void* position;                // (bands, channels)
  StackLayer first[kHalves];           // of a type
  StackPool first_pools[kHalves];      // of a type
  StackLayer joint[kHalves][kDepths];  // of a branch
  StackPool pools[kHalves][kHalves];   // of a branch and a type
  void* readout;                       // (batch, kReadoutBlocks * hidden)
};

struct GraphStackSizes {
  FloatFormat format;
  int64_t batch;
  int32_t channels;
  int32_t bands;
  int32_t steps;
  int32_t dim;     // after the first layers
  int32_t hidden;  // after the joint ones
  int32_t first_kept[kHalves];
  int32_t kept[kHalves];
  double temperatures[kStackLayers];
  double eps[kStackLayers];
  bool of_batch;  // statistics: not among the weights
};

// Why the kernels cannot take these sizes; null where they can.
inline const char* refusal(const GraphStackSizes& sizes) {
  const auto is_width = [](int32_t width) {
    return width >= 1 && width <= kMaxWidth;
  };
  if (!is_width(sizes.channels) || !is_width(sizes.dim) ||
      !is_width(sizes.hidden))
    return "widths must be in 1..128";
  const int32_t nodes[kHalves] = {sizes.steps, sizes.bands};
  for (int32_t half = 0; half < kHalves; ++half)
    if (nodes[half] < 1 || nodes[half] > kMaxNodes ||
        sizes.first_kept[half] < 1 || sizes.first_kept[half] > nodes[half] ||
        sizes.kept[half] < 1 || sizes.kept[half] > sizes.first_kept[half])
      return "kept nodes must be in 1..nodes, nodes in 1..1024";
  if (sizes.first_kept[0] + sizes.first_kept[1] > kMaxNodes)
    return "joined nodes must be at most 1024";
  return nullptr;
}

// Reads the weights in the order in which a caller lists them: next(sizes)
// gives the next one, of these sizes.
template <class Next>
class StackWeights {
 public:
  StackWeights(const GraphStackSizes& sizes, const Next& next)
      : sizes_(sizes), next_(next) {}

  GraphStackParams read() {
    GraphStackParams params{};
    params.format = sizes_.format;
    params.batch = sizes_.batch;
    params.channels = sizes_.channels;
    params.bands = sizes_.bands;
    params.steps = sizes_.steps;
    params.position = next_({1, sizes_.bands, sizes_.channels});
    const void* masters[kHalves];
    for (const void*& master : masters)
      master = next_({1, 1, sizes_.dim});
    const int32_t nodes[kHalves] = {sizes_.steps, sizes_.bands};
    for (int32_t type = 0; type < kHalves; ++type)
      params.first[type] = layer(nodes[type], nodes[type], 1, sizes_.channels,
                                 sizes_.dim, nullptr, 0);
    for (int32_t branch = 0; branch < kHalves; ++branch) {
      params.joint[branch][0] = layer(
          sizes_.first_kept[0] + sizes_.first_kept[1], sizes_.first_kept[0], 3,
          sizes_.dim, sizes_.hidden, masters[branch], 0);
      // Its master is what the first one gives.
      params.joint[branch][1] =
          layer(sizes_.kept[0] + sizes_.kept[1], sizes_.kept[0], 3,
                sizes_.hidden, sizes_.hidden, nullptr, sizes_.hidden);
    }
    for (int32_t type = 0; type < kHalves; ++type)
      params.first_pools[type] =
          pool(nodes[type], sizes_.first_kept[type], sizes_.dim);
    for (int32_t branch = 0; branch < kHalves; ++branch)
      for (int32_t type = 0; type < kHalves; ++type)
        params.pools[branch][type] =
            pool(sizes_.first_kept[type], sizes_.kept[type], sizes_.hidden);
    return params;
  }

 private:
  StackLinear linear(int64_t inputs, int64_t outputs) {
    const void* weight = next_({outputs, inputs});
    return {weight, next_({outputs})};
  }

  // Attention vectors are listed one by one, as columns.
  GraphScore score(int64_t inputs, int64_t outputs, int32_t types) {
    const StackLinear hidden = linear(inputs, outputs);
    GraphScore score{hidden.weight, hidden.bias, {}};
    for (int32_t type = 0; type < types; ++type)
      score.vectors[type] = next_({outputs, 1});
    return score;
  }

  StackMix mix(int64_t inputs, int64_t outputs) {
    StackMix mix{};
    mix.read = linear(inputs, outputs);
    mix.own = linear(inputs, outputs);
    return mix;
  }

  StackLayer layer(int32_t nodes,
                   int32_t num_type1,
                   int32_t types,
                   int32_t dim,
                   int32_t hidden,
                   const void* master,
                   int64_t master_stride) {
    StackLayer layer{};
    GraphAttentionParams& attention = layer.attention;
    attention.format = sizes_.format;
    attention.batch = sizes_.batch;
    attention.nodes = nodes;
    attention.dim = dim;
    attention.hidden = hidden;
    attention.num_type1 = num_type1;
    attention.types = types;
    attention.temperature = sizes_.temperatures[layers_];
    attention.pairs = score(dim, hidden, types);
    layer.mix = mix(dim, hidden);
    layer.mix.weight = next_({hidden});
    layer.mix.bias = next_({hidden});
    if (!sizes_.of_batch) {
      layer.mix.mean = next_({hidden});
      layer.mix.variance = next_({hidden});
    }
    layer.mix.eps = sizes_.eps[layers_++];
    if (types == 1)
      return layer;
    for (StackLinear& projection : layer.types)
      projection = linear(dim, dim);
    attention.master = master;
    attention.master_stride = master_stride;
    attention.master_score = score(dim, hidden, 1);
    layer.master_mix = mix(dim, hidden);
    return layer;
  }

  StackPool pool(int32_t nodes, int32_t kept, int64_t dim) {
    StackPool pool{};
    pool.score = linear(dim, 1);
    pool.nodes = nodes;
    pool.kept = kept;
    return pool;
  }

  const GraphStackSizes& sizes_;
  const Next& next_;
  int32_t layers_ = 0;
};

// Memory behind `base`, which is a multiple of 64, or null to tell the size.
class Arena {
 public:
  explicit Arena(void* base) : base_(reinterpret_cast<uintptr_t>(base)) {}

  void* take(int64_t bytes) {
    const uintptr_t address = base_ + static_cast<uintptr_t>(taken_);
    taken_ += (bytes + 63) / 64 * 64;
    return reinterpret_cast<void*>(address);
  }

  int64_t taken() const { return taken_; }

 private:
  uintptr_t base_;
  int64_t taken_ = 0;
};

// Lays out what lies between the stages.
inline void place_stack(GraphStackParams& params, Arena& arena) {
  const int64_t real = is_double(params.format) ? 8 : 4, batch = params.batch;
  const auto take_layer = [&](StackLayer& layer) {
    GraphAttentionParams& attention = layer.attention;
    layer.x = arena.take(real * batch * attention.nodes * attention.dim);
    attention.x = layer.x;
    layer.out = arena.take(real * batch * attention.nodes * attention.hidden);
    if (has_master(attention))
      layer.master_out = arena.take(real * batch * attention.hidden);
  };
  const auto take_pool = [&](StackPool& pool, int64_t dim) {
    pool.out = arena.take(real * batch * pool.kept * dim);
    pool.scores = static_cast<double*>(arena.take(8 * batch * pool.kept));
    pool.indices = static_cast<int32_t*>(arena.take(4 * batch * pool.kept));
  };
  for (int32_t half = 0; half < kHalves; ++half) {
    take_layer(params.first[half]);
    take_pool(params.first_pools[half], params.first[half].attention.hidden);
    for (StackLayer& layer : params.joint[half])
      take_layer(layer);
    StackLayer* const joint = params.joint[half];
    joint[1].attention.master = joint[0].master_out;
    for (StackPool& pool : params.pools[half])
      take_pool(pool, joint[0].attention.hidden);
  }
}

// The same behind `base`; returns the size in bytes.
inline int64_t place_stack(GraphStackParams& params, void* base) {
  Arena arena(base);
  place_stack(params, arena);
  return arena.taken();
}

SPARSE_AASIST_FOR_EACH_SIMD_LEVEL(
    // Scratch of a thread, in bytes; a multiple of 64.
    int64_t graph_stack_scratch_cpu(const GraphStackParams& params);

    // Items [begin, end) of batch * kHalves, halves of a clip side by side:
    // nodes, first layer and pool of a type; then a branch.
    void graph_stack_first_cpu(const GraphStackParams& params,
                               int64_t begin,
                               int64_t end,
                               void* scratch);
    void graph_stack_branch_cpu(const GraphStackParams& params,
                                int64_t begin,
                                int64_t end,
                                void* scratch);
    // Clips [begin, end).
    void graph_stack_readout_cpu(const GraphStackParams& params,
                                 int64_t begin,
                                 int64_t end);)

// float32 only.
const char* graph_stack_cuda(const GraphStackParams& params, void* stream);

}  // namespace sparse_aasist
