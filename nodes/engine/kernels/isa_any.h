// For any processor: the same arithmetic, lane by lane. It is slow unless the compiler vectorises it.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "layout.h"

// The namespace keeps this code inside the file that includes it: others are compiled for other instructions.
namespace airdraft {
namespace {

// Unrolled code would take minutes to compile and is not faster.
#define UNROLL
#define INLINE static inline

struct AnyProcessor {
    struct Bytes {
        uint8_t v[VECTOR];
    };
    struct Ints {
        int32_t v[ROWS];
    };
    struct Pairs {
        int16_t v[2 * ROWS];
    };
    struct Floats {
        float v[ROWS];
    };
    using Dots = Ints;
    using Scale = Ints;

    static constexpr int most_tokens = 2;
    static constexpr bool narrow = false;
    static int32_t offset(int first, int second, int times) { return -times * (first + second); }
    static int32_t offset8(int first, int second) { return -128 * (first + second); }

    INLINE void fetch(const void * at) { __builtin_prefetch(at); }
    INLINE Bytes load(const uint8_t * at) {
        Bytes out;
        memcpy(out.v, at, VECTOR);
        return out;
    }
    INLINE void store(uint8_t * at, const Bytes & b) { memcpy(at, b.v, VECTOR); }
    INLINE Bytes bits(Bytes b, int mask) {
        for (auto & byte : b.v) byte &= mask;
        return b;
    }
    INLINE Bytes choose(int mask, Bytes b, const Bytes & other) {
        for (int i = 0; i < VECTOR; i++) b.v[i] = (b.v[i] & mask) | (other.v[i] & ~mask);
        return b;
    }
    // This shifts bytes, others shift 16 bits. Bits that come from a neighbouring byte are never used.
    template <int N> INLINE Bytes right(Bytes b) {
        for (auto & byte : b.v) byte >>= N;
        return b;
    }
    template <int N> INLINE Bytes left(Bytes b) {
        for (auto & byte : b.v) byte = (uint8_t) (byte << N);
        return b;
    }

    INLINE Ints zero() { return start(0); }
    INLINE Ints start(int32_t offset) {
        Ints out;
        for (auto & lane : out.v) lane = offset;
        return out;
    }
    INLINE Ints start8(int32_t offset) { return start(offset); }
    INLINE void dot(Ints & sum, const Bytes & w, int32_t x) {
        int8_t four[4];
        memcpy(four, &x, 4);
        for (int row = 0; row < ROWS; row++) {
            const uint8_t * weight = w.v + 4 * row;
            sum.v[row] += weight[0] * four[0] + weight[1] * four[1] + weight[2] * four[2] + weight[3] * four[3];
        }
    }
    INLINE void dot8(Ints & sum, const Bytes & w, int32_t x) { dot(sum, w, x); }
    INLINE Ints total(const Ints & sum) { return sum; }
    template <class Byte> INLINE Scale scale(const Byte * at) {
        Scale out;
        for (int row = 0; row < ROWS; row++) out.v[row] = at[row];
        return out;
    }
    INLINE void add_scaled(Ints & sum, const Ints & dots, const Scale & s) {
        for (int row = 0; row < ROWS; row++) sum.v[row] += dots.v[row] * s.v[row];
    }
    INLINE Pairs pairs(const uint8_t * at) {
        Pairs out;
        for (int i = 0; i < 2 * ROWS; i++) out.v[i] = at[i];
        return out;
    }
    INLINE void add_pairs(Ints & sum, const Pairs & p, int32_t x) {
        int16_t two[2];
        memcpy(two, &x, 4);
        for (int row = 0; row < ROWS; row++) sum.v[row] += p.v[2 * row] * two[0] + p.v[2 * row + 1] * two[1];
    }

    INLINE Floats halves(const half_bits * at) {
        Floats out;
        for (int row = 0; row < ROWS; row++) out.v[row] = float_of(at[row]);
        return out;
    }
    INLINE Floats load(const float * at) {
        Floats out;
        memcpy(out.v, at, sizeof out.v);
        return out;
    }
    INLINE void store(float * at, const Floats & f) { memcpy(at, f.v, sizeof f.v); }
    INLINE Floats floats(const Ints & b) {
        Floats out;
        for (int row = 0; row < ROWS; row++) out.v[row] = (float) b.v[row];
        return out;
    }
    INLINE Floats all(float x) {
        Floats out;
        for (auto & lane : out.v) lane = x;
        return out;
    }
    INLINE Floats nothing() { return all(0.0f); }
    INLINE Floats add(Floats a, const Floats & b) {
        for (int row = 0; row < ROWS; row++) a.v[row] += b.v[row];
        return a;
    }
    INLINE Floats subtract(Floats a, const Floats & b) {
        for (int row = 0; row < ROWS; row++) a.v[row] -= b.v[row];
        return a;
    }
    INLINE Floats multiply(Floats a, const Floats & b) {
        for (int row = 0; row < ROWS; row++) a.v[row] *= b.v[row];
        return a;
    }
    INLINE Floats multiply_add(Floats a, const Floats & b, const Floats & c) {
        for (int row = 0; row < ROWS; row++) a.v[row] = __builtin_fmaf(a.v[row], b.v[row], c.v[row]);
        return a;
    }
    INLINE Floats multiply_subtract(Floats a, const Floats & b, const Floats & c) {
        for (int row = 0; row < ROWS; row++) a.v[row] = __builtin_fmaf(a.v[row], b.v[row], -c.v[row]);
        return a;
    }
    // Returns b if either one is NaN.
    INLINE Floats larger(const Floats & a, Floats b) {
        for (int row = 0; row < ROWS; row++) b.v[row] = a.v[row] > b.v[row] ? a.v[row] : b.v[row];
        return b;
    }
    // Transposes sixteen columns of sixteen rows of 16-bit floats: out[column * stride + row].
    INLINE void transposed(const half_bits * const * rows, float * out, int stride) {
        for (int row = 0; row < ROWS; row++) {
            for (int column = 0; column < ROWS; column++) out[column * stride + row] = float_of(rows[row][column]);
        }
    }
    // `f`, or 0 where x is below the limit.
    INLINE Floats unless_below(const Floats & x, float limit, Floats f) {
        for (int row = 0; row < ROWS; row++) f.v[row] = x.v[row] < limit ? 0.0f : f.v[row];
        return f;
    }
    // 2^n of n + 1.5 * 2^23.
    INLINE Floats power_of_two(Floats shifted) {
        for (auto & lane : shifted.v) {
            uint32_t bits;
            memcpy(&bits, &lane, 4);
            bits = (bits - (0x4b400000 - 127)) << 23;
            memcpy(&lane, &bits, 4);
        }
        return shifted;
    }
    // Halves are added repeatedly: lanes i and i + 8, then i + 4, i + 2, i + 1.
    INLINE float sum(Floats f) {
        for (int half = ROWS / 2; half > 0; half /= 2) {
            for (int row = 0; row < half; row++) f.v[row] += f.v[row + half];
        }
        return f.v[0];
    }
};

}  // namespace
}  // namespace airdraft
