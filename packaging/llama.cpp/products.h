// Q8_0 weights times tokens. Every sum is as ggml makes it for one token, and their order, so the bits
// are the same. What differs: the weights that come next are asked of memory in time; for many tokens
// eight rows of them are laid out once for all; and where one instruction multiplies and adds bytes,
// weights are made unsigned by adding 128, which is taken off where a sum begins, instead of both
// factors' signs being changed for each product.
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__F16C__) && defined(__FMA__) && defined(__AVX2__)
#define AIRDRAFT_PRODUCTS
#include <immintrin.h>

#if (defined(__AVX512VNNI__) && defined(__AVX512VL__)) || defined(__AVXVNNI__)
// Weights as they are multiplied: unsigned.
static inline __m256i airdraft_factors(const int8_t * quants) {
    return _mm256_xor_si256(_mm256_loadu_si256((const __m256i *) quants), _mm256_set1_epi8((char) 0x80));
}

// Sums of four products each. low: -128 times the sums of y.
static inline __m256i airdraft_dot(__m256i low, __m256i x, __m256i y) {
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
    return _mm256_dpbusd_epi32(low, x, y);
#else
    return _mm256_dpbusd_avx_epi32(low, x, y);
#endif
}
#else
static inline __m256i airdraft_factors(const int8_t * quants) {
    return _mm256_loadu_si256((const __m256i *) quants);
}

// Without such an instruction signs are changed, as ggml does: unsigned weights would be too large.
static inline __m256i airdraft_dot(__m256i, __m256i x, __m256i y) {
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_sign_epi8(x, x), _mm256_sign_epi8(y, x));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
#endif

#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
// Two rows of weights in a register.
struct airdraft_rows {
    static const int count = 2;
    using ints = __m512i;
    using floats = __m512;
    static inline ints load(const void * at) { return _mm512_loadu_si512(at); }
    static inline floats load_floats(const float * at) { return _mm512_loadu_ps(at); }
    static inline ints for_each(const void * at) {
        return _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *) at));
    }
    static inline floats all(float x) { return _mm512_set1_ps(x); }
    static inline floats mul(floats x, floats y) { return _mm512_mul_ps(x, y); }
    static inline floats fma(floats x, floats y, floats sum) { return _mm512_fmadd_ps(x, y, sum); }
    static inline floats dot(ints sum, ints x, ints y) {
        return _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(sum, x, y));
    }
    static inline __m256 row(floats x, int at) {
        return at ? _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x), 1)) : _mm512_castps512_ps256(x);
    }
};
#else
// One row of weights in a register.
struct airdraft_rows {
    static const int count = 1;
    using ints = __m256i;
    using floats = __m256;
    static inline ints load(const void * at) { return _mm256_loadu_si256((const __m256i *) at); }
    static inline floats load_floats(const float * at) { return _mm256_loadu_ps(at); }
    static inline ints for_each(const void * at) { return load(at); }
    static inline floats all(float x) { return _mm256_set1_ps(x); }
    static inline floats mul(floats x, floats y) { return _mm256_mul_ps(x, y); }
    static inline floats fma(floats x, floats y, floats sum) { return _mm256_fmadd_ps(x, y, sum); }
    static inline floats dot(ints sum, ints x, ints y) {
        return _mm256_cvtepi32_ps(airdraft_dot(sum, x, y));
    }
    static inline __m256 row(floats x, int) { return x; }
};
#endif

// A block of 32 weights or values, as ggml's block_q8_0: a scale, F16, and the quants.
struct airdraft_block {
    uint16_t scale;
    int8_t quants[32];
};

// A block's scale in all lanes.
static inline __m256 airdraft_scale(const airdraft_block & block) {
    return _mm256_cvtph_ps(_mm_set1_epi16((short) block.scale));
}

static inline float airdraft_sum(__m256 x) {
    __m128 sum = _mm_add_ps(_mm256_extractf128_ps(x, 1), _mm256_castps256_ps128(x));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

// Blocks of some tokens, token after token. lows: what each sum of four products begins with.
struct airdraft_tokens {
    std::vector<int8_t> quants;
    std::vector<int32_t> lows;
    std::vector<float> scales;

    void lay_out(const airdraft_block * from, int64_t stride, int64_t count, int64_t blocks) {
        quants.resize(count * blocks * 32);
        lows.resize(count * blocks * 8);
        scales.resize(count * blocks);
        for (int64_t token = 0; token < count; ++token) {
            for (int64_t b = 0; b < blocks; ++b) {
                const airdraft_block & block = from[token * stride + b];
                const int64_t at = token * blocks + b;
                std::memcpy(&quants[at * 32], block.quants, 32);
                const __m256i values = _mm256_loadu_si256((const __m256i *) block.quants);
                const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), values);
                const __m256i fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(-128));
                _mm256_storeu_si256((__m256i *) &lows[at * 8], fours);
                scales[at] = _cvtsh_ss(block.scale);
            }
        }
    }
};

// Blocks of eight rows of weights, as registers take them.
struct airdraft_weights {
    static const int rows = 8;
    std::vector<int8_t> quants;
    std::vector<float> scales;

    // Rows beyond `count` are the last one again.
    void lay_out(const airdraft_block * from, int64_t stride, int64_t count, int64_t blocks) {
        quants.resize(blocks * rows * 32);
        scales.resize(blocks * rows * 8);
        int8_t * const to_quants = quants.data();
        float * const to_scales = scales.data();
        for (int64_t row = 0; row < rows; ++row) {
            const airdraft_block * block = from + (row < count ? row : count - 1) * stride;
            for (int64_t b = 0; b < blocks; ++b) {
                const int64_t at = b * rows + row;
                _mm256_storeu_si256((__m256i *) (to_quants + at * 32), airdraft_factors(block[b].quants));
                _mm256_storeu_ps(to_scales + at * 8, airdraft_scale(block[b]));
            }
        }
    }
};

// Four rows, `count` of which there are, times T tokens: weights are read where they lie. For one
// token ggml's loop reads half as fast as memory gives.
template <int T>
static void airdraft_few(
        const airdraft_block * weights, int64_t stride, int64_t count,
        const airdraft_tokens & tokens, int64_t blocks, float * out, int64_t out_stride) {
    const int height = 4;
    // Bytes that are on their way. Half of it is too little, the double no better.
    const int64_t ahead = 8192 / sizeof(airdraft_block);
    const int8_t * const quants = tokens.quants.data();
    const int32_t * const lows = tokens.lows.data();
    const float * const scales = tokens.scales.data();
    const airdraft_block * rows[height];
    __m256 sum[height][T];
    for (int r = 0; r < height; ++r) {
        rows[r] = weights + (r < count ? r : count - 1) * stride;
        for (int t = 0; t < T; ++t) {
            sum[r][t] = _mm256_setzero_ps();
        }
    }
    for (int64_t b = 0; b < blocks; ++b) {
        for (int r = 0; r < height; ++r) {
            const airdraft_block & block = rows[r][b];
            _mm_prefetch((const char *) (&block + ahead), _MM_HINT_T0);
            const __m256i x = airdraft_factors(block.quants);
            const __m256 scale = airdraft_scale(block);
            for (int t = 0; t < T; ++t) {
                const int64_t at = t * blocks + b;
                const __m256i y = _mm256_loadu_si256((const __m256i *) (quants + at * 32));
                const __m256i low = _mm256_loadu_si256((const __m256i *) (lows + at * 8));
                const __m256 product = _mm256_cvtepi32_ps(airdraft_dot(low, x, y));
                const __m256 scale_of_both = _mm256_mul_ps(scale, _mm256_set1_ps(scales[at]));
                sum[r][t] = _mm256_fmadd_ps(scale_of_both, product, sum[r][t]);
            }
        }
    }
    for (int r = 0; r < height && r < count; ++r) {
        for (int t = 0; t < T; ++t) {
            out[t * out_stride + r] = airdraft_sum(sum[r][t]);
        }
    }
}

// Of eight rows, `count` of which there are, R from `first` on, times T tokens from `token` on.
// next: bytes that will be wanted soon.
template <int R, int T>
static void airdraft_tile(
        const airdraft_weights & weights, int64_t first, int64_t count,
        const airdraft_tokens & tokens, int64_t token, int64_t blocks,
        float * out, int64_t out_stride, const char * next, int64_t next_size) {
    using lanes = airdraft_rows;
    const int num = R / lanes::count;
    lanes::floats sum[num][T];
    for (int r = 0; r < num; ++r) {
        for (int t = 0; t < T; ++t) {
            sum[r][t] = lanes::all(0.0f);
        }
    }
    const int64_t step = next_size / blocks;
    for (int64_t b = 0; b < blocks; ++b) {
        for (int64_t at = 0; at < step; at += 64) {
            _mm_prefetch(next + b * step + at, _MM_HINT_T0);
        }
        lanes::ints quants[num];
        lanes::floats scales[num];
        for (int r = 0; r < num; ++r) {
            const int64_t at = b * airdraft_weights::rows + first + r * lanes::count;
            quants[r] = lanes::load(&weights.quants[at * 32]);
            scales[r] = lanes::load_floats(&weights.scales[at * 8]);
        }
        for (int t = 0; t < T; ++t) {
            const int64_t at = (token + t) * blocks + b;
            const lanes::ints values = lanes::for_each(&tokens.quants[at * 32]);
            const lanes::ints low = lanes::for_each(&tokens.lows[at * 8]);
            const lanes::floats scale = lanes::all(tokens.scales[at]);
            for (int r = 0; r < num; ++r) {
                const lanes::floats product = lanes::dot(low, quants[r], values);
                sum[r][t] = lanes::fma(lanes::mul(scales[r], scale), product, sum[r][t]);
            }
        }
    }
    for (int t = 0; t < T; ++t) {
        for (int row = 0; row < R && first + row < count; ++row) {
            out[(token + t) * out_stride + first + row] =
                airdraft_sum(lanes::row(sum[row / lanes::count][t], row % lanes::count));
        }
    }
}

// The part of thread `thread` of m rows of weights times n tokens: out[token * out_stride + row].
// strides: of weights and tokens in blocks, of `out` in floats.
static void airdraft_products(
        int64_t m, int64_t n, int64_t blocks,
        const airdraft_block * weights, int64_t weight_stride,
        const airdraft_block * values, int64_t value_stride,
        float * out, int64_t out_stride, int thread, int num_threads) {
    static thread_local airdraft_tokens own_tokens;
    static thread_local airdraft_weights own_rows;
    airdraft_tokens & tokens = own_tokens;
    airdraft_weights & rows = own_rows;
    const int height = airdraft_weights::rows;
    // As many sums as there are registers for.
    const int tall = airdraft_rows::count == 2 ? 8 : 2, wide = 4;
    // Tokens that are laid out at a time.
    const int64_t most = 32;
    const int64_t groups = (m + height - 1) / height;
    const int64_t begin = groups * thread / num_threads * height;
    const int64_t end = groups * (thread + 1) / num_threads * height;
    for (int64_t token = 0; token < n; token += most) {
        const int64_t count = n - token < most ? n - token : most;
        tokens.lay_out(values + token * value_stride, value_stride, count, blocks);
        for (int64_t row = begin; row < end && row < m && count <= wide; row += 4) {
            const airdraft_block * const from = weights + row * weight_stride;
            float * const to = out + token * out_stride + row;
            switch (count) {
                case 1: airdraft_few<1>(from, weight_stride, m - row, tokens, blocks, to, out_stride); break;
                case 2: airdraft_few<2>(from, weight_stride, m - row, tokens, blocks, to, out_stride); break;
                case 3: airdraft_few<3>(from, weight_stride, m - row, tokens, blocks, to, out_stride); break;
                case 4: airdraft_few<4>(from, weight_stride, m - row, tokens, blocks, to, out_stride); break;
            }
        }
        for (int64_t row = begin; row < end && row < m && count > wide; row += height) {
            const int64_t num_rows = m - row < height ? m - row : height;
            rows.lay_out(weights + row * weight_stride, weight_stride, num_rows, blocks);
            float * const to = out + token * out_stride + row;
            const int64_t num_tiles = (count + wide - 1) / wide * (height / tall);
            const int64_t share = height * weight_stride * (int64_t) sizeof(airdraft_block) / num_tiles;
            const char * next = (const char *) (weights + (row + height) * weight_stride);
            for (int first = 0; first < num_rows; first += tall) {
                // Tiles of one width, or nearly: a narrow one takes as long as a wide one.
                int64_t tiles = (count + wide - 1) / wide;
                for (int64_t t = 0; t < count; --tiles, next += share) {
                    const int64_t width = (count - t + tiles - 1) / tiles;
                    switch (width) {
                        case 2: airdraft_tile<tall, 2>(rows, first, num_rows, tokens, t, blocks, to, out_stride, next, share); break;
                        case 3: airdraft_tile<tall, 3>(rows, first, num_rows, tokens, t, blocks, to, out_stride, next, share); break;
                        case 4: airdraft_tile<tall, 4>(rows, first, num_rows, tokens, t, blocks, to, out_stride, next, share); break;
                    }
                    t += width;
                }
            }
        }
    }
}
#endif
