// residual_block_training on a CPU in bfloat16, backward: the second pass, from
// the middle to x.
#include "tiles/residual_backward_bfloat16_rows.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {
namespace {

template <int kInputs, int kOutputs>
struct InputPass {
  static constexpr bool kIsFirst = kInputs == 1;
  static constexpr bool kHasShortcut = kInputs != kOutputs;

  const ResidualBfloat16BackwardParams& params;
  const ResidualBfloat16Params& forward;
  const BackwardWeights weights;
  const InputScratch s;
  FirstConvolution first;  // times [1], plus [2] of the coefficients

  // Row h of the gradient of the middle, from a step before the strip to one
  // behind it; zeros outside of the clip.
  void load_draw(const Strip& strip, int64_t h) const {
    uint16_t* const to = s.draw[h % 2] + kOutputs;
    const int64_t row = middle_row(forward, strip, h) + strip.begin * kOutputs;
    const uint16_t* const dnormal = params.dnormal + row;
    const int64_t begin = strip.begin > 0 ? -1 : 0;
    const int64_t behind = strip.begin + strip.count < forward.steps
                               ? strip.count + 1
                               : strip.count;
    if (begin == 0)
      clear(to - kOutputs, kOutputs);
    if (behind == strip.count)
      clear(to + behind * kOutputs, kOutputs);
    const FirstMiddleRow again{first, s.wide[(h + 1) % 2], s.wide[h % 2]};
    for (int group = 0; group < kOutputs; group += kGroupChannels) {
      Vector<float> factor[kSumVectors], slope[kSumVectors], shift[kSumVectors];
      for (int v = 0; v < kSumVectors; ++v) {
        const float* const of = params.coefficients + group + v * kLanes<float>;
        factor[v] = load(of);
        slope[v] = load(of + kOutputs);
        shift[v] = load(of + 2 * kOutputs);
      }
      for (int64_t t = begin; t < behind; ++t) {
        const int64_t at = t * kOutputs + group;
        if constexpr (kIsFirst)
          prefetch(dnormal + at + forward.steps * kOutputs);
        for (int v = 0; v < kSumVectors; ++v) {
          const int64_t c = v * kLanes<float>;
          Vector<float> rest;
          if constexpr (kIsFirst)
            rest = again.at(t, c);
          else
            rest = load_bfloat16(forward.middle + row + at + c) * slope[v] +
                   shift[v];
          store_bfloat16(to + at + c,
                         load_bfloat16(dnormal + at + c) * factor[v] + rest);
        }
      }
    }
  }

  // Row h of x.
  void load_source(const Strip& strip, int64_t h) const {
    if constexpr (kIsFirst) {
      load_first(forward, strip, h, s.wide[h % 2]);
      for (int64_t height = 0; height < 2; ++height)
        for (int64_t tap = 0; tap < kTaps; ++tap)
          load_taps(strip, h - 1 + height, tap,
                    s.taps + (height * kTaps + tap) * kStripDepth);
    } else {
      const int64_t depth = depth_of(strip);
      const uint16_t* const from =
          steps_of(forward.x + input_row(forward, strip, h), forward.steps,
                   kInputs, strip.begin - 1, depth, s.input);
      for (int64_t t = 0; t < depth; t += kTileDepth)
        for (int c = 0; c < kInputs; c += kGroupChannels)
          transpose_group(from + t * kInputs + c, kInputs,
                          s.source[h % 2] + c * kStripDepth + t, kStripDepth);
    }
  }

  void load_taps(const Strip& strip,
                 int64_t h,
                 int64_t tap,
                 uint16_t* to) const {
    if (h < 0 || h >= forward.height)
      clear(to, kStripDepth);
    else
      load_steps(forward.x + input_row(forward, strip, h), forward.steps, 1,
                 strip.begin - 1 + tap, kStripDepth, to);
  }

  void add_gradients(const Strip& strip,
                     int64_t h,
                     const GradientPartials& partials) const {
    const int64_t depth = depth_of(strip);
    if constexpr (kIsFirst) {
      add_first_gradients(s.taps, kStripDepth, s.draw_pairs.even + 2 * kOutputs,
                          s.grad_pairs.even + 2 * kOutputs, depth,
                          partials.conv1, partials.shortcut);
    } else {
      constexpr int64_t kHeight = int64_t{kTaps} * kInputs * kOutputs;
      const uint16_t* const above = s.source[(h + 1) % 2];
      if (h < forward.height)
        add_gradient<kInputs, kOutputs>(s.source[h % 2], kStripDepth,
                                        s.draw_pairs, depth,
                                        partials.conv1 + kHeight);
      if (h == 0)
        return;
      add_gradient<kInputs, kOutputs>(above, kStripDepth, s.draw_pairs, depth,
                                      partials.conv1);
      if constexpr (kHasShortcut)
        add_gradient<kInputs, kOutputs>(above, kStripDepth, s.grad_pairs, depth,
                                        partials.shortcut);
    }
  }

  // What the next row reads and writes at step t of the strip.
  void prefetch_next(const Strip& strip,
                     int64_t h,
                     int64_t t,
                     int output) const {
    const int64_t of_middle =
        middle_row(forward, strip, h + 1) + (strip.begin + t) * kOutputs;
    for (int c = output; c < kOutputs; c += kInputs) {
      prefetch(params.dnormal + of_middle + c);
      prefetch(forward.middle + of_middle + c);
    }
    const int64_t of_input =
        input_row(forward, strip, h) + (strip.begin + t) * kInputs + output;
    prefetch(params.dx + of_input);
    prefetch(forward.x + of_input + forward.steps * kInputs);
  }

  // Row h - 1 of dx, from the rows of the middle's gradient under its two taps
  // in height.
  void finish_dx(const Strip& strip, int64_t h) const {
    uint16_t* const dx =
        params.dx + input_row(forward, strip, h - 1) + strip.begin * kInputs;
    const uint16_t* const grad = s.grad + kPoolSteps * kOutputs;
    // What is done of a block while the next one is multiplied.
    SumBlock block{};
    const auto finish = [&](int32_t unit) {
      const int64_t first = unit / kSumVectors * kPoolSteps;
      const int c = unit % kSumVectors * kLanes<float>;
      for (int64_t i = first; i < first + kPoolSteps; ++i) {
        const int64_t t = block.step + i;
        if (t >= block.end)
          return;
        if (c == 0)
          prefetch_next(strip, h, t, block.output);
        Vector<float> value = load(s.room + i * kSumOutputs + c);
        if constexpr (!kHasShortcut)
          value += load_bfloat16(grad + t * kOutputs + block.output + c);
        store_bfloat16(dx + t * kInputs + block.output + c, value);
      }
    };
    for (int output = 0; output < kInputs; output += kSumOutputs) {
      const TileTerm terms[3] = {
          term_of(weights.conv1, s.draw[h % 2], output, 0),
          term_of(weights.conv1, s.draw[(h + 1) % 2], output, 1),
          term_of(weights.shortcut, kHasShortcut ? grad - kOutputs : nullptr,
                  output, 0)};
      for (int64_t step = 0; step < strip.count; step += kSumSteps) {
        multiply_terms(terms, step, s.room, finish);
        block = {step, strip.count, output};
      }
    }
    for (int32_t unit = 0; unit < kUnits; ++unit)
      finish(unit);
  }

  // The same of one input.
  void finish_first_dx(const Strip& strip, int64_t h) const {
    multiply_first({s.draw[h % 2], s.draw[(h + 1) % 2],
                    s.grad + (kPoolSteps - 1) * kOutputs},
                   weights.first, s.room);
    uint16_t* const dx =
        params.dx + input_row(forward, strip, h - 1) + strip.begin;
    for (int64_t t = 0; t < strip.count; ++t)
      dx[t] = bfloat16_of(first_product(s.room, t));
  }

  void run(const Strip& strip, const GradientPartials& partials) const {
    const int64_t depth = depth_of(strip);
    if constexpr (kIsFirst)
      load_first(forward, strip, -1, s.wide[1]);
    for (int64_t h = 0; h <= forward.height; ++h) {
      if (kIsFirst || h < forward.height)
        load_source(strip, h);
      load_draw(strip, h);
      interleave_rows<kOutputs>(s.draw[h % 2] + kOutputs, strip.count, depth,
                                s.draw_pairs);
      if (h > 0) {
        load_grad<kOutputs>(params, strip, h - 1, s.grad);
        if constexpr (kHasShortcut)
          interleave_rows<kOutputs>(s.grad + kPoolSteps * kOutputs, strip.count,
                                    depth, s.grad_pairs);
      }
      add_gradients(strip, h, partials);
      if (h == 0)
        continue;
      if constexpr (kIsFirst)
        finish_first_dx(strip, h);
      else
        finish_dx(strip, h);
    }
  }
};

template <int kInputs, int kOutputs>
void run_groups(const ResidualBfloat16BackwardParams& params,
                int64_t begin,
                int64_t end,
                void* scratch) {
  const ResidualBfloat16Params& forward = params.forward;
  InputPass<kInputs, kOutputs> pass{params,
                                    forward,
                                    backward_weights(forward),
                                    input_scratch(forward, scratch),
                                    {}};
  if constexpr (kInputs == 1)
    pass.first =
        first_convolution(forward.conv1, params.coefficients + kOutputs,
                          params.coefficients + 2 * kOutputs);
  // What lies behind a strip meets zeros, and must be finite.
  for (uint16_t* const draw : pass.s.draw)
    clear(draw, kDrawRows * kOutputs);
  clear(pass.s.grad, kGradRows * kOutputs);
  clear(pass.s.grad_pairs.even, (kStripDepth + 2) * kOutputs);
  clear(pass.s.taps, kFirstSource);
  const TileSession session;
  const ResidualGroups groups = residual_groups(forward.batch, forward.steps);
  for (int64_t group = begin; group < end; ++group)
    for (int64_t t = groups.begin(group); t < groups.begin(group + 1); ++t)
      pass.run(strip_of(forward, t),
               partials_of(forward, params.partials, group));
}

}  // namespace

void residual_backward_bfloat16_input_cpu(
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
