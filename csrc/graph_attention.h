// graph_attention: every node reads all nodes of its graph, by a score of the
// product of two nodes. Parameters and launchers, free of torch.
//
//   s_ij = v . tanh(W (x_i * x_j) + b) / temperature
//   p_ij = softmax over j of s_ij
//   out_i = sum over j of p_ij x_j
//
// v depends on the types of i and j. A master is one more node, which reads
// all others, with weights of its own, and is read by none.
#pragma once

#include <cstdint>

#include "float_format.h"
#include "simd_level.h"

namespace sparse_aasist {

constexpr int32_t kMaxNodes = 1024;
constexpr int32_t kMostTypes = 3;   // of pairs of nodes
constexpr int32_t kMaxWidth = 128;  // of a node and of the hidden layer

// What is computed with: float64 for float64, else float32. Tensors that only
// kernels read, such as the attention, have this type.
template <class Format>
struct RealOf {
  using Type = float;
};
template <>
struct RealOf<Float64> {
  using Type = double;
};
template <class Format>
using Real = typename RealOf<Format>::Type;

SPARSE_AASIST_HOST_INLINE bool is_double(FloatFormat format) {
  return format == FloatFormat::kFloat64;
}

// How pairs are scored; contiguous.
struct GraphScore {
  const void* weight;               // (hidden, dim)
  const void* bias;                 // (hidden)
  const void* vectors[kMostTypes];  // (hidden), for every type
};

struct GraphScoreGradient {
  void* weight;
  void* bias;
  void* vectors[kMostTypes];
};

// All tensors are contiguous, and have the format but where Real is said.
struct GraphAttentionParams {
  FloatFormat format;
  int64_t batch;
  int32_t nodes;
  int32_t dim;
  int32_t hidden;
  // Nodes before this are of type 1. Vectors are for the pairs 11, 22 and 12;
  // with num_type1 = nodes only the first is read.
  int32_t num_type1;
  int32_t types;  // of `pairs`: 1 or 3 vectors
  double temperature;
  const void* x;  // (batch, nodes, dim)
  GraphScore pairs;
  // The master: (batch, dim), or with master_stride 0 one (dim) for all.
  const void* master;
  int64_t master_stride;
  GraphScore master_score;  // one type
  void* attention;          // (batch, nodes, nodes), Real; null on a GPU
  void* master_attention;   // (batch, nodes), Real       where not wanted
  void* out;                // (batch, nodes, dim)
  void* summary;            // (batch, dim), what the master reads
};

struct GraphAttentionBackwardParams {
  GraphAttentionParams forward;  // out and summary are not read
  const void* grad_out;          // (batch, nodes, dim)
  const void* grad_summary;      // (batch, dim)
  void* dx;                      // (batch, nodes, dim)
  void* dmaster;                 // (batch, dim)
  GraphScoreGradient pairs;
  GraphScoreGradient master_score;
  void* score_gradients;  // (batch, nodes, nodes), Real
  void* partials;         // Real
};

// Which of the vectors scores the pair (i, j).
SPARSE_AASIST_INLINE int32_t pair_type(int32_t i,
                                       int32_t j,
                                       int32_t num_type1) {
  const bool first1 = i < num_type1, second1 = j < num_type1;
  return first1 != second1 ? 2 : first1 ? 0 : 1;
}

// Unordered pairs of nodes, a node with itself included. The score of a pair
// is the same in both orders.
SPARSE_AASIST_HOST_INLINE int64_t pair_count(int32_t nodes) {
  return int64_t{nodes} * (nodes + 1) / 2;
}

// How the backward pass on a CPU is cut up; a function of the sizes alone, so
// that sums have one order at any number of threads. Few clips are cut into
// parts of their pairs, many are put together.
struct GraphTasks {
  int64_t count;
  int64_t parts;  // per clip; 1 where a task has several clips
  int64_t clips;  // per task, but for the last one
};

SPARSE_AASIST_HOST_INLINE GraphTasks graph_tasks(int64_t batch, int32_t nodes) {
  constexpr int64_t kLeastTasks = 8, kMostTasks = 64, kLeastPairs = 128;
  const int64_t most_parts = pair_count(nodes) / kLeastPairs + 1;
  const int64_t wanted = batch > 0 ? (kLeastTasks + batch - 1) / batch : 1;
  const int64_t parts = wanted < most_parts ? wanted : most_parts;
  const int64_t clips = (batch + kMostTasks - 1) / kMostTasks;
  if (parts > 1 || clips == 0)
    return {batch * parts, parts, 1};
  return {(batch + clips - 1) / clips, 1, clips};
}

// Not by the master itself: an empty batch has one, and no pointer to it.
SPARSE_AASIST_INLINE bool has_master(const GraphAttentionParams& params) {
  return params.master_score.weight != nullptr;
}

// Entries of the gradients of a score.
SPARSE_AASIST_HOST_INLINE int64_t score_size(const GraphAttentionParams& params,
                                             int32_t types) {
  return int64_t{params.hidden} * (params.dim + 1 + types);
}

// Entries of the gradients of both, one behind the other: weight, bias and
// vectors of the pairs, then of the master_score.
SPARSE_AASIST_HOST_INLINE int64_t
layer_size(const GraphAttentionParams& params) {
  return score_size(params, params.types) +
         (has_master(params) ? score_size(params, 1) : 0);
}

// Where the gradient of entry `i` of layer_size() is written.
template <class Bits>
SPARSE_AASIST_INLINE Bits* layer_entry(
    const GraphAttentionBackwardParams& params,
    int64_t i) {
  const GraphAttentionParams& forward = params.forward;
  const int64_t hidden = forward.hidden, weights = hidden * forward.dim;
  const int64_t of_pairs = hidden * (forward.dim + 1 + forward.types);
  const GraphScoreGradient& to =
      i < of_pairs ? params.pairs : params.master_score;
  const int64_t entry = i < of_pairs ? i : i - of_pairs;
  if (entry < weights)
    return static_cast<Bits*>(to.weight) + entry;
  if (entry < weights + hidden)
    return static_cast<Bits*>(to.bias) + entry - weights;
  const int64_t vector = entry - weights - hidden;
  return static_cast<Bits*>(to.vectors[vector / hidden]) + vector % hidden;
}

// Real entries of `partials` on a CPU.
SPARSE_AASIST_HOST_INLINE int64_t
graph_attention_partials_cpu(const GraphAttentionParams& params) {
  const GraphTasks tasks = graph_tasks(params.batch, params.nodes);
  const int64_t shared_nodes = tasks.parts > 1 ? params.nodes : 0;
  return tasks.count * (layer_size(params) + shared_nodes * params.dim);
}

SPARSE_AASIST_FOR_EACH_SIMD_LEVEL(
    // Scratch of all functions below, in bytes; a multiple of 64.
    int64_t graph_attention_scratch_cpu(const GraphAttentionParams& params);

    // Scores of pairs [begin, end) of batch * pair_count(nodes), into
    // `attention` in both orders.
    void graph_attention_scores_cpu(const GraphAttentionParams& params,
                                    int64_t begin,
                                    int64_t end,
                                    void* scratch);
    // Attention and output of rows [begin, end) of batch * nodes.
    void graph_attention_rows_cpu(const GraphAttentionParams& params,
                                  int64_t begin,
                                  int64_t end,
                                  void* scratch);
    // The master of clips [begin, end).
    void graph_attention_master_cpu(const GraphAttentionParams& params,
                                    int64_t begin,
                                    int64_t end,
                                    void* scratch);

    // score_gradients (batch, nodes, nodes) of rows [begin, end) of
    // batch * nodes.
    void graph_attention_backward_rows_cpu(
        const GraphAttentionBackwardParams& params,
        int64_t begin,
        int64_t end,
        void* scratch);
    // Tasks [begin, end): layer_size() sums each, then for tasks that share a
    // clip its dx (nodes, dim) each, into `partials`.
    void graph_attention_backward_tasks_cpu(
        const GraphAttentionBackwardParams& params,
        int64_t begin,
        int64_t end,
        void* scratch);
    // Adds up the partials: entries [begin, end) of layer_size(), then of dx
    // where clips were shared.
    void graph_attention_backward_sum_cpu(
        const GraphAttentionBackwardParams& params,
        int64_t begin,
        int64_t end);)

const char* graph_attention_cuda(const GraphAttentionParams& params,
                                 void* stream);
// Real entries of `partials` on a GPU; a function of the sizes alone.
int64_t graph_attention_partials_cuda(const GraphAttentionParams& params);
const char* graph_attention_backward_cuda(
    const GraphAttentionBackwardParams& params,
    void* stream);

}  // namespace sparse_aasist
