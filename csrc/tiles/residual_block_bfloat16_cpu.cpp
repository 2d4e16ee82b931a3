// residual_block in bfloat16 on a CPU. As in float32 a task walks down the rows
// of a strip of time, and no row of the middle leaves a core's cache.
#include "residual_block_bfloat16.h"

#include "tiles/residual_bfloat16_walk.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {
namespace {

// conv1(x), rounded, then normalised.
class TileMiddle {
 public:
  static constexpr bool kIsFirst = false;
  static constexpr bool kMultiplies = true;

  TileMiddle(const ResidualBfloat16Params& params,
             const ForwardWeights& weights,
             float* sums)
      : params_(params),
        weights_(weights),
        sums_(sums),
        norm_(scaled_norm(params)) {}

  void begin_row(const Strip&, const InputRows& rows, int32_t h) {
    above_ = h > 0 ? rows.of[(h - 1) % kInputRing] : nullptr;
    own_ = h < params_.height ? rows.of[h % kInputRing] : nullptr;
  }

  template <class Work>
  void multiply(int64_t step, int64_t output, const Work& work) const {
    const TileTerm terms[] = {term_of(weights_.conv1, above_, output, 0),
                              term_of(weights_.conv1, own_, output, 1)};
    multiply_terms(terms, step, sums_, work);
  }

  void make(int64_t step, int64_t output, int32_t unit, uint16_t* to) const {
    const int32_t lane = unit % kSumVectors * kLanes<float>;
    const int64_t o = output + lane, t = unit / kSumVectors * kPoolSteps;
    const Vector<float> scale = load(norm_.scale + o);
    const Vector<float> shift = load(norm_.shift + o);
    const Vector<float> bias = load(weights_.start1 + o);
    Vector<float> values[kPoolSteps];
    for (int i = 0; i < kPoolSteps; ++i)
      values[i] =
          widened(narrowed(load(sums_ + (t + i) * kSumOutputs + lane) + bias));
    for (int i = 0; i < kPoolSteps; ++i)
      values[i] = values[i] * scale + shift;
    apply_selu(values);
    for (int i = 0; i < kPoolSteps; ++i)
      store_bfloat16(to + (step + t + i) * params_.outputs + o, values[i]);
  }

 private:
  const ResidualBfloat16Params& params_;
  const ForwardWeights& weights_;
  float* sums_;
  ScaledNorm norm_;
  const uint16_t* above_ = nullptr;
  const uint16_t* own_ = nullptr;
};

}  // namespace

int64_t residual_bfloat16_packed_cpu(const ResidualBfloat16Params& params) {
  return forward_weights(params).size;
}

int64_t residual_bfloat16_scratch_cpu(const ResidualBfloat16Params& params) {
  return walk_scratch(params, nullptr).bytes;
}

void residual_bfloat16_pack_cpu(const ResidualBfloat16Params& params) {
  pack_forward(params);
}

void residual_bfloat16_norm_cpu(const ResidualBfloat16Params& params,
                                const Normalisation& norm) {
  for (int32_t o = 0; o < params.outputs; ++o) {
    const double scale =
        norm.weight[o] / __builtin_sqrt(norm.variance[o] + norm.eps);
    params.affine[o] = static_cast<float>(scale);
    params.affine[params.outputs + o] =
        static_cast<float>(norm.bias[o] - norm.mean[o] * scale);
  }
}

void residual_bfloat16_cpu(const ResidualBfloat16Params& params,
                           int64_t begin,
                           int64_t end,
                           void* scratch) {
  const TileSession session;
  const ForwardWeights weights = forward_weights(params);
  const WalkScratch s = walk_scratch(params, scratch);
  const auto run = [&](auto middle) {
    using Middle = decltype(middle);
    for (int64_t task = begin; task < end; ++task) {
      const Strip strip = strip_of(params, task);
      Walk<false, Middle>(params, weights, strip, s, middle).run();
    }
  };
  if (params.inputs == 1)
    run(FirstMiddle(params));
  else
    run(TileMiddle(params, weights, s.sums1));
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
