// AVX2, and AVX-VNNI where AIRDRAFT_VNNI is defined: sixteen rows in two registers.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "isa_x86_transposed.h"
#include "layout.h"

// The namespace keeps this code inside the file that includes it: others are compiled for other instructions.
namespace airdraft {
namespace {

#define INLINE __attribute__((always_inline)) static inline

// Applies `expression` to both registers, whose index in it is i.
#define BOTH(Type, expression) \
    Type out;                  \
    {                          \
        const int i = 0;       \
        out.v[i] = expression; \
    }                          \
    {                          \
        const int i = 1;       \
        out.v[i] = expression; \
    }                          \
    return out

struct Avx2 {
    struct Two {
        __m256i v[2];
    };
    struct TwoFloats {
        __m256 v[2];
    };
    using Bytes = Two;
    using Ints = Two;
    using Dots = Two;
    using Scale = Two;
    using Pairs = Two;
    using Floats = TwoFloats;

    INLINE __m256i each(int32_t x) { return _mm256_set1_epi32(x); }

#ifdef AIRDRAFT_VNNI
    static constexpr int most_tokens = 5;
    static constexpr bool narrow = false;
    static int32_t offset(int first, int second, int times) { return -times * (first + second); }
    static int32_t offset8(int first, int second) { return -128 * (first + second); }
    INLINE void dot(Dots & sum, Bytes w, int32_t x) {
        sum.v[0] = _mm256_dpbusd_avx_epi32(sum.v[0], w.v[0], each(x));
        sum.v[1] = _mm256_dpbusd_avx_epi32(sum.v[1], w.v[1], each(x));
    }
    INLINE void dot8(Ints & sum, Bytes w, int32_t x) { dot(sum, w, x); }
    INLINE Ints total(Dots sum) { return sum; }
    INLINE __m256i widened(__m128i bytes, bool is_signed) {
        return is_signed ? _mm256_cvtepi8_epi32(bytes) : _mm256_cvtepu8_epi32(bytes);
    }
    INLINE void add_scaled(Ints & sum, Dots dots, Scale s) {
        for (int i = 0; i < 2; i++) {
            sum.v[i] = _mm256_add_epi32(sum.v[i], _mm256_mullo_epi32(dots.v[i], s.v[i]));
        }
    }
#else
    // Sums of products have 16 bits until they are scaled. There are two for each row, of the even and
    // odd halves of every four columns.
    static constexpr int most_tokens = 4;
    static constexpr bool narrow = true;
    static int32_t offset(int first, int second, int times) {
        return (int32_t) ((uint32_t) (uint16_t) (-times * first) | (uint32_t) (uint16_t) (-times * second) << 16);
    }
    static int32_t offset8(int, int) { return 0; }
    INLINE void dot(Dots & sum, Bytes w, int32_t x) {
        for (int i = 0; i < 2; i++) {
            sum.v[i] = _mm256_add_epi16(sum.v[i], _mm256_maddubs_epi16(w.v[i], each(x)));
            // Without this GCC adds up in another order and spills every product.
            asm("" : "+x"(sum.v[i]));
        }
    }
    // The instruction needs one unsigned operand, so the weight's sign is moved to the activation. The
    // sum of two products -128 * 127 just fits into 16 bits.
    INLINE void dot8(Ints & sum, Bytes w, int32_t x) {
        for (int i = 0; i < 2; i++) {
            const __m256i weight = _mm256_xor_si256(w.v[i], _mm256_set1_epi8((char) 0x80));
            const __m256i products = _mm256_maddubs_epi16(_mm256_abs_epi8(weight), _mm256_sign_epi8(each(x), weight));
            sum.v[i] = _mm256_add_epi32(sum.v[i], _mm256_madd_epi16(products, _mm256_set1_epi16(1)));
        }
    }
    INLINE Ints total(Dots sum) { BOTH(Two, _mm256_madd_epi16(sum.v[i], _mm256_set1_epi16(1))); }
    INLINE __m256i widened(__m128i bytes, bool is_signed) {
        const __m128i twice = _mm_unpacklo_epi8(bytes, bytes);
        return is_signed ? _mm256_cvtepi8_epi16(twice) : _mm256_cvtepu8_epi16(twice);
    }
    INLINE void add_scaled(Ints & sum, Dots dots, Scale s) {
        for (int i = 0; i < 2; i++) {
            sum.v[i] = _mm256_add_epi32(sum.v[i], _mm256_madd_epi16(dots.v[i], s.v[i]));
        }
    }
#endif

    INLINE void fetch(const void * at) { _mm_prefetch((const char *) at, _MM_HINT_T0); }
    INLINE Bytes load(const uint8_t * at) { BOTH(Two, _mm256_loadu_si256((const __m256i *) (at + 32 * i))); }
    INLINE void store(uint8_t * at, Bytes b) {
        _mm256_storeu_si256((__m256i *) at, b.v[0]);
        _mm256_storeu_si256((__m256i *) (at + 32), b.v[1]);
    }
    INLINE Bytes bits(Bytes b, int mask) { BOTH(Two, _mm256_and_si256(b.v[i], _mm256_set1_epi8((char) mask))); }
    // (b & mask) | (other & ~mask)
    INLINE Bytes choose(int mask, Bytes b, Bytes other) {
        BOTH(Two, _mm256_or_si256(_mm256_and_si256(b.v[i], _mm256_set1_epi8((char) mask)),
                                  _mm256_and_si256(other.v[i], _mm256_set1_epi8((char) ~mask))));
    }
    template <int N> INLINE Bytes right(Bytes b) { BOTH(Two, _mm256_srli_epi16(b.v[i], N)); }
    template <int N> INLINE Bytes left(Bytes b) { BOTH(Two, _mm256_slli_epi16(b.v[i], N)); }

    INLINE Ints zero() { BOTH(Two, _mm256_setzero_si256()); }
    INLINE Dots start(int32_t offset) { BOTH(Two, each(offset)); }
    INLINE Ints start8(int32_t offset) { BOTH(Two, each(offset)); }
    INLINE __m128i eight(const void * at) { return _mm_loadl_epi64((const __m128i *) at); }
    INLINE Scale scale(const uint8_t * at) { BOTH(Two, widened(eight(at + 8 * i), false)); }
    INLINE Scale scale(const int8_t * at) { BOTH(Two, widened(eight(at + 8 * i), true)); }
    INLINE Pairs pairs(const uint8_t * at) {
        BOTH(Two, _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *) (at + 16 * i))));
    }
    INLINE void add_pairs(Ints & sum, Pairs p, int32_t x) {
        for (int i = 0; i < 2; i++) {
            sum.v[i] = _mm256_add_epi32(sum.v[i], _mm256_madd_epi16(p.v[i], each(x)));
        }
    }

    INLINE Floats halves(const half_bits * at) {
        BOTH(TwoFloats, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) (at + 8 * i))));
    }
    INLINE Floats load(const float * at) { BOTH(TwoFloats, _mm256_loadu_ps(at + 8 * i)); }
    INLINE void store(float * at, Floats f) {
        _mm256_storeu_ps(at, f.v[0]);
        _mm256_storeu_ps(at + 8, f.v[1]);
    }
    INLINE Floats floats(Ints b) { BOTH(TwoFloats, _mm256_cvtepi32_ps(b.v[i])); }
    INLINE Floats all(float x) { BOTH(TwoFloats, ((void) i, _mm256_set1_ps(x))); }
    INLINE Floats nothing() { BOTH(TwoFloats, ((void) i, _mm256_setzero_ps())); }
    INLINE Floats add(Floats a, Floats b) { BOTH(TwoFloats, _mm256_add_ps(a.v[i], b.v[i])); }
    INLINE Floats subtract(Floats a, Floats b) { BOTH(TwoFloats, _mm256_sub_ps(a.v[i], b.v[i])); }
    INLINE Floats multiply(Floats a, Floats b) { BOTH(TwoFloats, _mm256_mul_ps(a.v[i], b.v[i])); }
    INLINE Floats multiply_add(Floats a, Floats b, Floats c) {
        BOTH(TwoFloats, _mm256_fmadd_ps(a.v[i], b.v[i], c.v[i]));
    }
    INLINE Floats multiply_subtract(Floats a, Floats b, Floats c) {
        BOTH(TwoFloats, _mm256_fmsub_ps(a.v[i], b.v[i], c.v[i]));
    }
    // Returns b if either one is NaN.
    INLINE Floats larger(Floats a, Floats b) { BOTH(TwoFloats, _mm256_max_ps(a.v[i], b.v[i])); }
    // Transposes sixteen columns of sixteen rows of 16-bit floats: out[column * stride + row].
    INLINE void transposed(const half_bits * const * rows, float * out, int stride) { transposed16(rows, out, stride); }
    // `f`, or 0 where x is below the limit.
    INLINE Floats unless_below(Floats x, float limit, Floats f) {
        BOTH(TwoFloats, _mm256_and_ps(_mm256_cmp_ps(x.v[i], _mm256_set1_ps(limit), _CMP_NLT_UQ), f.v[i]));
    }
    // 2^n of n + 1.5 * 2^23.
    INLINE Floats power_of_two(Floats shifted) {
        BOTH(TwoFloats, _mm256_castsi256_ps(_mm256_slli_epi32(
                            _mm256_sub_epi32(_mm256_castps_si256(shifted.v[i]), each(0x4b400000 - 127)), 23)));
    }
    // Halves are added repeatedly: lanes i and i + 8, then i + 4, i + 2, i + 1.
    INLINE float sum(Floats f) {
        const __m256 eight = _mm256_add_ps(f.v[0], f.v[1]);
        __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        four = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
    }
};

#undef BOTH

}  // namespace
}  // namespace airdraft
