// graph_stack with dropout and the statistics of its batch, and its gradient.
// Parameters and launchers, free of torch; the order of the passes is in
// graph_stack_order.h and graph_stack_backward_order.h.
//
//   layer(x) = selu(batch_norm(A read + C x)) as in graph_stack.h, of x that
//              dropout has scaled; its normalisation is over batch and nodes
//   graph_pool ranks nodes that dropout has scaled, and keeps them as they were
//   a branch's nodes and master are scaled by dropout before the readout
//
// Dropout's noise comes from the caller: factors, one for every entry.
#pragma once

#include <cstdint>

#include "graph_stack.h"
#include "row_passes.h"

namespace sparse_aasist {

constexpr int32_t kStackPools = kHalves + kHalves * kHalves;

// Layers and pools by number: those of the types, then those of the branches.
SPARSE_AASIST_INLINE int32_t joint_number(int32_t branch, int32_t depth) {
  return kHalves + branch * kDepths + depth;
}
SPARSE_AASIST_INLINE int32_t pool_number(int32_t branch, int32_t type) {
  return kHalves + branch * kHalves + type;
}

inline StackLayer& layer_at(GraphStackParams& params, int32_t number) {
  const int32_t joint = number - kHalves;
  return number < kHalves ? params.first[number]
                          : params.joint[joint / kDepths][joint % kDepths];
}
inline const StackLayer& layer_at(const GraphStackParams& params,
                                  int32_t number) {
  return layer_at(const_cast<GraphStackParams&>(params), number);
}
inline const StackPool& pool_at(const GraphStackParams& params,
                                int32_t number) {
  const int32_t joint = number - kHalves;
  return number < kHalves ? params.first_pools[number]
                          : params.pools[joint / kHalves][joint % kHalves];
}

// The layer whose nodes a pool has, and the first one of them.
struct PooledNodes {
  int32_t layer;
  int32_t first;
};
inline PooledNodes pooled_nodes(const GraphStackParams& params, int32_t pool) {
  if (pool < kHalves)
    return {pool, 0};
  const int32_t branch = (pool - kHalves) / kHalves;
  return {
      joint_number(branch, 0),
      pool % kHalves == 0 ? 0 : params.joint[branch][0].attention.num_type1};
}

// As torch.sign: 0 of NaN.
template <class T>
SPARSE_AASIST_INLINE T sign_of(T value) {
  return static_cast<T>((value > 0) - (value < 0));
}

// How both branches share the gradient of their maximum, as of torch.maximum:
// halves where they are equal, and to each the whole where one is NaN.
template <class T>
struct BranchShares {
  T of[kHalves];
};
template <class T>
SPARSE_AASIST_INLINE BranchShares<T> branch_shares(T a, T b, T grad) {
  const T each = a == b ? grad / 2 : grad;
  return {{a < b ? 0 : each, b < a ? 0 : each}};
}

// All tensors are contiguous and have the format, but where said; batch is 1 or
// more.
struct GraphStackTrainingParams {
  // Of its layers all that attention writes is kept for the gradient; the
  // running statistics are not read.
  GraphStackParams stack;
  // Noise.
  const void* of_layers[kStackLayers];  // (batch, nodes, dim), of x
  const void* of_pools[kStackPools];    // (batch, nodes, dim), of scored
  const void* of_branches[kHalves]
                         [kHalves];  // (batch, kept, hidden), of a type
  const void* of_masters[kHalves];   // (batch, hidden), of a branch
  // Of the normalisation of each layer: (hidden).
  void* means[kStackLayers];
  void* variances[kStackLayers];  // biased
  // Where the largest magnitude was found: of the nodes, the band (batch,
  // channels, steps) and the step (batch, channels, bands), the first of
  // equals; of the readout, the node (batch, kHalves, hidden) within its type.
  int32_t* node_indices[kHalves];
  int32_t* largest;
  void* mixed[kStackLayers];  // (batch, nodes, hidden), before normalisation
};

struct GraphStackBackwardParams {
  GraphStackTrainingParams forward;
  // Where the gradient of each weight is written, in place of the weight.
  GraphStackParams gradients;
  const void* grad_readout;  // as the readout
  void* dfeatures;           // as the features
  // What follows lies between the passes. Gradients of a layer's:
  void* dout[kStackLayers];             // (batch, nodes, hidden)
  void* dmixed[kStackLayers];           // (batch, nodes, hidden)
  void* dread[kStackLayers];            // (batch, nodes, dim)
  void* dx[kStackLayers];               // (batch, nodes, dim), before dropout
  void* dsummary[kStackLayers];         // (batch, dim)
  void* dmaster[kStackLayers];          // (batch, dim), of the master it has
  void* dmaster_out[kHalves][kDepths];  // (batch, hidden)
  // Of what a pool gives: (batch, kept, dim).
  void* dpool[kStackPools];
  // Of the op at work.
  void* score_gradients;
  void* partials;
  double* pool_partials;
};

// Lays out what the forward pass leaves for the backward pass, as place_stack
// does.
inline int64_t place_training(GraphStackTrainingParams& params, void* base) {
  GraphStackParams& stack = params.stack;
  const int64_t real = is_double(stack.format) ? 8 : 4, batch = stack.batch;
  Arena arena(base);
  place_stack(stack, arena);
  for (int32_t number = 0; number < kStackLayers; ++number) {
    StackLayer& layer = layer_at(stack, number);
    GraphAttentionParams& attention = layer.attention;
    const int64_t nodes = batch * attention.nodes;
    attention.out = arena.take(real * nodes * attention.dim);
    attention.attention = arena.take(real * nodes * attention.nodes);
    if (has_master(attention)) {
      attention.summary = arena.take(real * batch * attention.dim);
      attention.master_attention = arena.take(real * nodes);
    }
    params.mixed[number] = arena.take(real * nodes * attention.hidden);
  }
  const auto take_indices = [&](int64_t count) {
    return static_cast<int32_t*>(arena.take(4 * batch * count));
  };
  for (int32_t type = 0; type < kHalves; ++type)
    params.node_indices[type] = take_indices(int64_t{stack.channels} *
                                             stack.first[type].attention.nodes);
  params.largest =
      take_indices(kHalves * int64_t{stack.joint[0][0].attention.hidden});
  return arena.taken();
}

// Lays out what lies between the passes of the backward pass; `partials` tells
// how many entries the backward pass of an attention wants.
inline int64_t place_backward(
    GraphStackBackwardParams& params,
    int64_t (*partials)(const GraphAttentionParams& params),
    void* base) {
  const GraphStackParams& stack = params.forward.stack;
  const int64_t real = is_double(stack.format) ? 8 : 4, batch = stack.batch;
  Arena arena(base);
  int64_t most_scores = 0, most_partials = 0, most_width = 0;
  const auto raise = [](int64_t& most, int64_t value) {
    most = value > most ? value : most;
  };
  for (int32_t number = 0; number < kStackLayers; ++number) {
    const GraphAttentionParams& attention = layer_at(stack, number).attention;
    const int64_t nodes = batch * attention.nodes;
    params.dout[number] = arena.take(real * nodes * attention.hidden);
    params.dmixed[number] = arena.take(real * nodes * attention.hidden);
    params.dread[number] = arena.take(real * nodes * attention.dim);
    params.dx[number] = arena.take(real * nodes * attention.dim);
    if (has_master(attention)) {
      params.dsummary[number] = arena.take(real * batch * attention.dim);
      params.dmaster[number] = arena.take(real * batch * attention.dim);
    }
    raise(most_scores, nodes * attention.nodes);
    raise(most_partials, partials(attention));
    raise(most_width, attention.hidden);
  }
  for (auto& branch : params.dmaster_out)
    for (void*& dmaster : branch)
      dmaster = arena.take(real * batch * most_width);
  for (int32_t number = 0; number < kStackPools; ++number) {
    const int32_t layer = pooled_nodes(stack, number).layer;
    params.dpool[number] =
        arena.take(real * batch * pool_at(stack, number).kept *
                   layer_at(stack, layer).attention.hidden);
  }
  params.score_gradients = arena.take(real * most_scores);
  params.partials = arena.take(real * most_partials);
  params.pool_partials =
      static_cast<double*>(arena.take(8 * batch * (most_width + 1)));
  return arena.taken();
}

SPARSE_AASIST_FOR_EACH_SIMD_LEVEL(
    // Clips [begin, end) of each.

    // x of the first layers, and node_indices.
    void graph_stack_nodes_cpu(const GraphStackTrainingParams& params,
                               int64_t begin,
                               int64_t end);
    // readout, and largest.
    void graph_stack_training_readout_cpu(
        const GraphStackTrainingParams& params,
        int64_t begin,
        int64_t end);
    // dout and dmaster_out of the last layers of both branches. Where both
    // branches are equal each has half of the gradient.
    void graph_stack_readout_backward_cpu(
        const GraphStackBackwardParams& params,
        int64_t begin,
        int64_t end);
    // dfeatures, from dx of the first layers.
    void graph_stack_nodes_backward_cpu(const GraphStackBackwardParams& params,
                                        int64_t begin,
                                        int64_t end);)

// float32 only.
const char* graph_stack_training_cuda(const GraphStackTrainingParams& params,
                                      void* stream);
const char* graph_stack_training_backward_cuda(
    const GraphStackBackwardParams& params,
    void* stream);

}  // namespace sparse_aasist
