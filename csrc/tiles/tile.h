// Products of tiles of bfloat16 with sums in float32: AMX's, or loops that
// compute the same. Intel's Software Developer's Manual, volume 2, TDPBF16PS.
//
//   sums (16, 16) += left (16, 32) right (32, 16)
//
// The rows of `left` are 64 bytes, a run of 32 values; row i of `right` holds
// the values (2 i, column) and (2 i + 1, column), side by side, of 16 columns.
#pragma once

#include <cstdint>

#include "cpu/simd.h"

namespace sparse_aasist::SPARSE_AASIST_SIMD {

constexpr int kTileRows = 16;
constexpr int kTileColumns = 16;  // of sums
constexpr int kTileDepth = 32;    // values of a row of `left`
constexpr int kTileBytes = 64;    // of every row
constexpr int kTiles = 8;         // registers

constexpr int64_t kTileValues = kTileRows * kTileDepth;  // of bfloat16
constexpr int64_t kTileSums = kTileRows * kTileColumns;

#if defined(__AMX_BF16__)

// A thread's tiles are there, all of the full size, while one of these lives.
class TileSession {
 public:
  TileSession() {
    struct {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    for (int tile = 0; tile < kTiles; ++tile) {
      config.bytes[tile] = kTileBytes;
      config.rows[tile] = kTileRows;
    }
    // Not the intrinsic: GCC 12's reads 8 bytes for all that it knows, and the
    // stores to the others may be left out.
    __asm__ volatile("ldtilecfg %0" ::"m"(config));
  }
  ~TileSession() { __asm__ volatile("tilerelease"); }
  TileSession(const TileSession&) = delete;
  TileSession& operator=(const TileSession&) = delete;
};

// Not the intrinsics: compilers take their tiles as text or as numbers.
template <int tile>
inline void zero_tile() {
  __asm__ volatile("tilezero %%tmm%c0" ::"i"(tile));
}

// Rows lie `stride` bytes apart.
template <int tile>
inline void load_tile(const void* from, int64_t stride) {
  __asm__ volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(tile), "r"(from),
                   "r"(stride)
                   : "memory");
}

template <int tile>
inline void store_tile(void* to, int64_t stride) {
  __asm__ volatile("tilestored %%tmm%c0, (%1,%2,1)" ::"i"(tile), "r"(to),
                   "r"(stride)
                   : "memory");
}

template <int sums, int left, int right>
inline void multiply_tiles() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sums),
                   "i"(left), "i"(right));
}

#else

struct TileRegister {
  alignas(kTileBytes) unsigned char bytes[kTileRows][kTileBytes];
};

struct TileSession {
  TileSession() {}  // as AMX's, not a mere declaration
  TileSession(const TileSession&) = delete;
  TileSession& operator=(const TileSession&) = delete;
};

inline TileRegister& tile_register(int tile) {
  static thread_local TileRegister registers[kTiles];
  return registers[tile];
}

template <int tile>
inline void zero_tile() {
  tile_register(tile) = {};
}

template <int tile>
inline void load_tile(const void* from, int64_t stride) {
  for (int row = 0; row < kTileRows; ++row)
    __builtin_memcpy(tile_register(tile).bytes[row],
                     static_cast<const char*>(from) + row * stride, kTileBytes);
}

template <int tile>
inline void store_tile(void* to, int64_t stride) {
  for (int row = 0; row < kTileRows; ++row)
    __builtin_memcpy(static_cast<char*>(to) + row * stride,
                     tile_register(tile).bytes[row], kTileBytes);
}

template <int sums, int left, int right>
inline void multiply_tiles() {
  constexpr int kPair = 2;
  const auto widened_tile = [](int tile, float (&to)[kTileRows][kTileDepth]) {
    for (int row = 0; row < kTileRows; ++row)
      for (int i = 0; i < kTileDepth; ++i) {
        uint16_t half;
        __builtin_memcpy(&half, tile_register(tile).bytes[row] + 2 * i,
                         sizeof(half));
        const uint32_t bits = static_cast<uint32_t>(half) << 16;
        __builtin_memcpy(&to[row][i], &bits, sizeof(bits));
      }
  };
  float a[kTileRows][kTileDepth], b[kTileRows][kTileDepth];
  widened_tile(left, a);
  widened_tile(right, b);
  for (int row = 0; row < kTileRows; ++row) {
    float to[kTileColumns];
    __builtin_memcpy(to, tile_register(sums).bytes[row], sizeof(to));
    for (int i = 0; i < kTileDepth; ++i)
      for (int column = 0; column < kTileColumns; ++column)
        to[column] += a[row][i] * b[i / kPair][kPair * column + i % kPair];
    __builtin_memcpy(tile_register(sums).bytes[row], to, sizeof(to));
  }
}

#endif

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
