// The passes of graph_stack in training, in their order; those of its gradient
// are in graph_stack_backward_order.h. Passes is where they run:
//
//   attend(params), attend_backward(params)      graph_attention.h
//   pool(params), pool_backward(params)          graph_pool.h
//   linear(pass), linear_gradients(pass),
//   normalise(pass), normalise_backward(pass)    row_passes.h
//   nodes(params), nodes_backward(params),
//   read_out(params), read_out_backward(params)  graph_stack_training.h
#pragma once

#include <cstdint>

#include "graph_stack_training.h"

namespace sparse_aasist {

// Of entries behind `values`.
inline void* entries_behind(const void* values,
                            int64_t entries,
                            FloatFormat format) {
  const int64_t real = is_double(format) ? 8 : 4;
  return static_cast<char*>(const_cast<void*>(values)) + entries * real;
}

// Rows of (batch, nodes, width) from `first` on.
inline ClipRows clip_rows(FloatFormat format,
                          const void* values,
                          int64_t nodes,
                          int64_t width,
                          int64_t first = 0) {
  return {entries_behind(values, first * width, format), nodes * width};
}

// What both orders hand to passes.
class StackPasses {
 protected:
  explicit StackPasses(const GraphStackTrainingParams& params)
      : training_(params), stack_(params.stack) {}

  const StackLayer& layer(int32_t number) const {
    return layer_at(stack_, number);
  }

  ClipRows rows(const void* values,
                int64_t nodes,
                int64_t width,
                int64_t first = 0) const {
    return clip_rows(stack_.format, values, nodes, width, first);
  }

  // The master of a layer, one for all clips or one each.
  ClipRows master(const GraphAttentionParams& attention) const {
    return {const_cast<void*>(attention.master), attention.master_stride};
  }

  LinearPass linear_pass() const {
    LinearPass pass{};
    pass.format = stack_.format;
    pass.batch = stack_.batch;
    return pass;
  }

  GraphPoolParams pool(int32_t number) const {
    const StackPool& pool = pool_at(stack_, number);
    const PooledNodes from = pooled_nodes(stack_, number);
    const StackLayer& pooled = layer(from.layer);
    const int32_t dim = pooled.attention.hidden;
    GraphPoolParams params{};
    params.format = stack_.format;
    params.batch = stack_.batch;
    params.nodes = pool.nodes;
    params.dim = dim;
    params.kept = pool.kept;
    params.h_stride = int64_t{pooled.attention.nodes} * dim;
    params.h =
        entries_behind(pooled.out, int64_t{from.first} * dim, stack_.format);
    params.weight = pool.score.weight;
    params.bias = pool.score.bias;
    params.scale = training_.of_pools[number];
    params.out = pool.out;
    params.scores = pool.scores;
    params.indices = pool.indices;
    return params;
  }

  NormalisedRows normalised(int32_t number) const {
    const StackLayer& layer = this->layer(number);
    NormalisedRows rows{};
    rows.rows = stack_.batch * layer.attention.nodes;
    rows.width = layer.attention.hidden;
    rows.eps = layer.mix.eps;
    rows.weight = layer.mix.weight;
    rows.bias = layer.mix.bias;
    rows.x = training_.mixed[number];
    rows.mean = training_.means[number];
    rows.variance = training_.variances[number];
    rows.out = layer.out;
    return rows;
  }

  const GraphStackTrainingParams& training_;
  const GraphStackParams& stack_;
};

// What is at a depth of both halves: the types' layers, then those of the
// branches.
struct StackStage {
  int32_t layers[kHalves];
  int32_t depth;                 // -1: the types'
  int32_t first_pool, end_pool;  // pools of what its layers give

  static StackStage at(int32_t depth) {
    if (depth < 0)
      return {{0, 1}, depth, 0, kHalves};
    return {{joint_number(0, depth), joint_number(1, depth)},
            depth,
            kHalves,
            depth == 0 ? kStackPools : kHalves};
  }
};

template <class Passes>
class StackForward : StackPasses {
 public:
  StackForward(const GraphStackTrainingParams& params, Passes& passes)
      : StackPasses(params), passes_(passes) {}

  void run() {
    passes_.nodes(training_);
    for (int32_t depth = -1; depth < kDepths; ++depth) {
      if (depth >= 0)
        join(depth);
      const StackStage stage = StackStage::at(depth);
      for (const int32_t number : stage.layers)
        passes_.attend(layer(number).attention);
      mix(stage);
      normalise(stage);
      for (int32_t pool = stage.first_pool; pool < stage.end_pool; ++pool)
        passes_.pool(this->pool(pool));
    }
    passes_.read_out(training_);
  }

 private:
  // Projects what the pools before a depth keep, as the nodes of its layers.
  void join(int32_t depth) {
    LinearPass pass = linear_pass();
    for (int32_t branch = 0; branch < kHalves; ++branch) {
      const int32_t number = joint_number(branch, depth);
      const StackLayer& to = layer(number);
      const int32_t nodes = to.attention.nodes, dim = to.attention.dim;
      for (int32_t type = 0; type < kHalves; ++type) {
        const StackPool& pool =
            pool_at(stack_, depth == 0 ? type : pool_number(branch, type));
        const int32_t first = type == 0 ? 0 : to.attention.num_type1;
        LinearRows& task = pass.tasks[pass.count++];
        task.count = pool.kept;
        task.inputs = task.outputs = dim;
        task.products[0] = {rows(pool.out, pool.kept, dim),
                            to.types[type].weight, to.types[type].bias};
        task.scale = rows(training_.of_layers[number], nodes, dim, first);
        task.out = rows(to.x, nodes, dim, first);
      }
    }
    passes_.linear(pass);
  }

  void mix(const StackStage& stage) {
    LinearPass pass = linear_pass();
    for (const int32_t number : stage.layers) {
      const StackLayer& layer = this->layer(number);
      const GraphAttentionParams& attention = layer.attention;
      const auto add = [&](const StackMix& mix, int32_t count,
                           const ClipRows& read, const ClipRows& own,
                           void* out) {
        LinearRows& task = pass.tasks[pass.count++];
        task.count = count;
        task.inputs = attention.dim;
        task.outputs = attention.hidden;
        task.products[0] = {read, mix.read.weight, mix.read.bias};
        task.products[1] = {own, mix.own.weight, mix.own.bias};
        task.out = rows(out, count, attention.hidden);
      };
      const int32_t nodes = attention.nodes, dim = attention.dim;
      add(layer.mix, nodes, rows(attention.out, nodes, dim),
          rows(layer.x, nodes, dim), training_.mixed[number]);
      if (has_master(attention))
        add(layer.master_mix, 1, rows(attention.summary, 1, dim),
            master(attention), layer.master_out);
    }
    passes_.linear(pass);
  }

  void normalise(const StackStage& stage) {
    NormalisationPass pass{stack_.format, 0, {}};
    for (const int32_t number : stage.layers)
      pass.tasks[pass.count++] = normalised(number);
    passes_.normalise(pass);
  }

  Passes& passes_;
};

template <class Passes>
void graph_stack_training(const GraphStackTrainingParams& params,
                          Passes& passes) {
  StackForward<Passes>(params, passes).run();
}

}  // namespace sparse_aasist
