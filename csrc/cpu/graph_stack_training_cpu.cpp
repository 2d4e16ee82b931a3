// graph_stack in training on a CPU: its nodes and its readout, and their
// gradients.
#include "graph_stack_training.h"

#include "graph_stack_rows.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {
namespace {

template <class T>
struct DroppedSums {
  BranchSums<T> sums;
  const T* noise[kHalves];

  T operator()(int32_t branch, int32_t o) const {
    return sums(branch, o) * noise[branch][o];
  }
};

template <class T>
DroppedSums<T> dropped_node(const GraphStackTrainingParams& params,
                            int64_t clip,
                            int32_t type,
                            int64_t i) {
  const GraphStackParams& stack = params.stack;
  DroppedSums<T> dropped{sums_of_node<T>(stack, clip, type, i), {}};
  const int64_t row = clip * stack.pools[0][type].kept + i;
  for (int32_t branch = 0; branch < kHalves; ++branch)
    dropped.noise[branch] =
        at<T>(params.of_branches[branch][type],
              row * stack.joint[branch][1].attention.hidden);
  return dropped;
}

template <class T>
DroppedSums<T> dropped_master(const GraphStackTrainingParams& params,
                              int64_t clip) {
  const GraphStackParams& stack = params.stack;
  DroppedSums<T> dropped{sums_of_master<T>(stack, clip), {}};
  for (int32_t branch = 0; branch < kHalves; ++branch)
    dropped.noise[branch] =
        at<T>(params.of_masters[branch],
              clip * stack.joint[branch][1].attention.hidden);
  return dropped;
}

int32_t* largest_nodes(const GraphStackTrainingParams& params, int64_t clip) {
  const int64_t hidden = params.stack.joint[0][1].attention.hidden;
  return params.largest + clip * kHalves * hidden;
}

template <class Format>
void make_nodes(const GraphStackTrainingParams& params, int64_t clip) {
  using T = Real<Format>;
  const GraphStackParams& stack = params.stack;
  const int64_t channels = stack.channels, bands = stack.bands;
  const int64_t steps = stack.steps;
  const int64_t temporal = clip * channels * steps;
  const int64_t spectral = clip * channels * bands;
  T* x = at<T>(stack.first[0].x, temporal);
  const T* noise = at<T>(params.of_layers[0], temporal);
  int32_t* indices = params.node_indices[0] + temporal;
  largest_of_steps<Format>(
      stack, clip, [&](int64_t c, int64_t t, T magnitude, int32_t band) {
        x[t * channels + c] = magnitude * noise[t * channels + c];
        indices[c * steps + t] = band;
      });
  const T* position = static_cast<const T*>(stack.position);
  x = at<T>(stack.first[1].x, spectral);
  noise = at<T>(params.of_layers[1], spectral);
  indices = params.node_indices[1] + spectral;
  largest_of_bands<Format>(
      stack, clip, [&](int64_t c, int64_t f, T magnitude, int32_t step) {
        const int64_t entry = f * channels + c;
        x[entry] = (magnitude + position[entry]) * noise[entry];
        indices[c * bands + f] = step;
      });
}

template <class T>
void make_nodes_backward(const GraphStackBackwardParams& params, int64_t clip) {
  const GraphStackTrainingParams& forward = params.forward;
  const GraphStackParams& stack = forward.stack;
  const int64_t channels = stack.channels, bands = stack.bands;
  const int64_t steps = stack.steps, size = channels * bands * steps;
  const int64_t temporal = clip * channels * steps;
  const int64_t spectral = clip * channels * bands;
  const T* features = at<T>(stack.features, clip * size);
  const T* dsteps = at<T>(params.dx[0], temporal);
  const T* dbands = at<T>(params.dx[1], spectral);
  const int32_t* bands_of = forward.node_indices[0] + temporal;
  const int32_t* steps_of = forward.node_indices[1] + spectral;
  T* dfeatures = at<T>(params.dfeatures, clip * size);
  __builtin_memset(dfeatures, 0, static_cast<size_t>(size) * sizeof(T));
  for (int64_t c = 0; c < channels; ++c) {
    const int64_t plane = c * bands * steps;
    for (int64_t t = 0; t < steps; ++t) {
      const int64_t entry = plane + bands_of[c * steps + t] * steps + t;
      dfeatures[entry] = dsteps[t * channels + c] * sign_of(features[entry]);
    }
    // Some of these are already the largest of their step.
    for (int64_t f = 0; f < bands; ++f) {
      const int64_t entry = plane + f * steps + steps_of[c * bands + f];
      dfeatures[entry] += dbands[f * channels + c] * sign_of(features[entry]);
    }
  }
}

template <class T>
void drop_and_read_out(const GraphStackTrainingParams& params, int64_t clip) {
  read_out<T>(
      params.stack, clip,
      [&](int32_t type, int32_t i) {
        return dropped_node<T>(params, clip, type, i);
      },
      dropped_master<T>(params, clip), largest_nodes(params, clip));
}

template <class T>
void read_type_backward(const GraphStackBackwardParams& params,
                        int64_t clip,
                        int32_t type) {
  const GraphStackTrainingParams& forward = params.forward;
  const GraphStackParams& stack = forward.stack;
  const GraphAttentionParams& last = stack.joint[0][1].attention;
  const int32_t hidden = last.hidden, kept = stack.pools[0][type].kept;
  const T* grad_most =
      at<T>(params.grad_readout, (clip * kReadoutBlocks + 2 * type) * hidden);
  const T* grad_mean = grad_most + hidden;
  const int32_t* largest = largest_nodes(forward, clip) + type * hidden;
  const int64_t first =
      clip * last.nodes + (type == 0 ? 0 : stack.pools[0][0].kept);
  for (int32_t i = 0; i < kept; ++i) {
    const DroppedSums<T> node = dropped_node<T>(forward, clip, type, i);
    T* dout[kHalves];
    for (int32_t branch = 0; branch < kHalves; ++branch)
      dout[branch] =
          at<T>(params.dout[joint_number(branch, 1)], (first + i) * hidden);
    for (int32_t o = 0; o < hidden; ++o) {
      const T a = node(0, o), b = node(1, o);
      const T of_most = largest[o] == i
                            ? grad_most[o] * sign_of(higher_or_nan<T>(a, b))
                            : T{0};
      const BranchShares<T> shares =
          branch_shares<T>(a, b, grad_mean[o] / static_cast<T>(kept) + of_most);
      for (int32_t branch = 0; branch < kHalves; ++branch)
        dout[branch][o] = shares.of[branch] * node.noise[branch][o];
    }
  }
}

template <class T>
void read_master_backward(const GraphStackBackwardParams& params,
                          int64_t clip) {
  const int32_t hidden = params.forward.stack.joint[0][1].attention.hidden;
  const T* grad = at<T>(params.grad_readout,
                        (clip * kReadoutBlocks + kReadoutBlocks - 1) * hidden);
  const DroppedSums<T> master = dropped_master<T>(params.forward, clip);
  T* dmaster[kHalves];
  for (int32_t branch = 0; branch < kHalves; ++branch)
    dmaster[branch] = at<T>(params.dmaster_out[branch][1], clip * hidden);
  for (int32_t o = 0; o < hidden; ++o) {
    const BranchShares<T> shares =
        branch_shares<T>(master(0, o), master(1, o), grad[o]);
    for (int32_t branch = 0; branch < kHalves; ++branch)
      dmaster[branch][o] = shares.of[branch] * master.noise[branch][o];
  }
}

}  // namespace

void graph_stack_nodes_cpu(const GraphStackTrainingParams& params,
                           int64_t begin,
                           int64_t end) {
  with_real(params.stack.format, [&](auto format) {
    for (int64_t clip = begin; clip < end; ++clip)
      make_nodes<decltype(format)>(params, clip);
  });
}

void graph_stack_training_readout_cpu(const GraphStackTrainingParams& params,
                                      int64_t begin,
                                      int64_t end) {
  with_real(params.stack.format, [&](auto format) {
    for (int64_t clip = begin; clip < end; ++clip)
      drop_and_read_out<Real<decltype(format)>>(params, clip);
  });
}

void graph_stack_readout_backward_cpu(const GraphStackBackwardParams& params,
                                      int64_t begin,
                                      int64_t end) {
  with_real(params.forward.stack.format, [&](auto format) {
    using T = Real<decltype(format)>;
    for (int64_t clip = begin; clip < end; ++clip) {
      for (int32_t type = 0; type < kHalves; ++type)
        read_type_backward<T>(params, clip, type);
      read_master_backward<T>(params, clip);
    }
  });
}

void graph_stack_nodes_backward_cpu(const GraphStackBackwardParams& params,
                                    int64_t begin,
                                    int64_t end) {
  with_real(params.forward.stack.format, [&](auto format) {
    for (int64_t clip = begin; clip < end; ++clip)
      make_nodes_backward<Real<decltype(format)>>(params, clip);
  });
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
