// The passes of graph_stack in training, in their order, forward and backward.
// Passes is where they run:
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

// The passes over what a layer of a model holds, for both orders below.
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

// Two linear layers each of nodes and of masters, four projections at each
// depth of the branches; the position and both masters.
static_assert(kMostGradientTasks >= 2 * kStackLayers + 2 * kHalves * kDepths +
                                        kDepths * kHalves * kHalves + 1 +
                                        kHalves,
              "all gradients of a model in one pass");

template <class Passes>
class StackBackward : StackPasses {
 public:
  StackBackward(const GraphStackBackwardParams& params, Passes& passes)
      : StackPasses(params.forward), params_(params), passes_(passes) {
    gradients_.format = stack_.format;
    gradients_.batch = stack_.batch;
  }

  void run() {
    passes_.read_out_backward(params_);
    for (int32_t depth = kDepths - 1; depth >= -1; --depth) {
      const StackStage stage = StackStage::at(depth);
      for (int32_t pool = stage.first_pool; pool < stage.end_pool; ++pool)
        pool_backward(pool);
      normalise_backward(stage);
      unmix(stage);
      for (const int32_t number : stage.layers)
        attend_backward(number);
      collect(stage);
      if (depth >= 0)
        split(depth);
    }
    passes_.nodes_backward(params_);
    first_gradients();
    passes_.linear_gradients(gradients_);
  }

 private:
  const StackLayer& gradient_layer(int32_t number) const {
    return layer_at(params_.gradients, number);
  }

  static void* written(const void* gradient) {
    return const_cast<void*>(gradient);
  }

  // The gradient of a master behind the layer.
  void* dmaster_out(int32_t number) const {
    const int32_t joint = number - kHalves;
    return params_.dmaster_out[joint / kDepths][joint % kDepths];
  }

  void pool_backward(int32_t number) {
    const PooledNodes from = pooled_nodes(stack_, number);
    const StackLinear& gradient = pool_at(params_.gradients, number).score;
    GraphPoolBackwardParams params{};
    params.forward = pool(number);
    params.grad_out = params_.dpool[number];
    params.dh =
        entries_behind(params_.dout[from.layer],
                       int64_t{from.first} * params.forward.dim, stack_.format);
    params.dweight = written(gradient.weight);
    params.dbias = written(gradient.bias);
    params.partials = params_.pool_partials;
    passes_.pool_backward(params);
  }

  void normalise_backward(const StackStage& stage) {
    NormalisationPass pass{stack_.format, 0, {}};
    for (const int32_t number : stage.layers) {
      const StackMix& gradient = gradient_layer(number).mix;
      NormalisedRows& task = pass.tasks[pass.count++];
      task = normalised(number);
      task.grad = params_.dout[number];
      task.dx = params_.dmixed[number];
      task.dweight = written(gradient.weight);
      task.dbias = written(gradient.bias);
      task.lost[0] = written(gradient.read.bias);
      task.lost[1] = written(gradient.own.bias);
    }
    passes_.normalise_backward(pass);
  }

  // The gradients of what nodes and masters have read, and of the weights that
  // mix it.
  void unmix(const StackStage& stage) {
    LinearPass pass = linear_pass();
    for (const int32_t number : stage.layers) {
      const StackLayer& layer = this->layer(number);
      const StackLayer& gradient = gradient_layer(number);
      const GraphAttentionParams& attention = layer.attention;
      const int32_t nodes = attention.nodes, dim = attention.dim;
      const int32_t hidden = attention.hidden;
      const auto add = [&](const StackMix& mix, int32_t count,
                           const ClipRows& grad, void* out) {
        LinearRows& task = pass.tasks[pass.count++];
        task.count = count;
        task.inputs = hidden;
        task.outputs = dim;
        task.transposed = true;
        task.products[0] = {grad, mix.read.weight, nullptr};
        task.out = rows(out, count, dim);
      };
      const ClipRows grad = rows(params_.dmixed[number], nodes, hidden);
      add(layer.mix, nodes, grad, params_.dread[number]);
      add_gradient(nodes, dim, hidden, rows(attention.out, nodes, dim), grad,
                   gradient.mix.read.weight, nullptr);
      add_gradient(nodes, dim, hidden, rows(layer.x, nodes, dim), grad,
                   gradient.mix.own.weight, nullptr);
      if (!has_master(attention))
        continue;
      const ClipRows of_master = rows(dmaster_out(number), 1, hidden);
      add(layer.master_mix, 1, of_master, params_.dsummary[number]);
      add_gradient(1, dim, hidden, rows(attention.summary, 1, dim), of_master,
                   gradient.master_mix.read.weight,
                   gradient.master_mix.read.bias);
      add_gradient(1, dim, hidden, master(attention), of_master,
                   gradient.master_mix.own.weight,
                   gradient.master_mix.own.bias);
    }
    passes_.linear(pass);
  }

  void attend_backward(int32_t number) {
    const GraphAttentionParams& gradient = gradient_layer(number).attention;
    const auto all = [](const GraphScore& score) {
      GraphScoreGradient to{written(score.weight), written(score.bias), {}};
      for (int32_t type = 0; type < kMostTypes; ++type)
        to.vectors[type] = written(score.vectors[type]);
      return to;
    };
    GraphAttentionBackwardParams params{};
    params.forward = layer(number).attention;
    params.grad_out = params_.dread[number];
    params.grad_summary = params_.dsummary[number];
    params.dx = params_.dx[number];
    params.dmaster = params_.dmaster[number];
    params.pairs = all(gradient.pairs);
    params.master_score = all(gradient.master_score);
    params.score_gradients = params_.score_gradients;
    params.partials = params_.partials;
    passes_.attend_backward(params);
  }

  // Adds what comes past the attention to the gradients of the nodes, before
  // dropout, and of the masters.
  void collect(const StackStage& stage) {
    LinearPass pass = linear_pass();
    for (const int32_t number : stage.layers) {
      const StackLayer& layer = this->layer(number);
      const GraphAttentionParams& attention = layer.attention;
      const int32_t nodes = attention.nodes, dim = attention.dim;
      const int32_t hidden = attention.hidden;
      const auto add = [&](const StackMix& mix, int32_t count,
                           const ClipRows& grad, void* collected, void* out) {
        LinearRows& task = pass.tasks[pass.count++];
        task.count = count;
        task.inputs = hidden;
        task.outputs = dim;
        task.transposed = true;
        task.products[0] = {grad, mix.own.weight, nullptr};
        task.addends[0] = rows(collected, count, dim);
        task.out = rows(out, count, dim);
        return &task;
      };
      add(layer.mix, nodes, rows(params_.dmixed[number], nodes, hidden),
          params_.dx[number], params_.dx[number])
          ->scale = rows(training_.of_layers[number], nodes, dim);
      if (!has_master(attention))
        continue;
      // The master of a second layer is what the first one gives, which also
      // goes to the readout.
      const bool is_given = stage.depth > 0;
      void* const dmaster = params_.dmaster[number];
      LinearRows* const task =
          add(layer.master_mix, 1, rows(dmaster_out(number), 1, hidden),
              dmaster, is_given ? dmaster_out(number - 1) : dmaster);
      if (is_given)
        task->addends[1] = rows(dmaster_out(number), 1, dim);
    }
    passes_.linear(pass);
  }

  // The gradients of what pools keep, through the projections of a depth.
  void split(int32_t depth) {
    LinearPass pass = linear_pass();
    for (int32_t branch = 0; branch < kHalves; ++branch) {
      const int32_t number = joint_number(branch, depth);
      const StackLayer& joined = layer(number);
      const StackLayer& gradient = gradient_layer(number);
      const int32_t nodes = joined.attention.nodes, dim = joined.attention.dim;
      for (int32_t type = 0; type < kHalves; ++type) {
        const int32_t first = type == 0 ? 0 : joined.attention.num_type1;
        const int32_t pool = depth == 0 ? type : pool_number(branch, type);
        const StackPool& from = pool_at(stack_, pool);
        const ClipRows grad = rows(params_.dx[number], nodes, dim, first);
        add_gradient(from.kept, dim, dim, rows(from.out, from.kept, dim), grad,
                     gradient.types[type].weight, gradient.types[type].bias);
        // Both branches read what the first pools keep.
        const bool is_second = depth == 0 && branch == 1;
        LinearRows& task = pass.tasks[is_second ? type : pass.count++];
        task.products[is_second ? 1 : 0] = {grad, joined.types[type].weight,
                                            nullptr};
        if (is_second)
          continue;
        task.count = from.kept;
        task.inputs = task.outputs = dim;
        task.transposed = true;
        task.out = rows(params_.dpool[pool], from.kept, dim);
        // What a second layer gives is added to what it was given.
        if (depth > 0)
          task.addends[0] = rows(params_.dout[number], nodes, dim, first);
      }
    }
    passes_.linear(pass);
  }

  // Of the position and of the masters that the model has learned: sums over
  // clips.
  void first_gradients() {
    const auto add_sum = [&](int64_t width, const void* grad, const void* to) {
      add_gradient(1, 0, static_cast<int32_t>(width), {}, rows(grad, 1, width),
                   nullptr, to);
    };
    add_sum(int64_t{stack_.bands} * stack_.channels, params_.dx[1],
            params_.gradients.position);
    for (int32_t branch = 0; branch < kHalves; ++branch) {
      const int32_t number = joint_number(branch, 0);
      add_sum(layer(number).attention.dim, params_.dmaster[number],
              gradient_layer(number).attention.master);
    }
  }

  void add_gradient(int32_t count,
                    int32_t inputs,
                    int32_t outputs,
                    const ClipRows& of,
                    const ClipRows& grad,
                    const void* weight,
                    const void* bias) {
    gradients_.tasks[gradients_.count++] = {
        count, inputs, outputs, of, grad, written(weight), written(bias)};
  }

  const GraphStackBackwardParams& params_;
  LinearGradientPass gradients_{};
  Passes& passes_;
};

template <class Passes>
void graph_stack_training(const GraphStackTrainingParams& params,
                          Passes& passes) {
  StackForward<Passes>(params, passes).run();
}

template <class Passes>
void graph_stack_training_backward(const GraphStackBackwardParams& params,
                                   Passes& passes) {
  StackBackward<Passes>(params, passes).run();
}

}  // namespace sparse_aasist
