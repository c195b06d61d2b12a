// Converts activations to the form that the products read: 8-bit integers with a float for every block of
// columns, and the words of a tile's tokens side by side.
//
// Rounding uses only additions and multiplications that IEEE 754 defines, so that every processor
// gets the same bits. If a value of a block is not finite, the block's factor is NaN. The rows of that
// token are then NaN, and those of other tokens are not affected.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "formats.h"

namespace airdraft {

// Smaller values count as 0, because 127 divided by the largest one must be finite.
constexpr float LEAST = 0x1p-100f;

// Computes the factor of one block and its integers.
template <int COLUMNS> static inline float quantise(const float * x, int8_t * whole) {
    uint32_t most = 0;
    for (int k = 0; k < COLUMNS; k++) {
        uint32_t bits;
        memcpy(&bits, x + k, 4);
        bits &= 0x7fffffff;
        most = most > bits ? most : bits;
    }
    float largest;
    memcpy(&largest, &most, 4);
    const bool is_finite = most < 0x7f800000;
    if (!is_finite || largest < LEAST) {
        memset(whole, 0, COLUMNS);
        return is_finite ? 0.0f : NAN;
    }
    const float factor = 127.0f / largest;
    for (int k = 0; k < COLUMNS; k++) {
        // Adding 1.5 * 2^23 leaves no fractional bits: it rounds to the nearest, ties to even.
        const float shifted = x[k] * factor + 0x1.8p23f;
        int32_t bits;
        memcpy(&bits, &shifted, 4);
        whole[k] = (int8_t) (bits - 0x4b400000);
    }
    return largest / 127.0f;
}

static inline int32_t word_of(float x) {
    int32_t word;
    memcpy(&word, &x, 4);
    return word;
}

static inline int32_t two(int first, int second) {
    return (int32_t) ((uint32_t) (uint16_t) first | (uint32_t) second << 16);
}

// Computes the sums of the first two and of the last two of every four columns.
static inline void sum_up(const int8_t * whole, int columns, int & first, int & second) {
    first = second = 0;
    for (int k = 0; k < columns; k += 4) {
        first += whole[k] + whole[k + 1];
        second += whole[k + 2] + whole[k + 3];
    }
}

// Packs one block of token t of a tile of `width` tokens; x: the token's floats.
template <class I, class F> static void pack(const float * x, int32_t * tile, int width, int t) {
    tile += t;
    if constexpr (std::is_base_of_v<FloatWords, F>) {
        for (int k = 0; k < F::columns; k++) tile[k * width] = word_of(x[k]);
    } else {
        alignas(64) int8_t whole[F::columns];
        alignas(64) int32_t words[F::columns / 4];
        int first, second;
        if constexpr (std::is_base_of_v<SuperWords, F>) {
            tile[SuperWords::d * width] = word_of(quantise<256>(x, whole));
            for (int p = 0; p < 4; p++) {
                int sums[2];
                for (int i = 0; i < 2; i++) {
                    sum_up(whole + 64 * p + 32 * i, 32, first, second);
                    sums[i] = first + second;
                }
                tile[(SuperWords::sums + p) * width] = two(sums[0], sums[1]);
            }
            if (F::times) {
                for (int j = 0; j < 16; j++) {
                    sum_up(whole + 16 * j, 16, first, second);
                    tile[(SuperWords::offsets + j) * width] = I::offset(first, second, F::times);
                }
            }
        } else {
            for (int half = 0; half < 2; half++) {
                tile[(PairWords::d + half) * width] = word_of(quantise<32>(x + 32 * half, whole + 32 * half));
                sum_up(whole + 32 * half, 32, first, second);
                tile[(PairWords::offsets + half) * width] =
                    F::times == 128 ? I::offset8(first, second) : I::offset(first, second, F::times);
            }
        }
        memcpy(words, whole, sizeof words);
        for (int k = 0; k < F::columns / 4; k++) tile[k * width] = words[k];
    }
}

}  // namespace airdraft
