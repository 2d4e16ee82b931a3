// The passes of the gradient of graph_stack, in their order. Passes as in
// graph_stack_order.h.
#pragma once

#include <cstdint>

#include "graph_stack_order.h"

namespace sparse_aasist {

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
void graph_stack_training_backward(const GraphStackBackwardParams& params,
                                   Passes& passes) {
  StackBackward<Passes>(params, passes).run();
}

}  // namespace sparse_aasist
