// Attention of the heads of one token that share keys and values, a piece of the keys at a time.
//
// A piece is the next 64 cells that the token sees, wherever they lie in the cache. So pieces depend only on the
// sequence itself, and not on other sequences, the tokens of the pass or its threads. Each piece has its own
// maximum, sum and values, and pieces are joined in order.
//
// If several tokens see the same piece, its keys are transposed once, so that the lanes of a register are keys and
// not columns. The sums and their order are the same, but no sum across a register is needed at the end.
#pragma once

#include <cmath>
#include <cstring>

#include "kernels.h"

namespace airdraft {

// Returns e^x for x <= 0, with a relative error of 2e-7; 0 below -87, where normal floats end.
template <class I> static inline typename I::Floats exponential(typename I::Floats x) {
    using Floats = typename I::Floats;
    const Floats shift = I::all(0x1.8p23f);
    const Floats shifted = I::multiply_add(x, I::all(0x1.715476p0f), shift);
    const Floats whole = I::subtract(shifted, shift);
    // ln 2 as the sum of two parts, the first one with few bits.
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

// Multiplies HEADS queries with the keys of a piece: scores[head][key].
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

// Adds up the values of a piece, each times its weight, for HEADS heads.
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

// Converts scores to weights; writes the piece's maximum and sum to `part`.
template <class I> static void weigh(float * scores, int count, Part & part) {
    for (int key = count; key < PIECE; key++) scores[key] = -INFINITY;
    auto larger = I::all(-INFINITY);
    for (int key = 0; key < PIECE; key += ROWS) larger = I::larger(I::load(scores + key), larger);
    float lanes[ROWS], most = -INFINITY;
    I::store(lanes, larger);
    for (float lane : lanes) most = lane > most ? lane : most;
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

// Computes attention over one piece. parts: (heads,) results of this piece alone.
template <class I>
static void attend(const Cache & cache, const Piece & piece, const float * const * queries, int heads, Part * parts) {
    while (heads > 0) {
        // Several heads are computed together for speed only; no bit depends on it.
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

// Adds the next piece to the joined ones.
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

// Writes a piece's transposed keys, (key_size, PIECE), and its values, (PIECE, value_size), as floats. The keys beyond
// the end of a piece that is not full are 0.
template <class I> static void unfold(const Cache & cache, const Piece & piece, float * keys, float * values) {
    static const half_bits nothing[MOST_SIZE] = {};
    for (int key = 0; key < PIECE; key += ROWS) {
        const half_bits * rows[ROWS];
        for (int i = 0; i < ROWS; i++) {
            const bool is_there = key + i < piece.count;
            rows[i] = is_there ? (const half_bits *) (cache.keys + piece.cells[key + i] * cache.key_stride) : nothing;
        }
        for (int d = 0; d < cache.key_size; d += ROWS) {
            I::transposed(rows, keys + d * PIECE + key, PIECE);
            for (auto & row : rows) row += ROWS;
        }
    }
    for (int key = 0; key < piece.count; key++) {
        const auto * v = (const half_bits *) (cache.values + piece.cells[key] * cache.value_stride);
        for (int d = 0; d < cache.value_size; d += ROWS) I::store(values + key * cache.value_size + d, I::halves(v + d));
    }
}

// As scores_of, for sixteen keys from `key` on. In scores_of each lane adds up every sixteenth product. Here these
// sums are computed one after the other, in the order in which I::sum adds up the lanes.
template <class I, int QUERIES>
static void unfolded_scores(const Cache & cache, const Piece & piece, const float * keys, int key,
                            const float * const * queries, float (*scores)[PIECE]) {
    constexpr int LANES[ROWS] = {0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15};
    // The sums of one, two, four, eight and all lanes.
    typename I::Floats sums[5][QUERIES];
    UNROLL for (int n = 0; n < ROWS; n++) {
        typename I::Floats some[QUERIES];
        UNROLL for (int q = 0; q < QUERIES; q++) some[q] = I::nothing();
        for (int d = LANES[n]; d < cache.key_size; d += ROWS) {
            const auto k = I::load(keys + d * PIECE + key);
            UNROLL for (int q = 0; q < QUERIES; q++) some[q] = I::multiply_add(I::all(queries[q][d]), k, some[q]);
        }
        int level = 0;
        for (; n >> level & 1; level++) {
            UNROLL for (int q = 0; q < QUERIES; q++) some[q] = I::add(sums[level][q], some[q]);
        }
        UNROLL for (int q = 0; q < QUERIES; q++) sums[level][q] = some[q];
    }
    const auto biases = I::load(piece.biases + key);
    UNROLL for (int q = 0; q < QUERIES; q++) {
        I::store(scores[q] + key, I::add(I::multiply(sums[4][q], I::all(cache.scale)), biases));
    }
}

// As values_of, for an unfolded piece.
template <class I, int QUERIES>
static void unfolded_values(const Cache & cache, const Piece & piece, const float * values,
                            const float (*weights)[PIECE], Part * parts) {
    for (int d = 0; d < cache.value_size; d += ROWS) {
        typename I::Floats sums[QUERIES];
        UNROLL for (int q = 0; q < QUERIES; q++) sums[q] = I::nothing();
        for (int key = 0; key < piece.count; key++) {
            const auto v = I::load(values + key * cache.value_size + d);
            UNROLL for (int q = 0; q < QUERIES; q++) sums[q] = I::multiply_add(I::all(weights[q][key]), v, sums[q]);
        }
        UNROLL for (int q = 0; q < QUERIES; q++) I::store(parts[q].values + d, sums[q]);
    }
}

template <class I, int QUERIES>
static void attend_unfolded(const Cache & cache, const Piece & piece, const float * keys, const float * values,
                            const float * const * queries, Part * joined, bool is_first) {
    alignas(64) float scores[QUERIES][PIECE];
    Part next[QUERIES];
    Part * parts = is_first ? joined : next;
    for (int key = 0; key < PIECE; key += ROWS) {
        unfolded_scores<I, QUERIES>(cache, piece, keys, key, queries, scores);
    }
    for (int q = 0; q < QUERIES; q++) weigh<I>(scores[q], piece.count, parts[q]);
    unfolded_values<I, QUERIES>(cache, piece, values, scores, parts);
    for (int q = 0; q < QUERIES && !is_first; q++) join<I>(joined[q], next[q], cache.value_size);
}

// Computes attention of `count` queries, of any tokens and heads, over a piece from unfold(), and joins it to their
// earlier pieces, of which there are none if is_first. joined: (count,).
template <class I>
static void attend_many(const Cache & cache, const Piece & piece, const float * keys, const float * values,
                        const float * const * queries, int count, Part * joined, bool is_first) {
    constexpr int AT_ONCE = 4;
    int q = 0;
    for (; q + AT_ONCE <= count; q += AT_ONCE) {
        attend_unfolded<I, AT_ONCE>(cache, piece, keys, values, queries + q, joined + q, is_first);
    }
    for (; q < count; q++) attend_unfolded<I, 1>(cache, piece, keys, values, queries + q, joined + q, is_first);
}

// Computes the result of a head from its joined pieces.
template <class I> static void finish(const Part & joined, int size, float * out) {
    const auto factor = I::all(1.0f / joined.sum);
    for (int d = 0; d < size; d += ROWS) I::store(out + d, I::multiply(I::load(joined.values + d), factor));
}

}  // namespace airdraft
