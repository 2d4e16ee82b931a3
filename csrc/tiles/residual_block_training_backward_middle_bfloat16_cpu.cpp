// residual_block_training on a CPU in bfloat16, backward: the first pass, from
// the result to the normalised middle.
#include "tiles/residual_backward_bfloat16_rows.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {
namespace {

template <int kInputs, int kOutputs>
struct MiddlePass {
  const ResidualBfloat16BackwardParams& params;
  const ResidualBfloat16Params& forward;
  const ScaledNorm norm;
  const PackedTiles conv2;
  const MiddleScratch s;
  FirstConvolution first;  // of one input channel

  auto row_of(const Strip& strip, int64_t h) const {
    if constexpr (kInputs == 1)
      return FirstMiddleRow{first, s.input[(h + 1) % 2], s.input[h % 2]};
    else
      return StoredMiddleRow{forward.middle + middle_row(forward, strip, h) +
                                 strip.begin * kOutputs,
                             kOutputs, forward.steps};
  }

  uint16_t* active_at(int64_t t) const { return s.active + (t + 1) * kOutputs; }

  // Of a step beside the strip; zeros outside of the clip, the padding of
  // conv2.
  template <class Row>
  void activate_beside(const Strip& strip, const Row& row, int64_t t) const {
    if (strip.begin + t < 0 || strip.begin + t >= forward.steps) {
      clear(active_at(t), kOutputs);
      return;
    }
    for (int c = 0; c < kOutputs; c += kLanes<float>) {
      Vector<float> value[1] = {row.at(t, c) * load(norm.scale + c) +
                                load(norm.shift + c)};
      apply_selu(value);
      store_bfloat16(active_at(t) + c, value[0]);
    }
  }

  // What a block's channels keep in registers.
  struct BlockChannels {
    Vector<float> scale[kSumVectors], shift[kSumVectors], mean[kSumVectors];
    Vector<float> sum[kSumVectors], centred[kSumVectors];
  };

  BlockChannels channels_of(const SumBlock& block) const {
    BlockChannels of{};
    for (int v = 0; v < kSumVectors; ++v) {
      const int c = block.output + v * kLanes<float>;
      of.scale[v] = load(norm.scale + c);
      of.shift[v] = load(norm.shift + c);
      of.mean[v] = load(params.norm.mean + c);
    }
    return of;
  }

  void add_sums(const SumBlock& block,
                const BlockChannels& of,
                StripSums& sums) const {
    for (int v = 0; v < kSumVectors; ++v) {
      const int c = block.output + v * kLanes<float>;
      add_to(sums.at(kSumDnormal, c), of.sum[v]);
      add_to(sums.at(kSumCentred, c), of.centred[v]);
    }
  }

  // Of steps of vector v of a block, `step` being the first: SELU, and the
  // gradient of what it takes from that of what it gives.
  template <int kSteps, class Row>
  void finish_steps(const SumBlock& block,
                    int64_t step,
                    int v,
                    const Row& row,
                    uint16_t* dnormal,
                    BlockChannels& of) const {
    const int64_t first = block.step + step;
    const int c = block.output + v * kLanes<float>;
    const float* const of_active =
        s.room + step * kSumOutputs + v * kLanes<float>;
    uint16_t* const active = active_at(first) + c;
    uint16_t* const to = dnormal + first * kOutputs + c;
    const Vector<float> scale = of.scale[v], shift = of.shift[v];
    Vector<float> middle[kSteps], value[kSteps], slope[kSteps];
    for (int i = 0; i < kSteps; ++i) {
      middle[i] = row.at(first + i, c);
      value[i] = middle[i] * scale + shift;
    }
    apply_selu(value, slope);
    Vector<float> sum = of.sum[v], centred = of.centred[v];
    for (int i = 0; i < kSteps; ++i) {
      store_bfloat16(active + i * kOutputs, value[i]);
      const Vector<float> gradient = store_bfloat16(
          to + i * kOutputs, slope[i] * load(of_active + i * kSumOutputs));
      sum += gradient;
      centred += gradient * (middle[i] - of.mean[v]);
      if (v == 0) {
        row.prefetch_next(first + i, c);
        prefetch(to + (forward.steps + i) * kOutputs);
      }
    }
    of.sum[v] = sum;
    of.centred[v] = centred;
  }

  template <class Row>
  void finish_unit(const SumBlock& block,
                   int32_t unit,
                   const Row& row,
                   uint16_t* dnormal,
                   BlockChannels& of) const {
    const int v = unit % kSumVectors;
    const int64_t step = unit / kSumVectors * kPoolSteps;
    const int64_t left = block.end - block.step - step;
    if (left >= kPoolSteps)
      finish_steps<kPoolSteps>(block, step, v, row, dnormal, of);
    else
      for (int64_t i = 0; i < left; ++i)
        finish_steps<1>(block, step + i, v, row, dnormal, of);
  }

  // Row h of dnormal and of what SELU gives. Row h of the middle is under the
  // first tap in height of row h of y, and under the second of the row before.
  template <class Row>
  void finish_row(const Strip& strip,
                  int64_t h,
                  const Row& row,
                  StripSums& sums) const {
    constexpr int64_t kBefore = (kPoolSteps - 1) * kOutputs;
    uint16_t* const dnormal =
        params.dnormal + middle_row(forward, strip, h) + strip.begin * kOutputs;
    SumBlock block{};
    for (int output = 0; output < kOutputs; output += kSumOutputs) {
      const TileTerm terms[2] = {
          term_of(conv2, h < forward.height ? s.grad[h % 2] + kBefore : nullptr,
                  output, 0),
          term_of(conv2, h > 0 ? s.grad[(h + 1) % 2] + kBefore : nullptr,
                  output, 1)};
      for (int64_t step = 0; step < strip.count; step += kSumSteps) {
        // A block is finished while the next one is multiplied.
        BlockChannels of = channels_of(block);
        multiply_terms(terms, step, s.room, [&](int32_t unit) {
          finish_unit(block, unit, row, dnormal, of);
        });
        add_sums(block, of, sums);
        block = {step, strip.count, output};
      }
    }
    BlockChannels of = channels_of(block);
    for (int32_t unit = 0; unit < kUnits; ++unit)
      finish_unit(block, unit, row, dnormal, of);
    add_sums(block, of, sums);
  }

  void add_grad(const Strip& strip, int64_t h, StripSums& sums) const {
    const int64_t pooled = forward.steps / kPoolSteps;
    const uint16_t* const grad =
        params.grad_out + ((strip.clip * forward.height + h) * pooled +
                           strip.begin / kPoolSteps) *
                              kOutputs;
    for (int c = 0; c < kOutputs; c += kLanes<float>) {
      Vector<float> sum{};
      for (int64_t t = 0; t < strip.pools; ++t)
        sum += load_bfloat16(grad + t * kOutputs + c);
      add_to(sums.at(kSumDout, c), sum);
    }
  }

  void transpose_active(const Strip& strip) const {
    for (int64_t t = 0; t < depth_of(strip); t += kTileDepth)
      for (int c = 0; c < kOutputs; c += kGroupChannels)
        transpose_group(s.active + t * kOutputs + c, kOutputs,
                        s.source + c * kStripDepth + t, kStripDepth);
  }

  void run(const Strip& strip,
           const GradientPartials& partials,
           StripSums& sums) const {
    const int64_t depth = depth_of(strip);
    constexpr int64_t kHeight = int64_t{kTaps} * kOutputs * kOutputs;
    if constexpr (kInputs == 1)
      load_first(forward, strip, -1, s.input[1]);
    for (int64_t h = 0; h <= forward.height; ++h) {
      const int64_t now = h % 2, before = 1 - now;
      const bool has_row = h < forward.height;
      if (has_row) {
        load_grad<kOutputs>(params, strip, h, s.grad[now]);
        interleave_rows<kOutputs>(s.grad[now] + kPoolSteps * kOutputs,
                                  strip.count, depth, s.pairs[now]);
        add_grad(strip, h, sums);
      }
      if constexpr (kInputs == 1)
        load_first(forward, strip, h, s.input[now]);
      const auto row = row_of(strip, h);
      activate_beside(strip, row, -1);
      activate_beside(strip, row, strip.count);
      finish_row(strip, h, row, sums);
      transpose_active(strip);
      if (has_row)
        add_gradient<kOutputs, kOutputs>(s.source, kStripDepth, s.pairs[now],
                                         depth, partials.conv2);
      if (h > 0)
        add_gradient<kOutputs, kOutputs>(s.source, kStripDepth, s.pairs[before],
                                         depth, partials.conv2 + kHeight);
    }
  }
};

template <int kInputs, int kOutputs>
void run_groups(const ResidualBfloat16BackwardParams& params,
                int64_t begin,
                int64_t end,
                void* scratch) {
  const ResidualBfloat16Params& forward = params.forward;
  MiddlePass<kInputs, kOutputs> pass{params,
                                     forward,
                                     scaled_norm(forward),
                                     backward_weights(forward).conv2,
                                     middle_scratch(forward, scratch),
                                     {}};
  if constexpr (kInputs == 1)
    pass.first = first_convolution(forward.conv1, nullptr, nullptr);
  // What lies behind a strip meets zeros, and must be finite.
  clear(pass.s.active, kStripDepth * kOutputs);
  const TileSession session;
  const ResidualGroups groups = residual_groups(forward.batch, forward.steps);
  for (int64_t group = begin; group < end; ++group) {
    const GradientPartials partials =
        partials_of(forward, params.partials, group);
    clear(partials.sums, partials.size);
    double totals[kBackwardSums][kOutputs] = {};
    for (int64_t t = groups.begin(group); t < groups.begin(group + 1); ++t) {
      StripSums sums = {};
      pass.run(strip_of(forward, t), partials, sums);
      for (int which = 0; which < kBackwardSums; ++which)
        for (int c = 0; c < kOutputs; ++c)
          totals[which][c] += static_cast<double>(sums.of[which][c]);
    }
    for (int which = 0; which < kBackwardSums; ++which)
      for (int c = 0; c < kOutputs; ++c)
        partials.sums[which * kOutputs + c] =
            static_cast<float>(totals[which][c]);
  }
}

}  // namespace

void residual_backward_bfloat16_middle_cpu(
    const ResidualBfloat16BackwardParams& params,
    int64_t begin,
    int64_t end,
    void* scratch) {
  with_widths(params.forward, [&](auto inputs, auto outputs) {
    run_groups<decltype(inputs)::kValue, decltype(outputs)::kValue>(
        params, begin, end, scratch);
  });
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
