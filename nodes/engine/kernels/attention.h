// Attention of one token's heads that share keys and values, a piece of the keys at a time.
//
// A piece is the next 64 cells that the token sees, wherever they lie in the cache, so pieces depend on nothing
// but the sequence itself: not on other sequences, nor on the tokens of the pass or its threads. Each piece has its own
// maximum, sum and values; they are joined in order.
#pragma once

#include <cmath>
#include <cstring>

#include "kernels.h"

namespace airdraft {

// e^x for x <= 0, within 2e-7 of it; 0 below -87, where floats end.
template <class I> static inline typename I::Floats exponential(typename I::Floats x) {
    using Floats = typename I::Floats;
    const Floats shift = I::all(0x1.8p23f);
    const Floats shifted = I::multiply_add(x, I::all(0x1.715476p0f), shift);
    const Floats whole = I::subtract(shifted, shift);
    // ln 2 in two parts, the first with few bits.
    Floats rest = I::multiply_add(whole, I::all(-0x1.62e4p-1f), x);
    rest = I::multiply_add(whole, I::all(-0x1.7f7d1cp-20f), rest);
    Floats power = I::all(1.0f / 720);
    power = I::multiply_add(power, rest, I::all(1.0f / 120));
    power = I::multiply_add(power, rest, I::all(1.0f / 24));
    power = I::multiply_add(power, rest, I::all(1.0f / 6));
    power = I::multiply_add(power, rest, I::all(0.5f));
    power = I::multiply_add(power, rest, I::all(1.0f));
    power = I::multiply_add(power, rest, I::all(1.0f));
    return I::unless_below(x, -87.0f, I::multiply(power, I::power_of_two(shifted)));
}

// The products of HEADS queries with the keys of a piece: scores[head][key].
template <class I, int HEADS>
static void scores_of(const Cache & cache, const Piece & piece, const float * const * queries,
                      float (*scores)[PIECE]) {
    for (int key = 0; key < piece.count; key++) {
        const auto * k = (const half_bits *) (cache.keys + piece.cells[key] * cache.key_stride);
        typename I::Floats sums[HEADS];
        UNROLL for (int h = 0; h < HEADS; h++) sums[h] = I::nothing();
        for (int d = 0; d < cache.key_size; d += ROWS) {
            const auto some = I::halves(k + d);
            UNROLL for (int h = 0; h < HEADS; h++) {
                sums[h] = I::multiply_add(I::load(queries[h] + d), some, sums[h]);
            }
        }
        UNROLL for (int h = 0; h < HEADS; h++) scores[h][key] = I::sum(sums[h]) * cache.scale + piece.biases[key];
    }
}

// Sums of the values of a piece, each times its weight, for HEADS heads.
template <class I, int HEADS>
static void values_of(const Cache & cache, const Piece & piece, const float (*weights)[PIECE], float * const * out) {
    constexpr int AT_ONCE = 2;
    for (int d = 0; d < cache.value_size; d += AT_ONCE * ROWS) {
        typename I::Floats sums[HEADS][AT_ONCE];
        UNROLL for (int h = 0; h < HEADS; h++) {
            UNROLL for (int i = 0; i < AT_ONCE; i++) sums[h][i] = I::nothing();
        }
        for (int key = 0; key < piece.count; key++) {
            const auto * v = (const half_bits *) (cache.values + piece.cells[key] * cache.value_stride) + d;
            typename I::Floats some[AT_ONCE];
            UNROLL for (int i = 0; i < AT_ONCE; i++) some[i] = I::halves(v + i * ROWS);
            UNROLL for (int h = 0; h < HEADS; h++) {
                const auto weight = I::all(weights[h][key]);
                UNROLL for (int i = 0; i < AT_ONCE; i++) sums[h][i] = I::multiply_add(weight, some[i], sums[h][i]);
            }
        }
        UNROLL for (int h = 0; h < HEADS; h++) {
            UNROLL for (int i = 0; i < AT_ONCE; i++) I::store(out[h] + d + i * ROWS, sums[h][i]);
        }
    }
}

// Scores become weights; the piece's maximum and sum go to `part`.
template <class I> static void weigh(float * scores, int count, Part & part) {
    float most = -INFINITY;
    for (int key = 0; key < count; key++) most = scores[key] > most ? scores[key] : most;
    for (int key = count; key < PIECE; key++) scores[key] = -INFINITY;
    auto sums = I::nothing();
    for (int key = 0; key < PIECE; key += ROWS) {
        const auto weights = exponential<I>(I::subtract(I::load(scores + key), I::all(most)));
        I::store(scores + key, weights);
        sums = I::add(sums, weights);
    }
    part.most = most;
    part.sum = I::sum(sums);
}

template <class I, int HEADS>
static void attend_some(const Cache & cache, const Piece & piece, const float * const * queries, Part * parts) {
    alignas(64) float scores[HEADS][PIECE];
    float * values[HEADS];
    scores_of<I, HEADS>(cache, piece, queries, scores);
    for (int h = 0; h < HEADS; h++) {
        weigh<I>(scores[h], piece.count, parts[h]);
        values[h] = parts[h].values;
    }
    values_of<I, HEADS>(cache, piece, scores, values);
}

// parts: (heads,) of this piece alone.
template <class I>
static void attend(const Cache & cache, const Piece & piece, const float * const * queries, int heads, Part * parts) {
    while (heads > 0) {
        // Heads are taken together for the sake of speed alone.
        const int some = heads >= 3 ? 3 : heads;
        if (some == 3) {
            attend_some<I, 3>(cache, piece, queries, parts);
        } else if (some == 2) {
            attend_some<I, 2>(cache, piece, queries, parts);
        } else {
            attend_some<I, 1>(cache, piece, queries, parts);
        }
        heads -= some;
        queries += some;
        parts += some;
    }
}

// Adds the next piece to what has been joined.
template <class I> static void join(Part & joined, const Part & next, int size) {
    const float most = next.most > joined.most ? next.most : joined.most;
    alignas(64) float both[ROWS] = {joined.most - most, next.most - most};
    I::store(both, exponential<I>(I::load(both)));
    const auto before = I::all(both[0]), after = I::all(both[1]);
    for (int d = 0; d < size; d += ROWS) {
        const auto old = I::multiply(I::load(joined.values + d), before);
        I::store(joined.values + d, I::multiply_add(I::load(next.values + d), after, old));
    }
    joined.sum = __builtin_fmaf(next.sum, both[1], joined.sum * both[0]);
    joined.most = most;
}

// The result of a head.
template <class I> static void finish(const Part & joined, int size, float * out) {
    const auto factor = I::all(1.0f / joined.sum);
    for (int d = 0; d < size; d += ROWS) I::store(out + d, I::multiply(I::load(joined.values + d), factor));
}

}  // namespace airdraft
