// front_end: schema, checks, allocation and registration.
#include "front_end.h"

#include <optional>

#include <torch/csrc/stable/library.h>

#include "encoder_tensors.h"

#ifdef SPARSE_AASIST_WITH_CUDA
#include "cuda_device.h"
#endif

namespace sparse_aasist {
namespace {

constexpr const char* kName = "front_end";

bool are_symmetric(const FrontEndParams& params) {
  for (int32_t f = 0; f < params.filters; ++f) {
    const float* filter = params.coefficients + int64_t{f} * params.taps;
    for (int32_t j = 0; j < params.taps / 2; ++j)
      if (!(filter[j] == filter[params.taps - 1 - j]))
        return false;
  }
  return true;
}

class Cpu {
 public:
  explicit Cpu(const Tensor&) {}

  void run(const FrontEndParams& params) const {
    STD_TORCH_CHECK(are_symmetric(params), kName,
                    ": filters must be symmetric");
    const auto kernel = SPARSE_AASIST_AT_SIMD_LEVEL(front_end_cpu);
    run_tasks(params.batch * front_end_tasks_per_clip(params),
              SPARSE_AASIST_AT_SIMD_LEVEL(front_end_scratch_cpu)(params),
              [&](int64_t begin, int64_t end, float* scratch) {
                kernel(params, begin, end, scratch);
              });
  }
};

#ifdef SPARSE_AASIST_WITH_CUDA
class Cuda : public CudaDevice {
 public:
  using CudaDevice::CudaDevice;

  void run(const FrontEndParams& params) const {
    check_launch(front_end_cuda(params, stream()), kName);
  }
};
#endif

template <class Device>
Tensor forward(Tensor waveform,
               Tensor filters,
               std::optional<Tensor> norm_weight,
               std::optional<Tensor> norm_bias,
               std::optional<Tensor> norm_mean,
               std::optional<Tensor> norm_variance,
               double eps) {
  const Device device(waveform);
  STD_TORCH_CHECK(
      waveform.dim() == 2 && waveform.scalar_type() == ScalarType::Float, kName,
      ": waveform must be float32, (batch, samples)");
  STD_TORCH_CHECK(filters.dim() == 3 && filters.size(1) == 1 &&
                      filters.size(0) >= kPoolFilters &&
                      filters.size(0) < (1 << 16) && filters.size(2) % 2 == 1 &&
                      filters.size(2) < (1 << 16),
                  kName, ": filters must be (filters, 1, taps), ", kPoolFilters,
                  " or more, with an odd number of taps");
  const int64_t count = filters.size(0), taps = filters.size(2);
  STD_TORCH_CHECK(waveform.size(1) >= taps - 1 + kPoolSteps, kName,
                  ": waveform must have at least ", taps - 1 + kPoolSteps,
                  " samples");
  FrontEndParams params{};
  params.batch = waveform.size(0);
  params.samples = waveform.size(1);
  params.filters = static_cast<int32_t>(count);
  params.taps = static_cast<int32_t>(taps);
  waveform = packed(waveform);
  params.waveform = static_cast<const float*>(waveform.const_data_ptr());
  Weights weights(kName, waveform);
  params.coefficients = weights.next(filters, {count, 1, taps});
  const bool has_norm = norm_weight.has_value();
  STD_TORCH_CHECK(norm_bias.has_value() == has_norm &&
                      norm_mean.has_value() == has_norm &&
                      norm_variance.has_value() == has_norm,
                  kName, ": a normalisation has four tensors");
  if (has_norm)
    params.norm = weights.normalisation(
        {*norm_weight, *norm_bias, *norm_mean, *norm_variance}, eps, 1);
  Tensor out = new_tensor(
      waveform,
      {params.batch, 1, count / kPoolFilters, front_end_steps(params)},
      ScalarType::Float);
  params.out = static_cast<float*>(out.mutable_data_ptr());
  device.run(params);
  return out;
}

STABLE_TORCH_LIBRARY_FRAGMENT(sparse_aasist, m) {
  m.def(
      "front_end(Tensor waveform, Tensor filters, Tensor? norm_weight, Tensor? "
      "norm_bias, Tensor? norm_mean, Tensor? norm_variance, float eps) -> "
      "Tensor out");
}

STABLE_TORCH_LIBRARY_IMPL(sparse_aasist, CPU, m) {
  m.impl("front_end", TORCH_BOX(&forward<Cpu>));
}

#ifdef SPARSE_AASIST_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(sparse_aasist, CUDA, m) {
  m.impl("front_end", TORCH_BOX(&forward<Cuda>));
}
#endif

}  // namespace
}  // namespace sparse_aasist
