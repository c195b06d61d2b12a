// AVX512 with VNNI: sixteen rows in one register.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "isa_x86_transposed.h"
#include "layout.h"

// The namespace keeps this code inside the file that includes it: others are compiled for other instructions.
namespace airdraft {
namespace {

#define INLINE __attribute__((always_inline)) static inline

struct Avx512 {
    static constexpr int most_tokens = 16;
    static constexpr bool narrow = false;
    using Bytes = __m512i;
    using Ints = __m512i;
    using Dots = __m512i;
    using Scale = __m512i;
    using Pairs = __m512i;
    using Floats = __m512;

    static int32_t offset(int first, int second, int times) { return -times * (first + second); }
    static int32_t offset8(int first, int second) { return -128 * (first + second); }

    INLINE void fetch(const void * at) { _mm_prefetch((const char *) at, _MM_HINT_T0); }
    INLINE Bytes load(const uint8_t * at) { return _mm512_loadu_si512(at); }
    INLINE void store(uint8_t * at, Bytes v) { _mm512_storeu_si512(at, v); }
    INLINE Bytes bits(Bytes v, int mask) { return _mm512_and_si512(v, _mm512_set1_epi8((char) mask)); }
    // (v & mask) | (other & ~mask)
    INLINE Bytes choose(int mask, Bytes v, Bytes other) {
        return _mm512_ternarylogic_epi32(_mm512_set1_epi8((char) mask), v, other, 0xCA);
    }
    template <int N> INLINE Bytes right(Bytes v) { return _mm512_srli_epi16(v, N); }
    template <int N> INLINE Bytes left(Bytes v) { return _mm512_slli_epi16(v, N); }

    INLINE Ints zero() { return _mm512_setzero_si512(); }
    INLINE Dots start(int32_t offset) { return _mm512_set1_epi32(offset); }
    // This form of the instruction reads x from memory and repeats it in all lanes. GCC 12 repeats x by an
    // instruction of its own, with which products of Q4_K take 12 to 16 % longer (Xeon model 207, 1 to 64 tokens).
    INLINE void dot(Dots & sum, Bytes w, const int32_t & x) {
        asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(w), "m"(x));
    }
    INLINE void dot8(Ints & sum, Bytes w, const int32_t & x) { dot(sum, w, x); }
    INLINE Ints start8(int32_t offset) { return _mm512_set1_epi32(offset); }
    INLINE Ints total(Dots sum) { return sum; }
    INLINE Scale scale(const uint8_t * at) {
        return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *) at));
    }
    INLINE Scale scale(const int8_t * at) {
        return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *) at));
    }
    INLINE void add_scaled(Ints & sum, Dots dots, Scale s) {
        sum = _mm512_add_epi32(sum, _mm512_mullo_epi32(dots, s));
    }
    INLINE Pairs pairs(const uint8_t * at) {
        return _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *) at));
    }
    INLINE void add_pairs(Ints & sum, Pairs p, const int32_t & x) {
        asm("vpdpwssd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(p), "m"(x));
    }

    INLINE Floats halves(const half_bits * at) {
        return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) at));
    }
    INLINE Floats load(const float * at) { return _mm512_loadu_ps(at); }
    INLINE void store(float * at, Floats v) { _mm512_storeu_ps(at, v); }
    INLINE Floats floats(Ints v) { return _mm512_cvtepi32_ps(v); }
    INLINE Floats all(float v) { return _mm512_set1_ps(v); }
    INLINE Floats nothing() { return _mm512_setzero_ps(); }
    INLINE Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
    INLINE Floats subtract(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
    INLINE Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
    INLINE Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
    INLINE Floats multiply_subtract(Floats a, Floats b, Floats c) { return _mm512_fmsub_ps(a, b, c); }
    // Returns b if either one is NaN.
    INLINE Floats larger(Floats a, Floats b) { return _mm512_max_ps(a, b); }
    // Transposes sixteen columns of sixteen rows of 16-bit floats: out[column * stride + row].
    INLINE void transposed(const half_bits * const * rows, float * out, int stride) { transposed16(rows, out, stride); }
    // `v`, or 0 where x is below the limit.
    INLINE Floats unless_below(Floats x, float limit, Floats v) {
        return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, all(limit), _CMP_NLT_UQ), v);
    }
    // Returns 2^n for the argument n + 1.5 * 2^23.
    INLINE Floats power_of_two(Floats shifted) {
        const __m512i n = _mm512_sub_epi32(_mm512_castps_si512(shifted), _mm512_set1_epi32(0x4b400000 - 127));
        return _mm512_castsi512_ps(_mm512_slli_epi32(n, 23));
    }
    // Halves are added repeatedly: lanes i and i + 8, then i + 4, i + 2, i + 1.
    INLINE float sum(Floats v) {
        const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
        __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        four = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
    }
};

}  // namespace
}  // namespace airdraft
