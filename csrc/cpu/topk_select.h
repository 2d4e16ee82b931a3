// Exact selection of the k highest keys of a row, lowest index first at ties.
//
// A row streams once through a buffer of candidates: a key enters when it
// beats the pivot of the last cut, and a full buffer is cut back to k. A row
// that fits into the buffer is cut once. In rows of random order about
// k ln(dim / k) keys enter after the first bufferful; in the worst order all
// do, and a key still meets a bounded number of passes.
#pragma once

#include <cstdint>

#include "order_key.h"
#include "rows.h"
#include "simd.h"
#include "topk_scratch.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {

// What is kept: keys above `pivot`, and the first `ties` keys equal to it.
template <class Key>
struct Cut {
  Key pivot;
  int32_t ties;
};

template <class Key>
inline int32_t count_above(const Key* keys, int32_t padded, Key pivot) {
  constexpr int32_t kStep = kLanes<Key>;
  const Vector<Key> bound = broadcast(pivot);
  int32_t count = 0;
  if constexpr (kHasMaskRegisters) {
    for (int32_t j = 0; j < padded; j += kStep)
      count += __builtin_popcountll(greater_bits<Key>(load(keys + j), bound));
  } else {
    // A lane counts down by one per key above: at most kMaxDim / kStep.
    Vector<Key> even{}, odd{};
    int32_t j = 0;
    for (; j + 2 * kStep <= padded; j += 2 * kStep) {
      even += load(keys + j) > bound;
      odd += load(keys + j + kStep) > bound;
    }
    if (j < padded)
      even += load(keys + j) > bound;
    even += odd;
    for (int32_t lane = 0; lane < kStep; ++lane)
      count -= even[lane];
  }
  return count;
}

// Keys between which the pivot lies: at least k keys are above `low`, none
// above `high`.
template <class Key>
struct Bracket {
  Key low;
  Key high;
};

// Of g disjoint groups with g >= k, each has a key that is at least the lowest
// of the groups' highest keys. The groups are the lanes of kVectors vectors.
template <class Format, int kVectors, class Key = typename Format::Bits>
inline Bracket<Key> bracket_of(const Key* keys, int32_t padded, Key floor) {
  constexpr int32_t kStep = kLanes<Key>;
  Vector<Key> best[kVectors];
  for (Vector<Key>& vector : best)
    vector = broadcast(KeyRange<Format>::kNothing);
  int32_t j = 0;
  for (; j + kVectors * kStep <= padded; j += kVectors * kStep)
    for (int32_t i = 0; i < kVectors; ++i)
      best[i] = higher<Key>(best[i], load(keys + j + i * kStep));
  for (int32_t i = 0; i < kVectors - 1; ++i)
    if (j + i * kStep < padded)
      best[i] = higher<Key>(best[i], load(keys + j + i * kStep));
  Vector<Key> lowest = best[0], highest = best[0];
  for (int32_t i = 1; i < kVectors; ++i) {
    lowest = lower<Key>(lowest, best[i]);
    highest = higher<Key>(highest, best[i]);
  }
  Key low[kStep], high[kStep];
  store<Key>(low, lowest);
  store<Key>(high, highest);
  for (int32_t width = kStep / 2; width > 0; width /= 2)
    for (int32_t lane = 0; lane < width; ++lane) {
      low[lane] = low[lane + width] < low[lane] ? low[lane + width] : low[lane];
      high[lane] =
          high[lane + width] > high[lane] ? high[lane + width] : high[lane];
    }
  return {low[0] > floor ? static_cast<Key>(low[0] - 1) : floor, high[0]};
}

// Fewer and larger groups bound better.
template <class Format, class Key = typename Format::Bits>
inline Bracket<Key> bracket(const Key* keys,
                            int32_t padded,
                            int32_t k,
                            Key floor) {
  constexpr int32_t kStep = kLanes<Key>;
  if (k <= kStep)
    return bracket_of<Format, 1>(keys, padded, floor);
  if (k <= 2 * kStep)
    return bracket_of<Format, 2>(keys, padded, floor);
  if (k <= 4 * kStep)
    return bracket_of<Format, 4>(keys, padded, floor);
  Bracket<Key> bracket = bracket_of<Format, 8>(keys, padded, floor);
  if (k > 8 * kStep)
    bracket.low = floor;
  return bracket;
}

// Bisects for the cut of `count` keys, at least k of them above `floor`; the
// rest of their last vector is filled with the lowest Key.
template <class Format, class Key = typename Format::Bits>
inline Cut<Key> find_cut(const Key* keys, int32_t count, int32_t k, Key floor) {
  if (count == k)
    return {floor, 0};
  const int32_t padded = (count + kLanes<Key> - 1) / kLanes<Key> * kLanes<Key>;
  auto [low, high] = bracket<Format>(keys, padded, k, floor);
  int32_t above_high = 0;
  for (int32_t step = 0; !are_neighbours(low, high); ++step) {
    const Key middle = middle_key<Format>(low, high, step);
    const int32_t above = count_above(keys, padded, middle);
    if (above == k)
      return {middle, 0};
    if (above > k) {
      low = middle;
    } else {
      high = middle;
      above_high = above;
    }
  }
  return {high, k - above_high};
}

// Bits of the kept lanes of consecutive vectors.
template <class Key>
class KeptLanes {
 public:
  explicit KeptLanes(Cut<Key> cut)
      : pivot_(broadcast(cut.pivot)), ties_(cut.ties) {}

  uint64_t operator()(Vector<Key> keys) {
    uint64_t kept = greater_bits<Key>(keys, pivot_);
    if (ties_ > 0) {
      uint64_t equal = greater_bits<Key>(keys, pivot_ - 1) & ~kept;
      for (; equal != 0 && ties_ > 0; equal &= equal - 1, --ties_)
        kept |= equal & -equal;
    }
    return kept;
  }

 private:
  const Vector<Key> pivot_;
  int32_t ties_;
};

template <class Format, RankBy kBy>
class RowSelector {
  using Key = typename Format::Bits;
  static constexpr int32_t kStep = kLanes<Key>;
  static constexpr int32_t kBlock = 4;
  static constexpr Key kBelowAll = KeyRange<Format>::kBelowAll;
  static_assert(kBlock * kStep <= kTopkSlack);

 public:
  // `streams`: whether y is written past the caches.
  RowSelector(int32_t dim, int32_t k, bool streams, void* scratch)
      : dim_(dim),
        k_(k),
        streams_(streams),
        capacity_(topk_capacity(dim, k)),
        keys_(static_cast<Key*>(scratch)),
        indices_(reinterpret_cast<int32_t*>(keys_ + topk_entries(dim, k))) {}

  // Returns the k kept indices of the row x, ascending; they stay until the
  // next call. Unless y is null, writes what is kept and zeros to it.
  const int32_t* select(const Key* x, Key* y) {
    fill(x);
    if (dim_ == capacity_) {
      write_whole(x, y);
      return indices_;
    }
    for (int32_t j = 0; j < capacity_; ++j)
      indices_[j] = j;
    floor_ = kBelowAll;
    cut_back();
    stream(x);
    cut_back();
    if (y != nullptr)
      write_sparse_row<Key>(y, dim_, indices_, k_, streams_,
                            [&](int32_t i) { return value(x[indices_[i]]); });
    return indices_;
  }

  // What a kept entry becomes: x, or max(x, 0); NaN stays.
  static Key value(Key x) {
    if constexpr (kBy == RankBy::kRelu)
      return order_key<Format, kBy>(x) == 0 ? Key{0} : x;
    return x;
  }

 private:
  static Vector<Key> key(const Key* x) {
    return order_key<Format, kBy>(load(x));
  }

  // Keys of the first `capacity_` values.
  void fill(const Key* x) {
    int32_t j = 0;
    for (; j + kStep <= capacity_; j += kStep)
      store<Key>(keys_ + j, key(x + j));
    if (j < capacity_)
      store<Key>(keys_ + j,
                 order_key<Format, kBy>(load_some(x + j, capacity_ - j)));
    count_ = capacity_;
    pad();
  }

  // The end of select() for a row whose keys all fit into the buffer.
  void write_whole(const Key* x, Key* y) {
    KeptLanes<Key> kept_lanes(find_cut<Format>(keys_, dim_, k_, kBelowAll));
    int32_t* next = indices_;
    for (int32_t j = 0; j < dim_; j += kStep) {
      const Vector<Key> keys = load(keys_ + j);
      uint64_t kept = kept_lanes(keys);
      next = append_positions(kept, j, next);
      if (y == nullptr)
        continue;
      if constexpr (kBy == RankBy::kRelu)
        kept &= greater_bits<Key>(keys, Vector<Key>{});
      if (j + kStep <= dim_ && streams_ && is_aligned(y + j))
        store_past_caches<Key>(y + j, select_lanes<Key>(kept, load(x + j)));
      else if (j + kStep <= dim_)
        store<Key>(y + j, select_lanes<Key>(kept, load(x + j)));
      else
        store_some<Key>(y + j,
                        select_lanes<Key>(kept, load_some(x + j, dim_ - j)),
                        dim_ - j);
    }
  }

  void stream(const Key* x) {
    int32_t j = capacity_;
    Vector<Key> pivot = broadcast(pivot_);
    for (; j + kBlock * kStep <= dim_; j += kBlock * kStep) {
      Vector<Key> best = key(x + j);
      for (int32_t i = 1; i < kBlock; ++i)
        best = higher<Key>(best, key(x + j + i * kStep));
      if (greater_bits<Key>(best, pivot) == 0)
        continue;
      for (int32_t i = 0; i < kBlock; ++i)
        push(key(x + j + i * kStep), j + i * kStep, kStep);
      if (count_ >= capacity_) {
        cut_back();
        pivot = broadcast(pivot_);
      }
    }
    for (; j < dim_; j += kStep) {
      const int32_t valid = dim_ - j < kStep ? dim_ - j : kStep;
      push(order_key<Format, kBy>(load_some(x + j, valid)), j, valid);
    }
  }

  // Appends those of the first `valid` lanes that beat the pivot.
  void push(Vector<Key> keys, int32_t first_index, int32_t valid) {
    uint64_t bits = greater_bits<Key>(keys, broadcast(pivot_));
    bits &= (uint64_t{1} << (valid - 1) << 1) - 1;
    if (bits == 0)
      return;
    Key lanes[kStep];
    store<Key>(lanes, keys);
    for (; bits != 0; bits &= bits - 1) {
      const int32_t lane = __builtin_ctzll(bits);
      keys_[count_] = lanes[lane];
      indices_[count_] = first_index + lane;
      ++count_;
    }
  }

  // Leaves the k best candidates, in order.
  void cut_back() {
    pad();
    const Cut<Key> cut = find_cut<Format>(keys_, count_, k_, floor_);
    KeptLanes<Key> kept_lanes(cut);
    int32_t next = 0;
    for (int32_t j = 0; j < count_; j += kStep) {
      uint64_t kept = kept_lanes(load(keys_ + j));
      for (; kept != 0; kept &= kept - 1, ++next) {
        const int32_t from = j + __builtin_ctzll(kept);
        keys_[next] = keys_[from];
        indices_[next] = indices_[from];
      }
    }
    count_ = k_;
    pivot_ = cut.pivot;
    floor_ = cut.ties == 0 ? pivot_ : static_cast<Key>(pivot_ - 1);
  }

  void pad() {
    store<Key>(keys_ + count_, broadcast(KeyRange<Format>::kNothing));
  }

  const int32_t dim_;
  const int32_t k_;
  const bool streams_;
  const int32_t capacity_;
  int32_t count_ = 0;
  Key pivot_ = 0;  // a later key that equals it loses to those before
  Key floor_ = 0;  // at least k candidates are above
  Key* const keys_;
  int32_t* const indices_;
};

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
