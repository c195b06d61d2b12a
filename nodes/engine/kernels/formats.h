// The product of one block of weights with the activations of T tokens, for each format.
//
// add<T>(block, x, sums) adds to sums[t], which holds a float for each of the block's sixteen rows. Results
// depend on the order of additions, so it must not change: exact integer sums inside a block, one or two
// roundings to float for each block, and blocks in ascending order. No result depends on T.
//
// x: the activations of the tile, T words side by side for every four columns (activations.h).
#pragma once

#include <cstdint>
#include <cstring>

#include "layout.h"

namespace airdraft {

#ifndef UNROLL
#define UNROLL _Pragma("GCC unroll 16")
#endif

// Memory is prefetched this many bytes ahead: 4,096 is the same place of the next page, less is too late.
constexpr int AHEAD = 8192;

template <class I> static inline typename I::Floats factor(int32_t word) {
    float x;
    memcpy(&x, &word, sizeof x);
    return I::all(x);
}

// The words of formats with 256 columns in a block.
struct SuperWords {
    static constexpr int columns = 256;
    static constexpr int sums = 64;     // 4 words: sums of 32 columns each, two in a word
    static constexpr int d = 68;        // 1 word: the factor of the integers, as a float
    static constexpr int offsets = 69;  // 16 words: the start values of the sums of 16 columns each
    static constexpr int words = 85;
};

// The words of formats with two blocks of 32 columns each.
struct PairWords {
    static constexpr int columns = 64;
    static constexpr int d = 16;
    static constexpr int offsets = 18;
    static constexpr int words = 20;
};

// The words of formats whose activations stay floats.
struct FloatWords {
    static constexpr int columns = 64;
    static constexpr int words = 64;
};

// Unpacks the scales and minima of a block to bytes: 128 of scales, group by group, and 128 of minima, which
// alternate between two groups as I::pairs needs them.
template <class I> static inline void take_apart(const uint8_t * packed, uint8_t * bytes) {
    const auto a = I::load(packed), b = I::load(packed + VECTOR), c = I::load(packed + 2 * VECTOR);
    I::store(bytes, I::bits(a, 63));
    I::store(bytes + VECTOR, I::bits(I::choose(15, c, I::template right<2>(a)), 63));
    I::store(bytes + 2 * VECTOR, I::bits(b, 63));
    I::store(bytes + 3 * VECTOR, I::bits(I::choose(15, I::template right<4>(c), I::template right<2>(b)), 63));
}

// sums += dx * (d * products - dmin * minima)
template <class I, int T, class Block>
static inline void add_with_minima(const Block & w, const uint8_t * minima, const int32_t * x,
                                   const typename I::Ints (&products)[T], typename I::Floats * sums) {
    typename I::Pairs pairs[4];
    UNROLL for (int p = 0; p < 4; p++) pairs[p] = I::pairs(minima + 2 * ROWS * p);
    const auto d = I::halves(w.d), dmin = I::halves(w.dmin);
    UNROLL for (int t = 0; t < T; t++) {
        auto least = I::zero();
        UNROLL for (int p = 0; p < 4; p++) I::add_pairs(least, pairs[p], x[(SuperWords::sums + p) * T + t]);
        const auto block = I::multiply_subtract(d, I::floats(products[t]), I::multiply(dmin, I::floats(least)));
        sums[t] = I::multiply_add(factor<I>(x[SuperWords::d * T + t]), block, sums[t]);
    }
}

// These two functions must always be inlined, because otherwise the sums are kept in memory.
//
// Calls each(i, weights) for the eight vectors of 32 columns of 4 bits, in order; `low`: four vectors.
template <class I, class Each>
__attribute__((always_inline)) static inline void four_bits(const uint8_t (*low)[VECTOR], Each each) {
    UNROLL for (int i = 0; i < 4; i++) {
        I::fetch(low[i] + AHEAD);
        const auto both = I::load(low[i]);
        each(2 * i, I::bits(both, 15));
        each(2 * i + 1, I::bits(I::template right<4>(both), 15));
    }
}

// The same for 5 bits; `high`: the fifth bits.
template <class I, class Each>
__attribute__((always_inline)) static inline void five_bits(const uint8_t (*low)[VECTOR], const uint8_t * high, Each each) {
    I::fetch(high + AHEAD);
    const auto fifth = I::load(high);
    const auto joined = [](auto four, auto shifted) __attribute__((always_inline)) {
        return I::bits(I::choose(15, four, shifted), 31);
    };
    const auto vector = [&](int i) __attribute__((always_inline)) {
        I::fetch(low[i] + AHEAD);
        return I::load(low[i]);
    };
    auto both = vector(0);
    each(0, joined(both, I::template left<4>(fifth)));
    each(1, joined(I::template right<4>(both), I::template left<3>(fifth)));
    both = vector(1);
    each(2, joined(both, I::template left<2>(fifth)));
    each(3, joined(I::template right<4>(both), I::template left<1>(fifth)));
    both = vector(2);
    each(4, joined(both, fifth));
    each(5, joined(I::template right<4>(both), I::template right<1>(fifth)));
    both = vector(3);
    each(6, joined(both, I::template right<2>(fifth)));
    each(7, joined(I::template right<4>(both), I::template right<3>(fifth)));
}

template <class I> struct Q4K : SuperWords {
    using Block = Q4KBlock;
    static constexpr int times = 0;

    template <int T> static inline void add(const Block & w, const int32_t * x, typename I::Floats * sums) {
        alignas(64) uint8_t scales[4 * VECTOR];
        take_apart<I>(w.scales, scales);
        for (int l = 0; l < 4; l++) I::fetch((const char *) &w + AHEAD + l * 64);
        typename I::Ints products[T];
        UNROLL for (int t = 0; t < T; t++) products[t] = I::zero();
#pragma GCC unroll 1
        for (int group = 0; group < 8; group++) {
            typename I::Dots dots[T];
            UNROLL for (int t = 0; t < T; t++) dots[t] = I::start(0);
            four_bits<I>(w.low + 4 * group, [&](int i, auto weights) __attribute__((always_inline)) {
                UNROLL for (int t = 0; t < T; t++) I::dot(dots[t], weights, x[(8 * group + i) * T + t]);
            });
            const auto scale = I::scale(scales + ROWS * group);
            UNROLL for (int t = 0; t < T; t++) I::add_scaled(products[t], dots[t], scale);
        }
        add_with_minima<I, T>(w, scales + 2 * VECTOR, x, products, sums);
    }
};

template <class I> struct Q5K : SuperWords {
    using Block = Q5KBlock;
    static constexpr int times = 0;

    template <int T> static inline void add(const Block & w, const int32_t * x, typename I::Floats * sums) {
        alignas(64) uint8_t scales[4 * VECTOR];
        take_apart<I>(w.scales, scales);
        for (int l = 0; l < 4; l++) I::fetch((const char *) &w + AHEAD + l * 64);
        typename I::Ints products[T];
        UNROLL for (int t = 0; t < T; t++) products[t] = I::zero();
#pragma GCC unroll 1
        for (int group = 0; group < 8; group++) {
            const auto scale = I::scale(scales + ROWS * group);
            typename I::Dots dots[T];
            UNROLL for (int t = 0; t < T; t++) dots[t] = I::start(0);
            five_bits<I>(w.low + 4 * group, w.high[group], [&](int i, auto weights) __attribute__((always_inline)) {
                UNROLL for (int t = 0; t < T; t++) I::dot(dots[t], weights, x[(8 * group + i) * T + t]);
                if (I::narrow && i == 3) {
                    // The sum of sixteen products 31 * 127 does not fit in 16 bits, that of eight does.
                    UNROLL for (int t = 0; t < T; t++) {
                        I::add_scaled(products[t], dots[t], scale);
                        dots[t] = I::start(0);
                    }
                }
            });
            UNROLL for (int t = 0; t < T; t++) I::add_scaled(products[t], dots[t], scale);
        }
        add_with_minima<I, T>(w, scales + 2 * VECTOR, x, products, sums);
    }
};

template <class I> struct Q6K : SuperWords {
    using Block = Q6KBlock;
    // This number is subtracted from the stored bits of a weight.
    static constexpr int times = 32;

    template <int T> static inline void add(const Block & w, const int32_t * x, typename I::Floats * sums) {
        for (int l = 0; l < 5; l++) I::fetch((const char *) &w + AHEAD + l * 64);
        typename I::Ints products[T];
        UNROLL for (int t = 0; t < T; t++) products[t] = I::zero();
#pragma GCC unroll 1
        for (int group = 0; group < 16; group++) {
            typename I::Dots dots[T];
            UNROLL for (int t = 0; t < T; t++) dots[t] = I::start(x[(offsets + group) * T + t]);
            I::fetch(w.low[2 * group] + AHEAD);
            I::fetch(w.low[2 * group + 1] + AHEAD);
            I::fetch(w.high[group] + AHEAD);
            const auto four = [&](int i, auto low, auto upper) __attribute__((always_inline)) {
                const auto weights = I::bits(I::choose(15, low, upper), 63);
                UNROLL for (int t = 0; t < T; t++) I::dot(dots[t], weights, x[(4 * group + i) * T + t]);
            };
            const auto high = I::load(w.high[group]);
            auto both = I::load(w.low[2 * group]);
            four(0, both, I::template left<4>(high));
            four(1, I::template right<4>(both), I::template left<2>(high));
            both = I::load(w.low[2 * group + 1]);
            four(2, both, high);
            four(3, I::template right<4>(both), I::template right<2>(high));
            const auto scale = I::scale(w.scales[group]);
            UNROLL for (int t = 0; t < T; t++) I::add_scaled(products[t], dots[t], scale);
        }
        const auto d = I::halves(w.d);
        UNROLL for (int t = 0; t < T; t++) {
            const auto block = I::multiply(d, I::floats(products[t]));
            sums[t] = I::multiply_add(factor<I>(x[SuperWords::d * T + t]), block, sums[t]);
        }
    }
};

// sums += (d * dx) * products, for one half of a pair.
template <class I, int T>
static inline void add_block(const half_bits * d, int half, const int32_t * x,
                             const typename I::Ints (&products)[T], typename I::Floats * sums) {
    const auto scale = I::halves(d);
    UNROLL for (int t = 0; t < T; t++) {
        const auto both = I::multiply(scale, factor<I>(x[(PairWords::d + half) * T + t]));
        sums[t] = I::multiply_add(both, I::floats(products[t]), sums[t]);
    }
}

template <class I> struct Q40 : PairWords {
    using Block = Q4Pair;
    static constexpr int times = 8;

    template <int T> static inline void add(const Block & w, const int32_t * x, typename I::Floats * sums) {
        I::fetch((const char *) &w + AHEAD);
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            typename I::Dots dots[T];
            UNROLL for (int t = 0; t < T; t++) dots[t] = I::start(x[(offsets + half) * T + t]);
            four_bits<I>(w.low[half], [&](int i, auto weights) __attribute__((always_inline)) {
                UNROLL for (int t = 0; t < T; t++) I::dot(dots[t], weights, x[(8 * half + i) * T + t]);
            });
            typename I::Ints products[T];
            UNROLL for (int t = 0; t < T; t++) products[t] = I::total(dots[t]);
            add_block<I, T>(w.d[half], half, x, products, sums);
        }
    }
};

template <class I> struct Q50 : PairWords {
    using Block = Q5Pair;
    static constexpr int times = 16;

    template <int T> static inline void add(const Block & w, const int32_t * x, typename I::Floats * sums) {
        I::fetch((const char *) &w + AHEAD);
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            typename I::Dots dots[T];
            UNROLL for (int t = 0; t < T; t++) dots[t] = I::start(x[(offsets + half) * T + t]);
            five_bits<I>(w.low[half], w.high[half], [&](int i, auto weights) __attribute__((always_inline)) {
                UNROLL for (int t = 0; t < T; t++) I::dot(dots[t], weights, x[(8 * half + i) * T + t]);
            });
            typename I::Ints products[T];
            UNROLL for (int t = 0; t < T; t++) products[t] = I::total(dots[t]);
            add_block<I, T>(w.d[half], half, x, products, sums);
        }
    }
};

template <class I> struct Q80 : PairWords {
    using Block = Q8Pair;
    static constexpr int times = 128;

    template <int T> static inline void add(const Block & w, const int32_t * x, typename I::Floats * sums) {
        I::fetch((const char *) &w + AHEAD);
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            typename I::Ints products[T];
            UNROLL for (int t = 0; t < T; t++) products[t] = I::start8(x[(offsets + half) * T + t]);
            UNROLL for (int i = 0; i < 8; i++) {
                I::fetch(w.byte[half][i] + AHEAD);
                const auto weights = I::load(w.byte[half][i]);
                UNROLL for (int t = 0; t < T; t++) I::dot8(products[t], weights, x[(8 * half + i) * T + t]);
            }
            add_block<I, T>(w.d[half], half, x, products, sums);
        }
    }
};

// Adds up a block in four parts, the even and odd columns of each half. Shorter sums have smaller errors, and
// the additions do not wait for each other. `read(k)` returns column k of the sixteen rows.
template <class I, int T, class Read>
static inline void add_floats(const int32_t * x, typename I::Floats * sums, Read read) {
    typename I::Floats block[T];
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        typename I::Floats even[T], odd[T];
        UNROLL for (int t = 0; t < T; t++) even[t] = odd[t] = I::nothing();
#pragma GCC unroll 2
        for (int k = 32 * half; k < 32 * half + 32; k += 2) {
            const auto first = read(k), second = read(k + 1);
            UNROLL for (int t = 0; t < T; t++) even[t] = I::multiply_add(first, factor<I>(x[k * T + t]), even[t]);
            UNROLL for (int t = 0; t < T; t++) odd[t] = I::multiply_add(second, factor<I>(x[(k + 1) * T + t]), odd[t]);
        }
        UNROLL for (int t = 0; t < T; t++) {
            even[t] = I::add(even[t], odd[t]);
            block[t] = half == 0 ? even[t] : I::add(block[t], even[t]);
        }
    }
    UNROLL for (int t = 0; t < T; t++) sums[t] = I::add(sums[t], block[t]);
}

template <class I> struct F16 : FloatWords {
    using Block = F16Block;
    static constexpr int times = 0;

    template <int T> static inline void add(const Block & w, const int32_t * x, typename I::Floats * sums) {
        add_floats<I, T>(x, sums, [&](int k) {
            I::fetch((const char *) w.weight[k] + AHEAD);
            return I::halves(w.weight[k]);
        });
    }
};

template <class I> struct F32 : FloatWords {
    using Block = F32Block;
    static constexpr int times = 0;

    template <int T> static inline void add(const Block & w, const int32_t * x, typename I::Floats * sums) {
        add_floats<I, T>(x, sums, [&](int k) {
            I::fetch((const char *) w.weight[k] + AHEAD);
            return I::load(w.weight[k]);
        });
    }
};

}  // namespace airdraft
