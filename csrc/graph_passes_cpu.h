// The passes of the graph ops on a CPU. Threads runs them:
// threads(count, grain, bytes, run) calls run(begin, end, scratch) for parts of
// [0, count), `grain` items or more each, with `bytes` of scratch, and returns
// when all are done.
#pragma once

#include <cstdint>

#include "graph_attention.h"
#include "graph_pool.h"
#include "graph_stack_training.h"
#include "row_passes.h"

namespace sparse_aasist {

template <class Threads>
class GraphPassesCpu {
 public:
  explicit GraphPassesCpu(const Threads& threads) : threads_(threads) {}

  void attend(const GraphAttentionParams& params) const {
    const auto scores = SPARSE_AASIST_AT_SIMD_LEVEL(graph_attention_scores_cpu);
    const auto rows = SPARSE_AASIST_AT_SIMD_LEVEL(graph_attention_rows_cpu);
    const auto master = SPARSE_AASIST_AT_SIMD_LEVEL(graph_attention_master_cpu);
    attention(params, params.batch * pair_count(params.nodes), 1, scores,
              params);
    attention(params, params.batch * params.nodes, params.nodes, rows, params);
    if (has_master(params))
      attention(params, params.batch, int64_t{params.nodes} * params.dim,
                master, params);
  }

  void attend_backward(const GraphAttentionBackwardParams& params) const {
    constexpr int64_t kEntries = 1 << 12;  // of a thread, of the last sums
    const GraphAttentionParams& forward = params.forward;
    const auto rows =
        SPARSE_AASIST_AT_SIMD_LEVEL(graph_attention_backward_rows_cpu);
    const auto run_tasks =
        SPARSE_AASIST_AT_SIMD_LEVEL(graph_attention_backward_tasks_cpu);
    const auto sum =
        SPARSE_AASIST_AT_SIMD_LEVEL(graph_attention_backward_sum_cpu);
    const GraphTasks tasks = graph_tasks(forward.batch, forward.nodes);
    attention(forward, forward.batch * forward.nodes, forward.nodes, rows,
              params);
    attention(forward, tasks.count,
              forward.batch * pair_count(forward.nodes) / (tasks.count + 1),
              run_tasks, params);
    const int64_t nodes =
        tasks.parts > 1 ? forward.batch * forward.nodes : int64_t{0};
    threads_(
        layer_size(forward) + nodes * forward.dim, kEntries, 0,
        [&](int64_t begin, int64_t end, void*) { sum(params, begin, end); });
  }

  void pool(const GraphPoolParams& params) const {
    const auto kernel = SPARSE_AASIST_AT_SIMD_LEVEL(graph_pool_cpu);
    threads_(params.batch, clips_of_pool(params),
             2 * params.nodes * int64_t{sizeof(int64_t)},
             [&](int64_t begin, int64_t end, void* room) {
               kernel(params, begin, end, static_cast<int64_t*>(room));
             });
  }

  void pool_backward(const GraphPoolBackwardParams& params) const {
    clips(params, params.forward.batch, clips_of_pool(params.forward),
          SPARSE_AASIST_AT_SIMD_LEVEL(graph_pool_backward_cpu));
    SPARSE_AASIST_AT_SIMD_LEVEL(graph_pool_backward_sum_cpu)(params);
  }

  void linear(const LinearPass& pass) const {
    constexpr int64_t kClips = 4;  // a few us each
    row_pass(pass, kClips, SPARSE_AASIST_AT_SIMD_LEVEL(linear_rows_cpu));
  }
  void linear_gradients(const LinearGradientPass& pass) const {
    row_pass(pass, 1, SPARSE_AASIST_AT_SIMD_LEVEL(linear_gradients_cpu));
  }
  void normalise(const NormalisationPass& pass) const {
    row_pass(pass, 1, SPARSE_AASIST_AT_SIMD_LEVEL(normalised_rows_cpu));
  }
  void normalise_backward(const NormalisationPass& pass) const {
    row_pass(pass, 1,
             SPARSE_AASIST_AT_SIMD_LEVEL(normalised_rows_backward_cpu));
  }

  void nodes(const GraphStackTrainingParams& params) const {
    clips(params, params.stack.batch, 1,
          SPARSE_AASIST_AT_SIMD_LEVEL(graph_stack_nodes_cpu));
  }
  void nodes_backward(const GraphStackBackwardParams& params) const {
    clips(params, params.forward.stack.batch, 1,
          SPARSE_AASIST_AT_SIMD_LEVEL(graph_stack_nodes_backward_cpu));
  }
  void read_out(const GraphStackTrainingParams& params) const {
    clips(params, params.stack.batch, kGrainReadouts,
          SPARSE_AASIST_AT_SIMD_LEVEL(graph_stack_training_readout_cpu));
  }
  void read_out_backward(const GraphStackBackwardParams& params) const {
    clips(params, params.forward.stack.batch, kGrainReadouts,
          SPARSE_AASIST_AT_SIMD_LEVEL(graph_stack_readout_backward_cpu));
  }

 private:
  static constexpr int64_t kGrainPairs = 256;   // some 0.1 us each
  static constexpr int64_t kGrainReadouts = 8;  // some 4 us each

  // An item is as much work as `pairs` pairs, or rows of that many
  // multiplications.
  template <class Kernel, class Params>
  void attention(const GraphAttentionParams& sizes,
                 int64_t count,
                 int64_t pairs,
                 Kernel kernel,
                 const Params& params) const {
    const int64_t bytes =
        SPARSE_AASIST_AT_SIMD_LEVEL(graph_attention_scratch_cpu)(sizes);
    threads_(count, kGrainPairs / (pairs + 1) + 1, bytes,
             [&](int64_t begin, int64_t end, void* scratch) {
               kernel(params, begin, end, scratch);
             });
  }

  static int64_t clips_of_pool(const GraphPoolParams& params) {
    return (1 << 14) / (int64_t{params.nodes} * (params.dim + params.nodes)) +
           1;
  }

  template <class Kernel, class Params>
  void clips(const Params& params,
             int64_t count,
             int64_t grain,
             Kernel kernel) const {
    threads_(count, grain, 0, [&](int64_t begin, int64_t end, void*) {
      kernel(params, begin, end);
    });
  }

  template <class Kernel, class Pass>
  void row_pass(const Pass& pass, int64_t grain, Kernel kernel) const {
    const int64_t bytes =
        SPARSE_AASIST_AT_SIMD_LEVEL(row_passes_scratch_cpu)(pass.format);
    threads_(items_of(pass), grain, bytes,
             [&](int64_t begin, int64_t end, void* scratch) {
               kernel(pass, begin, end, scratch);
             });
  }

  const Threads threads_;
};

}  // namespace sparse_aasist
