// Products of a matrix of weights with the activations of any number of tokens.
#pragma once

#include <cstring>

#include "activations.h"
#include "attention.h"
#include "formats.h"
#include "kernels.h"

namespace airdraft {

// Computes the sums of one group of rows for some tokens: `full` tiles, and REST tokens after them.
template <class I, class F, int REST>
static void add_up(const typename F::Block * w, int blocks, const int32_t * x, int full, typename I::Floats * sums) {
    constexpr int M = I::most_tokens;
    const size_t tile = (size_t) blocks * F::words * M;
    for (int t = 0; t < full * M + REST; t++) sums[t] = I::nothing();
    for (int b = 0; b < blocks; b++) {
        for (int i = 0; i < full; i++) {
            F::template add<M>(w[b], x + i * tile + (size_t) b * F::words * M, sums + i * M);
        }
        if constexpr (REST > 0) {
            F::template add<REST>(w[b], x + full * tile + (size_t) b * F::words * REST, sums + full * M);
        }
    }
}

template <class I, class F, int REST = I::most_tokens - 1>
static void add_up_rest(int rest, const typename F::Block * w, int blocks, const int32_t * x, int full,
                        typename I::Floats * sums) {
    if (rest == REST) {
        add_up<I, F, REST>(w, blocks, x, full, sums);
    } else if constexpr (REST > 0) {
        add_up_rest<I, F, REST - 1>(rest, w, blocks, x, full, sums);
    }
}

template <class I, class F>
static void multiply(const void * weights, int first, int last, int blocks, const int32_t * x, int tokens,
                     float * out, size_t stride, int rows) {
    constexpr int M = I::most_tokens;
    // So many groups fit into the second-level cache while all tokens are multiplied with them.
    constexpr int GROUPS = 4;
    // The number of tiles in one pass over a group.
    constexpr int TILES = TOKENS / M;
    typename I::Floats sums[TOKENS];
    for (int begin = first; begin < last; begin += GROUPS) {
        const int end = begin + GROUPS < last ? begin + GROUPS : last;
        for (int from = 0; from < tokens; from += TILES * M) {
            const int count = tokens - from < TILES * M ? tokens - from : TILES * M;
            for (int group = begin; group < end; group++) {
                const auto * w = (const typename F::Block *) weights + (size_t) group * blocks;
                add_up_rest<I, F>(count % M, w, blocks, x + (size_t) from * blocks * F::words, count / M, sums);
                const int some = rows - group * ROWS;
                for (int t = 0; t < count; t++) {
                    float * to = out + (from + t) * stride + group * ROWS;
                    if (some >= ROWS) {
                        I::store(to, sums[t]);
                    } else {
                        float all[ROWS];
                        I::store(all, sums[t]);
                        memcpy(to, all, some * sizeof(float));
                    }
                }
            }
        }
    }
}

template <class I, class F> constexpr Product product() {
    return {sizeof(typename F::Block), F::columns, F::words, pack<I, F>, multiply<I, F>};
}

template <class I> constexpr Kernels kernels(const char * name, bool (*runs_here)()) {
    return {name,
            I::most_tokens,
            runs_here,
            {product<I, Q4K<I>>(), product<I, Q5K<I>>(), product<I, Q6K<I>>(), product<I, Q40<I>>(),
             product<I, Q50<I>>(), product<I, Q80<I>>(), product<I, F16<I>>(), product<I, F32<I>>()},
            attend<I>,
            unfold<I>,
            attend_many<I>,
            join<I>,
            finish<I>};
}

}  // namespace airdraft
