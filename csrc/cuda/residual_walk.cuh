// How blocks go over a batch of images: a block takes a stretch of time of some
// rows of a clip, and walks down these rows.
#pragma once

#include "launch.h"
#include "residual_block_bfloat16.h"

namespace sparse_aasist {

constexpr int kWalkThreads = 256;
// Blocks of this many threads, of which one fits on a multiprocessor: some
// rounds of an H100's 132.
constexpr int32_t kWantedItems = 528;
// Each part of the rows reads one row again.
constexpr int32_t kLeastRows = 4;

// Row r of the result belongs to rows r + shift and r + shift + 1 of the
// source: shift is -1 where the result has a row more (conv1, and conv2's
// gradient), 0 where it has one less.
enum class Height { kGrows, kShrinks };

struct Walk {
  int32_t batch;
  int32_t steps;
  int32_t source_rows;
  int32_t rows;  // of the result
  int32_t shift;
  int32_t stretches;  // of time, of a clip
  int32_t parts;      // of the rows

  struct Item {
    int32_t clip;
    int32_t first, past;  // steps
    int32_t begin, end;   // rows
  };

  // In 32 bits: there are at most 2^30 clips, and more than a few items of
  // each take more memory than there is.
  SPARSE_AASIST_INLINE int32_t items() const {
    return batch * stretches * parts;
  }
  // Of stretches of `length` steps.
  SPARSE_AASIST_INLINE Item item(int32_t index, int32_t length) const {
    const int32_t whole = index / parts, part = index % parts;
    const int32_t first = whole % stretches * length;
    const int32_t past = first + length;
    return {whole / stretches, first, past < steps ? past : steps,
            rows * part / parts, rows * (part + 1) / parts};
  }
};

inline Walk walk_over(const ResidualBfloat16Params& params,
                      Height height,
                      int32_t length) {
  const bool grows = height == Height::kGrows;
  Walk walk{};
  walk.batch = static_cast<int32_t>(params.batch);
  walk.steps = static_cast<int32_t>(params.steps);
  walk.source_rows = params.height + (grows ? 0 : 1);
  walk.rows = params.height + (grows ? 1 : 0);
  walk.shift = grows ? -1 : 0;
  walk.stretches = (walk.steps + length - 1) / length;
  const int32_t whole = walk.batch * walk.stretches;
  const int32_t parts = (kWantedItems + whole - 1) / whole;
  const int32_t most = (walk.rows + kLeastRows - 1) / kLeastRows;
  walk.parts = parts < most ? parts : most;
  return walk;
}

}  // namespace sparse_aasist
