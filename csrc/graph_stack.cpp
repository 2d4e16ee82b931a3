// graph_stack: schema, checks, allocation and registration.
#include "graph_stack.h"

#include <algorithm>
#include <initializer_list>
#include <vector>

#include <torch/csrc/stable/library.h>

#include "task_scratch.h"
#include "tensor_rows.h"

#ifdef SPARSE_AASIST_WITH_CUDA
#include "cuda_device.h"
#endif

namespace sparse_aasist {
namespace {

constexpr const char* kName = "graph_stack";

class Cpu {
 public:
  explicit Cpu(const Tensor&) {}

  void run(const GraphStackParams& params) const {
    const int64_t items = params.batch * kHalves;
    each(params, items, SPARSE_AASIST_AT_SIMD_LEVEL(graph_stack_first_cpu));
    each(params, items, SPARSE_AASIST_AT_SIMD_LEVEL(graph_stack_branch_cpu));
    const auto read_out = SPARSE_AASIST_AT_SIMD_LEVEL(graph_stack_readout_cpu);
    torch::stable::parallel_for(
        0, params.batch, kGrainReadouts,
        [&](int64_t begin, int64_t end) { read_out(params, begin, end); });
  }

 private:
  static constexpr int64_t kGrainReadouts = 16;  // some 2 us each

  template <class Kernel>
  static void each(const GraphStackParams& params,
                   int64_t items,
                   Kernel kernel) {
    const int64_t bytes =
        SPARSE_AASIST_AT_SIMD_LEVEL(graph_stack_scratch_cpu)(params);
    run_with_scratch(items, 1, bytes,
                     [&](int64_t begin, int64_t end, void* scratch) {
                       kernel(params, begin, end, scratch);
                     });
  }
};

#ifdef SPARSE_AASIST_WITH_CUDA
class Cuda : public CudaDevice {
 public:
  using CudaDevice::CudaDevice;

  void run(const GraphStackParams& params) const {
    STD_TORCH_CHECK(params.format == FloatFormat::kFloat32, kName,
                    ": tensors on a GPU must be float32");
    check_launch(graph_stack_cuda(params, stream()), kName);
  }
};
#endif

GraphStackSizes sizes_from(const Tensor& features,
                           const std::vector<Tensor>& weights,
                           const std::vector<int64_t>& kept,
                           const std::vector<double>& temperatures,
                           const std::vector<double>& eps) {
  STD_TORCH_CHECK(features.dim() == 4, kName,
                  ": features must be (batch, channels, bands, steps)");
  const FloatFormat format = format_of(features, kName);
  STD_TORCH_CHECK(
      format == FloatFormat::kFloat32 || format == FloatFormat::kFloat64, kName,
      ": tensors must be float32 or float64");
  STD_TORCH_CHECK(kept.size() == 2 * kHalves &&
                      temperatures.size() == kStackLayers &&
                      eps.size() == kStackLayers,
                  kName, ": wants ", 2 * kHalves, " counts of kept nodes and ",
                  kStackLayers, " temperatures and eps");
  // A master is (1, 1, dim), the score of the last pool (1, hidden).
  STD_TORCH_CHECK(weights.size() > 3 && weights[1].dim() == 3 &&
                      weights[weights.size() - 2].dim() == 2,
                  kName, ": weights must end with the layer of a pool");
  const auto narrow = [](int64_t size) {
    return static_cast<int32_t>(std::clamp<int64_t>(size, 0, 1 << 20));
  };
  GraphStackSizes sizes{};
  sizes.format = format;
  sizes.batch = features.size(0);
  sizes.channels = narrow(features.size(1));
  sizes.bands = narrow(features.size(2));
  sizes.steps = narrow(features.size(3));
  sizes.dim = narrow(weights[1].size(2));
  sizes.hidden = narrow(weights[weights.size() - 2].size(1));
  for (int32_t half = 0; half < kHalves; ++half) {
    sizes.first_kept[half] = narrow(kept[half]);
    sizes.kept[half] = narrow(kept[kHalves + half]);
  }
  std::copy(temperatures.begin(), temperatures.end(), sizes.temperatures);
  std::copy(eps.begin(), eps.end(), sizes.eps);
  const char* reason = refusal(sizes);
  STD_TORCH_CHECK(reason == nullptr, kName, ": ", reason);
  return sizes;
}

template <class Device>
Tensor forward(Tensor features,
               std::vector<Tensor> weights,
               std::vector<int64_t> kept,
               std::vector<double> temperatures,
               std::vector<double> eps) {
  const Device device(features);
  const GraphStackSizes sizes =
      sizes_from(features, weights, kept, temperatures, eps);
  features = packed(features);
  size_t read = 0;
  const auto next = [&](std::initializer_list<int64_t> expected) {
    STD_TORCH_CHECK(
        read < weights.size() && fits(weights[read], features, expected), kName,
        ": weight ", read, " is missing, or of another shape, dtype or device");
    Tensor& weight = weights[read++];
    weight = packed(weight);
    return weight.const_data_ptr();
  };
  GraphStackParams params = StackWeights(sizes, next).read();
  STD_TORCH_CHECK(read == weights.size(), kName, ": wants ", read,
                  " weights, got ", weights.size());
  params.features = features.const_data_ptr();
  Tensor readout = new_tensor(
      features, {params.batch, int64_t{kReadoutBlocks} * sizes.hidden},
      features.scalar_type());
  params.readout = readout.mutable_data_ptr();
  if (params.batch == 0)
    return readout;
  const int64_t bytes = place_stack(params, nullptr);
  // In float64 for its alignment.
  Tensor room = new_tensor(features, {bytes / 8 + 8}, ScalarType::Double);
  char* const base = static_cast<char*>(room.mutable_data_ptr());
  place_stack(params,
              base + (64 - reinterpret_cast<uintptr_t>(base) % 64) % 64);
  device.run(params);
  return readout;
}

STABLE_TORCH_LIBRARY_FRAGMENT(sparse_aasist, m) {
  m.def(
      "graph_stack(Tensor features, Tensor[] weights, SymInt[] kept, float[] "
      "temperatures, float[] eps) -> Tensor readout");
}

STABLE_TORCH_LIBRARY_IMPL(sparse_aasist, CPU, m) {
  m.impl("graph_stack", TORCH_BOX(&forward<Cpu>));
}

#ifdef SPARSE_AASIST_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(sparse_aasist, CUDA, m) {
  m.impl("graph_stack", TORCH_BOX(&forward<Cuda>));
}
#endif

}  // namespace
}  // namespace sparse_aasist
