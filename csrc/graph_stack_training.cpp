// graph_stack_training: schemas, checks, allocation and registration.
#include "graph_stack_training.h"

#include <tuple>
#include <vector>

#include <torch/csrc/stable/library.h>

#include "graph_passes_cpu.h"
#include "graph_stack_backward_order.h"
#include "graph_stack_order.h"
#include "graph_stack_tensors.h"
#include "task_scratch.h"

#ifdef SPARSE_AASIST_WITH_CUDA
#include "cuda_device.h"
#endif

namespace sparse_aasist {
namespace {

constexpr const char* kName = "graph_stack_training";

class Cpu {
 public:
  explicit Cpu(const Tensor&) {}

  static constexpr bool kHasFloat64 = true;
  static int64_t partials(const GraphAttentionParams& params) {
    return graph_attention_partials_cpu(params);
  }
  void run(const GraphStackTrainingParams& params) const {
    const GraphPassesCpu passes{TorchThreads()};
    graph_stack_training(params, passes);
  }
  void run(const GraphStackBackwardParams& params) const {
    const GraphPassesCpu passes{TorchThreads()};
    graph_stack_training_backward(params, passes);
  }
};

#ifdef SPARSE_AASIST_WITH_CUDA
class Cuda : public CudaDevice {
 public:
  using CudaDevice::CudaDevice;

  static constexpr bool kHasFloat64 = false;
  static int64_t partials(const GraphAttentionParams& params) {
    return graph_attention_partials_cuda(params);
  }
  void run(const GraphStackTrainingParams& params) const {
    check_launch(graph_stack_training_cuda(params, stream()), kName);
  }
  void run(const GraphStackBackwardParams& params) const {
    check_launch(graph_stack_training_backward_cuda(params, stream()), kName);
  }
};
#endif

// What both directions are given, checked and contiguous.
struct Inputs {
  GraphStackSizes sizes;
  Tensor features;
  std::vector<Tensor> weights;
  std::vector<Tensor> noise;
  GraphStackTrainingParams params;
};

void read_noise(const GraphStackSizes& sizes,
                const Tensor& features,
                std::vector<Tensor>& noise,
                GraphStackTrainingParams& params) {
  const GraphStackParams& stack = params.stack;
  TensorList list(kName, "noise", noise, features);
  const auto next = [&](int64_t nodes, int64_t width) {
    return list.next({stack.batch, nodes, width}).const_data_ptr();
  };
  for (int32_t number = 0; number < kStackLayers; ++number) {
    const GraphAttentionParams& attention = layer_at(stack, number).attention;
    params.of_layers[number] = next(attention.nodes, attention.dim);
  }
  for (int32_t number = 0; number < kStackPools; ++number) {
    const int32_t layer = pooled_nodes(stack, number).layer;
    params.of_pools[number] = next(pool_at(stack, number).nodes,
                                   layer_at(stack, layer).attention.hidden);
  }
  for (int32_t branch = 0; branch < kHalves; ++branch) {
    for (int32_t type = 0; type < kHalves; ++type)
      params.of_branches[branch][type] = next(sizes.kept[type], sizes.hidden);
    params.of_masters[branch] = next(1, sizes.hidden);
  }
  list.finish();
}

template <class Device>
Inputs check(Tensor features,
             std::vector<Tensor> weights,
             std::vector<Tensor> noise,
             const StackShape& shape) {
  Inputs in{stack_sizes(kName, features, weights, shape),
            features,
            std::move(weights),
            std::move(noise),
            {}};
  STD_TORCH_CHECK(Device::kHasFloat64 || !is_double(in.sizes.format), kName,
                  ": tensors on a GPU must be float32");
  in.sizes.of_batch = true;
  in.params.stack = stack_params(kName, in.sizes, in.features, in.weights);
  STD_TORCH_CHECK(in.sizes.batch * in.sizes.bands > 1 &&
                      in.sizes.batch * in.sizes.steps > 1,
                  kName, ": a normalisation needs two nodes or more");
  read_noise(in.sizes, in.features, in.noise, in.params);
  return in;
}

// Means of all layers, then variances.
void point_to_statistics(const std::vector<Tensor>& statistics,
                         GraphStackTrainingParams& params) {
  for (int32_t number = 0; number < kStackLayers; ++number) {
    params.means[number] = statistics[number].mutable_data_ptr();
    params.variances[number] =
        statistics[kStackLayers + number].mutable_data_ptr();
  }
}

template <class Device>
std::tuple<Tensor, std::vector<Tensor>, Tensor> forward(
    Tensor features,
    std::vector<Tensor> weights,
    std::vector<Tensor> noise,
    std::vector<int64_t> kept,
    std::vector<double> temperatures,
    std::vector<double> eps) {
  const Device device(features);
  Inputs in =
      check<Device>(features, weights, noise, {kept, temperatures, eps});
  GraphStackTrainingParams& params = in.params;
  const ScalarType dtype = features.scalar_type();
  Tensor readout = new_tensor(
      features, {params.stack.batch, int64_t{kReadoutBlocks} * in.sizes.hidden},
      dtype);
  params.stack.readout = readout.mutable_data_ptr();
  std::vector<Tensor> statistics;
  for (int32_t i = 0; i < 2 * kStackLayers; ++i)
    statistics.push_back(new_tensor(
        features, {layer_at(params.stack, i % kStackLayers).attention.hidden},
        dtype));
  point_to_statistics(statistics, params);
  Tensor saved = new_room(features, place_training(params, nullptr));
  place_training(params, room_at(kName, saved));
  device.run(params);
  return {readout, statistics, saved};
}

template <class Device>
std::tuple<Tensor, std::vector<Tensor>> backward(
    Tensor grad_readout,
    Tensor features,
    std::vector<Tensor> weights,
    std::vector<Tensor> noise,
    std::vector<Tensor> statistics,
    Tensor saved,
    std::vector<int64_t> kept,
    std::vector<double> temperatures,
    std::vector<double> eps) {
  const Device device(features);
  Inputs in =
      check<Device>(features, weights, noise, {kept, temperatures, eps});
  GraphStackBackwardParams params{};
  params.forward = in.params;
  GraphStackParams& stack = params.forward.stack;
  STD_TORCH_CHECK(
      fits(grad_readout, features,
           {stack.batch, int64_t{kReadoutBlocks} * in.sizes.hidden}),
      kName, ": the gradient does not fit");
  grad_readout = packed(grad_readout);
  TensorList list(kName, "statistic", statistics, features);
  for (int32_t i = 0; i < 2 * kStackLayers; ++i)
    list.next({layer_at(stack, i % kStackLayers).attention.hidden});
  list.finish();
  point_to_statistics(statistics, params.forward);
  const int64_t bytes = place_training(params.forward, nullptr);
  STD_TORCH_CHECK(saved.scalar_type() == ScalarType::Byte &&
                      saved.is_contiguous() &&
                      sizes_of(saved) == std::vector<int64_t>{bytes} &&
                      saved.device() == features.device(),
                  kName, ": what the forward pass has saved does not fit");
  // What a hook for saved tensors gives back need not be aligned.
  if (!is_aligned(saved))
    saved = torch::stable::clone(saved);
  place_training(params.forward, room_at(kName, saved));
  std::vector<Tensor> gradients;
  const auto next = [&](std::initializer_list<int64_t> sizes) -> const void* {
    gradients.push_back(new_tensor(features, sizes, features.scalar_type()));
    return gradients.back().mutable_data_ptr();
  };
  params.gradients = StackWeights(in.sizes, next).read();
  Tensor dfeatures =
      new_tensor(features, sizes_of(features), features.scalar_type());
  params.grad_readout = grad_readout.const_data_ptr();
  params.dfeatures = dfeatures.mutable_data_ptr();
  const Tensor room =
      new_room(features, place_backward(params, Device::partials, nullptr));
  place_backward(params, Device::partials, room_at(kName, room));
  device.run(params);
  return {dfeatures, gradients};
}

STABLE_TORCH_LIBRARY_FRAGMENT(sparse_aasist, m) {
  m.def(
      "graph_stack_training(Tensor features, Tensor[] weights, Tensor[] noise, "
      "SymInt[] kept, float[] temperatures, float[] eps) -> (Tensor readout, "
      "Tensor[] statistics, Tensor saved)");
  m.def(
      "graph_stack_training_backward(Tensor grad_readout, Tensor features, "
      "Tensor[] weights, Tensor[] noise, Tensor[] statistics, Tensor saved, "
      "SymInt[] kept, float[] temperatures, float[] eps) -> (Tensor dfeatures, "
      "Tensor[] dweights)");
}

STABLE_TORCH_LIBRARY_IMPL(sparse_aasist, CPU, m) {
  m.impl("graph_stack_training", TORCH_BOX(&forward<Cpu>));
  m.impl("graph_stack_training_backward", TORCH_BOX(&backward<Cpu>));
}

#ifdef SPARSE_AASIST_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(sparse_aasist, CUDA, m) {
  m.impl("graph_stack_training", TORCH_BOX(&forward<Cuda>));
  m.impl("graph_stack_training_backward", TORCH_BOX(&backward<Cuda>));
}
#endif

}  // namespace
}  // namespace sparse_aasist
