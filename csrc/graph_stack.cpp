// graph_stack: schema, checks, allocation and registration.
#include "graph_stack.h"

#include <vector>

#include <torch/csrc/stable/library.h>

#include "graph_stack_tensors.h"
#include "task_scratch.h"

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

template <class Device>
Tensor forward(Tensor features,
               std::vector<Tensor> weights,
               std::vector<int64_t> kept,
               std::vector<double> temperatures,
               std::vector<double> eps) {
  const Device device(features);
  const GraphStackSizes sizes =
      stack_sizes(kName, features, weights, {kept, temperatures, eps});
  GraphStackParams params = stack_params(kName, sizes, features, weights);
  Tensor readout = new_tensor(
      features, {params.batch, int64_t{kReadoutBlocks} * sizes.hidden},
      features.scalar_type());
  params.readout = readout.mutable_data_ptr();
  if (params.batch == 0)
    return readout;
  const Tensor room = new_room(features, place_stack(params, nullptr));
  place_stack(params, room_at(kName, room));
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
