// Vectors of integers as wide as the compiler may use. A source that includes
// this is compiled once per level of simd_level.h: its code lives in the
// namespace SPARSE_AASIST_SIMD, and calls no inline function of the standard
// library, of which the linker would keep one level's copy for all.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace sparse_aasist::SPARSE_AASIST_SIMD {

#if defined(__AVX512BW__) && defined(__AVX512DQ__)
constexpr int kVectorBytes = 64;
constexpr bool kHasMaskRegisters = true;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
constexpr bool kHasMaskRegisters = false;
#else
constexpr int kVectorBytes = 16;
constexpr bool kHasMaskRegisters = false;
#endif

template <class T>
struct VectorOf {
  typedef T Type __attribute__((vector_size(kVectorBytes)));
};
template <class T>
using Vector = typename VectorOf<T>::Type;

template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <class T>
inline Vector<T> load(const T* from) {
  Vector<T> vector;
  __builtin_memcpy(&vector, from, sizeof(vector));
  return vector;
}

template <class T>
inline void store(T* to, Vector<T> vector) {
  __builtin_memcpy(to, &vector, sizeof(vector));
}

// The first `count` lanes, zeros behind them.
template <class T>
inline Vector<T> load_some(const T* from, int32_t count) {
  Vector<T> vector{};
  __builtin_memcpy(&vector, from, static_cast<size_t>(count) * sizeof(T));
  return vector;
}

template <class T>
inline void store_some(T* to, Vector<T> vector, int32_t count) {
  __builtin_memcpy(to, &vector, static_cast<size_t>(count) * sizeof(T));
}

// Writes past the caches to an address that is a multiple of kVectorBytes;
// other threads see it after fence().
template <class T>
inline void store_past_caches(T* to, Vector<T> vector) {
#if defined(__AVX512BW__) && defined(__AVX512DQ__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to),
                      reinterpret_cast<__m512i>(vector));
#elif defined(__AVX2__)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to),
                      reinterpret_cast<__m256i>(vector));
#elif defined(__SSE2__)
  _mm_stream_si128(reinterpret_cast<__m128i*>(to),
                   reinterpret_cast<__m128i>(vector));
#else
  store<T>(to, vector);
#endif
}

inline void fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

inline bool is_aligned(const void* address) {
  return reinterpret_cast<uintptr_t>(address) % kVectorBytes == 0;
}

template <class T>
inline Vector<T> broadcast(T value) {
  return Vector<T>{} + value;
}

template <class T>
inline Vector<T> higher(Vector<T> a, Vector<T> b) {
  return a > b ? a : b;
}

template <class T>
inline Vector<T> lower(Vector<T> a, Vector<T> b) {
  return a < b ? a : b;
}

// One bit per lane, lane 0 lowest: whether a > b.
template <class T>
inline uint64_t greater_bits(Vector<T> a, Vector<T> b) {
#if defined(__AVX512BW__) && defined(__AVX512DQ__)
  const __m512i x = reinterpret_cast<__m512i>(a);
  const __m512i y = reinterpret_cast<__m512i>(b);
  if constexpr (sizeof(T) == 2)
    return _mm512_cmpgt_epi16_mask(x, y);
  else if constexpr (sizeof(T) == 4)
    return _mm512_cmpgt_epi32_mask(x, y);
  else
    return _mm512_cmpgt_epi64_mask(x, y);
#elif defined(__AVX2__)
  const __m256i mask = reinterpret_cast<__m256i>(a > b);
  int bits;
  if constexpr (sizeof(T) == 2)
    bits = _mm_movemask_epi8(_mm_packs_epi16(
        _mm256_castsi256_si128(mask), _mm256_extracti128_si256(mask, 1)));
  else if constexpr (sizeof(T) == 4)
    bits = _mm256_movemask_ps(_mm256_castsi256_ps(mask));
  else
    bits = _mm256_movemask_pd(_mm256_castsi256_pd(mask));
  return static_cast<uint64_t>(bits);
#elif defined(__SSE2__)
  const __m128i mask = reinterpret_cast<__m128i>(a > b);
  int bits;
  if constexpr (sizeof(T) == 2)
    bits = _mm_movemask_epi8(_mm_packs_epi16(mask, _mm_setzero_si128()));
  else if constexpr (sizeof(T) == 4)
    bits = _mm_movemask_ps(_mm_castsi128_ps(mask));
  else
    bits = _mm_movemask_pd(_mm_castsi128_pd(mask));
  return static_cast<uint64_t>(bits);
#else
  const Vector<T> mask = a > b;
  uint64_t bits = 0;
  for (int lane = 0; lane < kLanes<T>; ++lane)
    bits |= static_cast<uint64_t>(mask[lane] & 1) << lane;
  return bits;
#endif
}

// The lanes whose bit is set, zeros elsewhere.
template <class T>
inline Vector<T> select_lanes(uint64_t bits, Vector<T> vector) {
#if defined(__AVX512BW__) && defined(__AVX512DQ__)
  const __m512i x = reinterpret_cast<__m512i>(vector);
  if constexpr (sizeof(T) == 2)
    return reinterpret_cast<Vector<T>>(_mm512_maskz_mov_epi16(bits, x));
  else if constexpr (sizeof(T) == 4)
    return reinterpret_cast<Vector<T>>(_mm512_maskz_mov_epi32(bits, x));
  else
    return reinterpret_cast<Vector<T>>(_mm512_maskz_mov_epi64(bits, x));
#else
  static_assert(kLanes<T> <= 8 * static_cast<int>(sizeof(T)));
  Vector<T> lane_bit;
  for (int lane = 0; lane < kLanes<T>; ++lane)
    lane_bit[lane] = static_cast<T>(uint64_t{1} << lane);
  const Vector<T> mine = broadcast(static_cast<T>(bits)) & lane_bit;
  return (mine != 0) & vector;
#endif
}

// Appends first + position of every set bit to `to`, ascending; returns the
// new end. Up to 16 entries behind it are overwritten.
inline int32_t* append_positions(uint64_t bits, int32_t first, int32_t* to) {
#if defined(__AVX512BW__) && defined(__AVX512DQ__)
  const __m512i lanes =
      _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  for (; bits != 0; bits >>= 16, first += 16) {
    const __mmask16 mask = static_cast<__mmask16>(bits);
    const __m512i indices = _mm512_add_epi32(lanes, _mm512_set1_epi32(first));
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(mask, indices));
    to += __builtin_popcount(mask);
  }
#else
  for (; bits != 0; bits &= bits - 1)
    *to++ = first + __builtin_ctzll(bits);
#endif
  return to;
}

}  // namespace sparse_aasist::SPARSE_AASIST_SIMD
