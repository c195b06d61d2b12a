// What attention on a CPU does between its sums, for many sequences in one cache. The sums are as
// they were, and their order, so the bits are the same.
#include <cmath>
#include <cstdint>
#include <cstring>

// So that a library can be asked which changes it has: nodes/engine/llama_abi.py.
extern "C" {
__attribute__((visibility("default"))) extern const int airdraft_changes_3;
const int airdraft_changes_3 = 3;
}

// The first of the cells `at` to `end` that mask, F16, does not set to minus infinity; or `end`.
//
// Of the cells of a cache that streams share, all but a stream's own are masked. ggml looks at them
// one by one, for each head of each layer.
static inline int64_t airdraft_next_seen(const uint16_t * mask, int64_t at, int64_t end) {
    const uint16_t hidden = 0xFC00;
    const uint64_t four_hidden = 0xFC00FC00FC00FC00;
    uint64_t cells[4];
    while (at + 16 <= end) {
        std::memcpy(cells, mask + at, sizeof(cells));
        if ((cells[0] & cells[1] & cells[2] & cells[3]) != four_hidden ||
            (cells[0] | cells[1] | cells[2] | cells[3]) != four_hidden) {
            break;
        }
        at += 16;
    }
    while (at < end && mask[at] == hidden) {
        ++at;
    }
    return at;
}

// Which row of queries is the at-th: numbered as ggml does, heads before queries.
//
// All heads of a query follow each other, so that they find its keys and values in the processor's
// caches. One head for all queries first, as ggml has it, reads other streams' in between.
static inline int64_t airdraft_row(int64_t at, int64_t queries, int64_t heads) {
    const int64_t plane = at / (queries * heads);
    const int64_t query = at / heads % queries;
    const int64_t head = at % heads;
    return (plane * heads + head) * queries + query;
}

#if defined(__F16C__) && defined(__FMA__) && (defined(__AVX2__) || defined(__AVX512F__))
#define AIRDRAFT_ATTEND
#include <immintrin.h>

// Floats of a register, added up as ggml's loops do it: simd-mappings.h.
#if defined(__AVX512F__)
struct airdraft_lanes {
    static const int count = 16;
    using type = __m512;
    static inline type load(const uint16_t * at) {
        return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) at));
    }
    static inline type load(const float * at) { return _mm512_loadu_ps(at); }
    static inline void store(float * at, type x) { _mm512_storeu_ps(at, x); }
    static inline type all(float x) { return _mm512_set1_ps(x); }
    static inline type add(type x, type y) { return _mm512_add_ps(x, y); }
    static inline type mul(type x, type y) { return _mm512_mul_ps(x, y); }
    static inline type fma(type x, type y, type sum) { return _mm512_fmadd_ps(x, y, sum); }
    static inline type as_f16(type x) { return _mm512_cvtph_ps(_mm512_cvtps_ph(x, 0)); }
    static inline __m128 quarter(type x) {
        const __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x), 1));
        const __m256 half = _mm256_add_ps(high, _mm512_castps512_ps256(x));
        return _mm_add_ps(_mm256_extractf128_ps(half, 1), _mm256_castps256_ps128(half));
    }
    // The sums of four registers.
    static inline __m128 sums(type a, type b, type c, type d) {
        const __m128 qa = quarter(a), qb = quarter(b), qc = quarter(c), qd = quarter(d);
        const __m128 ab = _mm_add_ps(_mm_unpacklo_ps(qa, qb), _mm_unpackhi_ps(qa, qb));
        const __m128 cd = _mm_add_ps(_mm_unpacklo_ps(qc, qd), _mm_unpackhi_ps(qc, qd));
        return _mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab));
    }
};
#else
struct airdraft_lanes {
    static const int count = 8;
    using type = __m256;
    static inline type load(const uint16_t * at) {
        return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) at));
    }
    static inline type load(const float * at) { return _mm256_loadu_ps(at); }
    static inline void store(float * at, type x) { _mm256_storeu_ps(at, x); }
    static inline type all(float x) { return _mm256_set1_ps(x); }
    static inline type add(type x, type y) { return _mm256_add_ps(x, y); }
    static inline type mul(type x, type y) { return _mm256_mul_ps(x, y); }
    static inline type fma(type x, type y, type sum) { return _mm256_fmadd_ps(x, y, sum); }
    static inline type as_f16(type x) { return _mm256_cvtph_ps(_mm256_cvtps_ph(x, 0)); }
    static inline __m128 half(type x) {
        return _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    }
    // The sums of four registers.
    static inline __m128 sums(type a, type b, type c, type d) {
        return _mm_hadd_ps(_mm_hadd_ps(half(a), half(b)), _mm_hadd_ps(half(c), half(d)));
    }
};
#endif

// What heads that share keys and values attend to. strides: bytes from cell to cell.
struct airdraft_cells {
    const char * keys;
    const char * values;
    size_t key_stride;
    size_t value_stride;
    const uint16_t * mask;
    int64_t begin;
    int64_t end;
    float scale;
};

// Finds cells that are seen, a block at a time, and asks memory for their D keys and D values.
template <int D, int BLOCK>
static inline int airdraft_seek(const airdraft_cells & seen, int64_t & at, int64_t * found) {
    int count = 0;
    while (count < BLOCK) {
        if (seen.mask) {
            at = airdraft_next_seen(seen.mask, at, seen.end);
        }
        if (at >= seen.end) {
            break;
        }
        for (int byte = 0; byte < D * 2; byte += 64) {
            _mm_prefetch(seen.keys + at * seen.key_stride + byte, _MM_HINT_T0);
            _mm_prefetch(seen.values + at * seen.value_stride + byte, _MM_HINT_T0);
        }
        found[count++] = at++;
    }
    return count;
}

// Attention of H queries of D values over F16 keys and values: `maxima` and `sums` of a softmax that
// is made as the cells come, and `out`, which is yet to be divided by the sums.
//
// ggml takes one cell and one head at a time, keeps its sum of values in memory, as F16, and finds
// the next cell when it is done with this one. Here that sum stays in registers, rounded as before;
// cells are taken by the block, and each is read once for all H.
template <int D, int H>
static void airdraft_attend(
        const airdraft_cells & seen, const float * const * queries,
        float * maxima, float * sums, float * out) {
    using lanes = airdraft_lanes;
    using floats = typename lanes::type;
    const int width = lanes::count, num = D / width, block = 32;
    floats query[H][num], total[H][num];
    for (int h = 0; h < H; ++h) {
        maxima[h] = -INFINITY;
        sums[h] = 0.0f;
        for (int i = 0; i < num; ++i) {
            query[h][i] = lanes::as_f16(lanes::load(queries[h] + i * width));
            total[h][i] = lanes::all(0.0f);
        }
    }
    int64_t cells[2][block], at = seen.begin;
    float score[H][block], shrink[H][block], weight[H][block];
    // Those of the next block are on their way while a block is summed.
    int after = airdraft_seek<D, block>(seen, at, cells[0]);
    for (int turn = 0; after; ++turn) {
        const int count = after;
        int64_t * const here = cells[turn % 2];
        after = airdraft_seek<D, block>(seen, at, cells[(turn + 1) % 2]);
        for (int k = count; k % 4; ++k) {
            here[k] = here[count - 1];
        }
        for (int k = 0; k < count; k += 4) {
            floats parts[H][4];
            for (int c = 0; c < 4; ++c) {
                const uint16_t * key = (const uint16_t *) (seen.keys + here[k + c] * seen.key_stride);
                floats sum[H][4];
                for (int i = 0; i < num; ++i) {
                    const floats x = lanes::load(key + i * width);
                    for (int h = 0; h < H; ++h) {
                        sum[h][i % 4] = lanes::fma(x, query[h][i], i < 4 ? lanes::all(0.0f) : sum[h][i % 4]);
                    }
                }
                for (int h = 0; h < H; ++h) {
                    parts[h][c] = lanes::add(
                        lanes::add(sum[h][0], sum[h][2]), lanes::add(sum[h][1], sum[h][3]));
                }
            }
            for (int h = 0; h < H; ++h) {
                const floats * p = parts[h];
                _mm_storeu_ps(score[h] + k, lanes::sums(p[0], p[1], p[2], p[3]));
            }
        }
        bool grows[block] = {};
        for (int h = 0; h < H; ++h) {
            float most = maxima[h], sum = sums[h];
            for (int k = 0; k < count; ++k) {
                float s = score[h][k] * seen.scale;
                s += seen.mask ? _cvtsh_ss(seen.mask[here[k]]) : 0.0f;
                float less = 1.0f, part = 1.0f;
                if (s > most) {
                    less = expf(most - s);
                    most = s;
                    grows[k] = true;
                } else {
                    part = expf(s - most);
                }
                // As compilers contract it in ggml; written out, so that it is so for any H.
                sum = std::fma(sum, less, part);
                shrink[h][k] = less;
                weight[h][k] = part;
            }
            maxima[h] = most;
            sums[h] = sum;
        }
        for (int k = 0; k < count; ++k) {
            if (grows[k]) {
                for (int h = 0; h < H; ++h) {
                    for (int i = 0; i < num; ++i) {
                        total[h][i] = lanes::as_f16(lanes::mul(total[h][i], lanes::all(shrink[h][k])));
                    }
                }
            }
            const uint16_t * value = (const uint16_t *) (seen.values + here[k] * seen.value_stride);
            for (int i = 0; i < num; ++i) {
                const floats x = lanes::load(value + i * width);
                for (int h = 0; h < H; ++h) {
                    total[h][i] = lanes::as_f16(lanes::fma(x, lanes::all(weight[h][k]), total[h][i]));
                }
            }
        }
    }
    for (int h = 0; h < H; ++h) {
        for (int i = 0; i < num; ++i) {
            lanes::store(out + h * D + i * width, total[h][i]);
        }
    }
}

// Most heads that airdraft_attend_heads takes at a time, of D values: as registers allow.
static inline int64_t airdraft_most_heads(int64_t d) {
    return d == 64 && airdraft_lanes::count == 16 ? 3 : 1;
}

// The same of `heads` queries of d values, 64 or 128.
static inline void airdraft_attend_heads(
        int64_t d, int64_t heads, const airdraft_cells & seen, const float * const * queries,
        float * maxima, float * sums, float * out) {
    if (d == 128) {
        airdraft_attend<128, 1>(seen, queries, maxima, sums, out);
    } else if (heads == 1) {
        airdraft_attend<64, 1>(seen, queries, maxima, sums, out);
#if defined(__AVX512F__)
    } else if (heads == 2) {
        airdraft_attend<64, 2>(seen, queries, maxima, sums, out);
    } else {
        airdraft_attend<64, 3>(seen, queries, maxima, sums, out);
#endif
    }
}
#endif
