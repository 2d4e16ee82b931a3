// graph_stack in training on a GPU: its nodes and its readout with their
// gradients, and the passes between them.
#include "graph_stack_backward_order.h"
#include "graph_stack_ends.cuh"
#include "graph_stack_order.h"
#include "graph_stack_training.h"

namespace sparse_aasist {
namespace {

__global__ void __launch_bounds__(kNodeThreads)
    training_nodes_kernel(const __grid_constant__ StackNodes nodes) {
  for_each_channel(nodes, [&](int64_t i) { take_nodes(nodes, i); });
}

__global__ void __launch_bounds__(kMaxWidth)
    training_readout_kernel(const __grid_constant__ StackReadout from,
                            void* readout,
                            int32_t* largest) {
  read_out(from, readout, largest);
}

struct NodesGradient {
  StackNodes nodes;
  const void* dx[kHalves];  // as x
  void* dfeatures;          // as features
};

// The warp's channel i, a lane with steps of its own.
__device__ __forceinline__ void spread_nodes(const NodesGradient& gradient,
                                             int64_t i) {
  constexpr int32_t kBatch = 8;
  struct Loaded {
    float feature;
    float of_band;
    int32_t step;
  };
  const StackNodes& nodes = gradient.nodes;
  const int32_t bands = nodes.bands, steps = nodes.steps;
  const int64_t plane = i * bands * steps;
  for (int32_t t = threadIdx.x % 32; t < steps; t += 32) {
    const int32_t band = nodes.indices[0][i * steps + t];
    const float of_step = value_at(gradient.dx[0], node_entry(nodes, 0, i, t));
    const auto entry = [&](int32_t f) {
      return plane + int64_t{f} * steps + t;
    };
    in_batches<kBatch>(
        0, bands, 1,
        [&](int32_t f) {
          return Loaded{value_at(nodes.features, entry(f)),
                        value_at(gradient.dx[1], node_entry(nodes, 1, i, f)),
                        nodes.indices[1][i * bands + f]};
        },
        [&](int32_t f, const Loaded& loaded) {
          float grad = f == band ? of_step : 0;
          grad += t == loaded.step ? loaded.of_band : 0;
          *at<float>(gradient.dfeatures, entry(f)) =
              grad * sign_of(loaded.feature);
        });
  }
}

__global__ void __launch_bounds__(kNodeThreads)
    nodes_backward_kernel(const __grid_constant__ NodesGradient gradient) {
  for_each_channel(gradient.nodes,
                   [&](int64_t i) { spread_nodes(gradient, i); });
}

struct ReadoutGradient {
  StackReadout from;
  const int32_t* largest;  // (batch, kHalves, hidden)
  const void* grad;        // (batch, kReadoutBlocks * hidden)
  // Of a branch.
  void* dlast[kHalves];    // (batch, all kept, hidden)
  void* dmaster[kHalves];  // (batch, hidden)
};

constexpr int32_t kSplitThreads = 128;
constexpr int32_t kSplitWarps = kSplitThreads / 32;

// The gradient of highest(), of values with their noise.
__device__ __forceinline__ void split_gradient(const BranchValues& values,
                                               float grad,
                                               void* const (&to)[kHalves],
                                               int64_t entry) {
  const BranchShares<float> shares =
      branch_shares(values.of[0], values.of[1], grad);
#pragma unroll
  for (int32_t b = 0; b < kHalves; ++b)
    *at<float>(to[b], entry) = shares.of[b] * values.noise[b];
}

__device__ __forceinline__ void split_node(const ReadoutGradient& gradient,
                                           int64_t clip,
                                           int32_t row,
                                           int32_t o) {
  const StackReadout& from = gradient.from;
  const int32_t hidden = from.hidden, type = row < from.kept[0] ? 0 : 1;
  const int32_t i = type == 0 ? row : row - from.kept[0];
  const float* grad =
      at<float>(gradient.grad, (clip * kReadoutBlocks + 2 * type) * hidden + o);
  const int32_t largest =
      gradient.largest[(clip * kHalves + type) * hidden + o];
  const BranchValues values = node_values(from, clip, type, i, o);
  const float of_mean = grad[hidden] / static_cast<float>(from.kept[type]);
  const float of_most = i == largest ? grad[0] * sign_of(values.highest()) : 0;
  const int64_t node = clip * (from.kept[0] + from.kept[1]) + row;
  split_gradient(values, of_mean + of_most, gradient.dlast, node * hidden + o);
}

// A warp per node of a clip, the last one its master.
__global__ void __launch_bounds__(kSplitThreads)
    readout_backward_kernel(const __grid_constant__ ReadoutGradient gradient) {
  const StackReadout& from = gradient.from;
  const int32_t hidden = from.hidden, nodes = from.kept[0] + from.kept[1];
  for (int64_t item = int64_t{blockIdx.x} * kSplitWarps + threadIdx.x / 32;
       item < from.batch * (nodes + 1);
       item += int64_t{gridDim.x} * kSplitWarps) {
    const int64_t clip = item / (nodes + 1);
    const int32_t row = static_cast<int32_t>(item % (nodes + 1));
    for (int32_t o = threadIdx.x % 32; o < hidden; o += 32) {
      if (row < nodes) {
        split_node(gradient, clip, row, o);
        continue;
      }
      const int64_t of_master =
          (clip * kReadoutBlocks + 2 * kHalves) * hidden + o;
      split_gradient(master_values(from, clip, o),
                     value_at(gradient.grad, of_master), gradient.dmaster,
                     clip * hidden + o);
    }
  }
}

StackNodes training_nodes(const GraphStackTrainingParams& params) {
  StackNodes nodes = stack_nodes(params.stack);
  for (int32_t half = 0; half < kHalves; ++half) {
    nodes.noise[half] = params.of_layers[half];
    nodes.indices[half] = params.node_indices[half];
  }
  return nodes;
}

StackReadout training_readout(const GraphStackTrainingParams& params) {
  StackReadout from = stack_readout(params.stack);
  for (int32_t branch = 0; branch < kHalves; ++branch) {
    for (int32_t type = 0; type < kHalves; ++type)
      from.branches[branch].noise[type] = params.of_branches[branch][type];
    from.branches[branch].master_noise = params.of_masters[branch];
  }
  return from;
}

const char* launch_nodes(const GraphStackTrainingParams& params, void* stream) {
  const StackNodes nodes = training_nodes(params);
  return SPARSE_AASIST_LAUNCH(training_nodes_kernel, node_blocks(nodes),
                              kNodeThreads, 0, stream, nodes);
}

const char* launch_nodes_backward(const GraphStackBackwardParams& params,
                                  void* stream) {
  const NodesGradient gradient = {training_nodes(params.forward),
                                  {params.dx[0], params.dx[1]},
                                  params.dfeatures};
  return SPARSE_AASIST_LAUNCH(nodes_backward_kernel,
                              node_blocks(gradient.nodes), kNodeThreads, 0,
                              stream, gradient);
}

const char* launch_readout(const GraphStackTrainingParams& params,
                           void* stream) {
  const StackReadout from = training_readout(params);
  return SPARSE_AASIST_LAUNCH(
      training_readout_kernel, blocks_for(from.batch * kReadoutParts),
      kMaxWidth, 0, stream, from, params.stack.readout, params.largest);
}

const char* launch_readout_backward(const GraphStackBackwardParams& params,
                                    void* stream) {
  ReadoutGradient gradient{};
  gradient.from = training_readout(params.forward);
  gradient.largest = params.forward.largest;
  gradient.grad = params.grad_readout;
  for (int32_t branch = 0; branch < kHalves; ++branch) {
    gradient.dlast[branch] = params.dout[joint_number(branch, 1)];
    gradient.dmaster[branch] = params.dmaster_out[branch][1];
  }
  const StackReadout& from = gradient.from;
  const int64_t rows = from.batch * (from.kept[0] + from.kept[1] + 1);
  return SPARSE_AASIST_LAUNCH(readout_backward_kernel,
                              blocks_for((rows - 1) / kSplitWarps + 1),
                              kSplitThreads, 0, stream, gradient);
}

// Launches on a stream; none behind the first that fails.
class CudaPasses {
 public:
  explicit CudaPasses(void* stream) : stream_(stream) {}

  void attend(const GraphAttentionParams& params) {
    run(graph_attention_cuda, params);
  }
  void attend_backward(const GraphAttentionBackwardParams& params) {
    run(graph_attention_backward_cuda, params);
  }
  void pool(const GraphPoolParams& params) { run(graph_pool_cuda, params); }
  void pool_backward(const GraphPoolBackwardParams& params) {
    run(graph_pool_backward_cuda, params);
  }
  void linear(const LinearPass& pass) { run(linear_rows_cuda, pass); }
  void linear_gradients(const LinearGradientPass& pass) {
    run(linear_gradients_cuda, pass);
  }
  void normalise(const NormalisationPass& pass) {
    run(normalised_rows_cuda, pass);
  }
  void normalise_backward(const NormalisationPass& pass) {
    run(normalised_rows_backward_cuda, pass);
  }
  void nodes(const GraphStackTrainingParams& params) {
    run(launch_nodes, params);
  }
  void nodes_backward(const GraphStackBackwardParams& params) {
    run(launch_nodes_backward, params);
  }
  void read_out(const GraphStackTrainingParams& params) {
    run(launch_readout, params);
  }
  void read_out_backward(const GraphStackBackwardParams& params) {
    run(launch_readout_backward, params);
  }

  const char* error() const { return error_; }

 private:
  template <class Params>
  void run(const char* (*launch)(const Params& params, void* stream),
           const Params& params) {
    if (error_ == nullptr)
      error_ = launch(params, stream_);
  }

  void* stream_;
  const char* error_ = nullptr;
};

}  // namespace

const char* graph_stack_training_cuda(const GraphStackTrainingParams& params,
                                      void* stream) {
  CudaPasses passes(stream);
  graph_stack_training(params, passes);
  return passes.error();
}

const char* graph_stack_training_backward_cuda(
    const GraphStackBackwardParams& params,
    void* stream) {
  CudaPasses passes(stream);
  graph_stack_training_backward(params, passes);
  return passes.error();
}

}  // namespace sparse_aasist
