// Q4_0 weights as ggml repacks them, eight rows side by side, times tokens. Every sum is as ggml makes
// it, and their order, so the bits are the same. What differs: a pass of two or three tokens reads the
// weights once, where ggml takes token after token; weights stay unsigned, eight too large, which is
// taken off where a sum begins; two tokens share a register; and what comes next is asked of memory in
// time.
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#if defined(__F16C__) && defined(__FMA__) && defined(__AVX2__)
#define AIRDRAFT_REPACKED
#include <immintrin.h>

// A block of eight rows, as ggml's block_q4_0x8: pieces of eight bytes row by row, low halves of the
// bytes the weights 0 to 15, high ones 16 to 31, all signed.
struct airdraft_q4_0x8 {
    uint16_t scales[8];
    uint8_t quants[128];
};

// A block of two tokens. lows: minus eight times the sums of their values, to begin with.
struct airdraft_pair {
    int8_t quants[2][32];
    int64_t lows[2];
    float scales[2];
};

#if defined(__AVX512VNNI__) && defined(__AVX512VL__) && defined(__AVX512BW__)
// Sums of eight rows in a register, each of two tokens.
struct airdraft_sums {
    static const int rows = 8, most_pairs = 8;
    using ints = __m512i;
    using floats = __m512;
    static inline ints load(const void * at) { return _mm512_loadu_si512(at); }
    static inline ints unsign(ints x) { return _mm512_xor_si512(x, _mm512_set1_epi8((char) 0x88)); }
    static inline ints low_halves(ints x) { return _mm512_and_si512(x, _mm512_set1_epi8(0x0f)); }
    static inline ints high_halves(ints x) { return low_halves(_mm512_srli_epi16(x, 4)); }
    static inline ints all(int64_t x) { return _mm512_set1_epi64(x); }
    static inline floats scales(__m256 x, int) {
        const ints twice = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
        return _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(x));
    }
    static inline ints dot(ints sum, const ints * x, const int64_t * y) {
        for (int i = 0; i < 4; ++i) {
            sum = _mm512_dpbusd_epi32(sum, x[i], _mm512_set1_epi64(y[i]));
        }
        return sum;
    }
    // Both halves of each row's sum, of one token in even places, of the other in odd ones.
    static inline floats join(ints first, ints second) {
        const ints same = _mm512_mask_blend_epi32(0xaaaa, first, second);
        const ints other = _mm512_mask_blend_epi32(0xaaaa, second, first);
        return _mm512_cvtepi32_ps(_mm512_add_epi32(same, _mm512_shuffle_epi32(other, _MM_PERM_CDAB)));
    }
    static inline floats none() { return _mm512_setzero_ps(); }
    static inline floats add(floats x, floats scale, ints pair, floats sum) {
        return _mm512_fmadd_ps(x, _mm512_mul_ps(scale, _mm512_castsi512_ps(pair)), sum);
    }
    static inline void store(floats x, float * first, float * second) {
        const ints apart = _mm512_set_epi32(15, 13, 11, 9, 7, 5, 3, 1, 14, 12, 10, 8, 6, 4, 2, 0);
        const __m512d both = _mm512_castps_pd(_mm512_permutexvar_ps(apart, x));
        _mm256_storeu_ps(first, _mm256_castpd_ps(_mm512_castpd512_pd256(both)));
        if (second) {
            _mm256_storeu_ps(second, _mm256_castpd_ps(_mm512_extractf64x4_pd(both, 1)));
        }
    }
};
#else
// Sums of four rows in a register, each of two tokens.
struct airdraft_sums {
    static const int rows = 4, most_pairs = 4;
    using ints = __m256i;
    using floats = __m256;
    static inline ints load(const void * at) { return _mm256_loadu_si256((const ints *) at); }
    static inline ints unsign(ints x) { return _mm256_xor_si256(x, _mm256_set1_epi8((char) 0x88)); }
    static inline ints low_halves(ints x) { return _mm256_and_si256(x, _mm256_set1_epi8(0x0f)); }
    static inline ints high_halves(ints x) { return low_halves(_mm256_srli_epi16(x, 4)); }
    static inline ints all(int64_t x) { return _mm256_set1_epi64x(x); }
    static inline floats scales(__m256 x, int half) {
        const ints twice = _mm256_set_epi32(3, 3, 2, 2, 1, 1, 0, 0);
        return _mm256_permutevar8x32_ps(x, _mm256_add_epi32(twice, _mm256_set1_epi32(4 * half)));
    }
    static inline ints dot(ints sum, const ints * x, const int64_t * y) {
#if defined(__AVXVNNI__)
        for (int i = 0; i < 4; ++i) {
            sum = _mm256_dpbusd_avx_epi32(sum, x[i], all(y[i]));
        }
        return sum;
#else
        // Eight products of at most 15 * 127 are less than 2^15.
        ints pairs = _mm256_maddubs_epi16(x[0], all(y[0]));
        for (int i = 1; i < 4; ++i) {
            pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(x[i], all(y[i])));
        }
        return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
    }
    static inline floats join(ints first, ints second) {
        const ints same = _mm256_blend_epi32(first, second, 0xaa);
        const ints other = _mm256_blend_epi32(second, first, 0xaa);
        return _mm256_cvtepi32_ps(_mm256_add_epi32(same, _mm256_shuffle_epi32(other, 0xb1)));
    }
    static inline floats none() { return _mm256_setzero_ps(); }
    static inline floats add(floats x, floats scale, ints pair, floats sum) {
        return _mm256_fmadd_ps(x, _mm256_mul_ps(scale, _mm256_castsi256_ps(pair)), sum);
    }
    static inline void store(floats x, float * first, float * second) {
        x = _mm256_permutevar8x32_ps(x, _mm256_set_epi32(7, 5, 3, 1, 6, 4, 2, 0));
        _mm_storeu_ps(first, _mm256_castps256_ps128(x));
        if (second) {
            _mm_storeu_ps(second, _mm256_extractf128_ps(x, 1));
        }
    }
};
#endif

static inline int64_t airdraft_load64(const void * at) {
    int64_t x;
    std::memcpy(&x, at, sizeof(x));
    return x;
}

// Tokens as ggml has quantized them, in pairs, block after block. Four of them lie interleaved, in
// pieces of eight bytes, then what is left of four one by one. An odd one is a pair with zeros.
static void airdraft_lay_out_pairs(
        const char * from, int64_t stride, int64_t count, int64_t blocks, std::vector<airdraft_pair> & to) {
    const int64_t num_interleaved = count - count % 4;
    to.resize((count + 1) / 2 * blocks);
    if (count % 2) {
        std::memset(&to[count / 2 * blocks], 0, blocks * sizeof(airdraft_pair));
    }
    for (int64_t token = 0; token < count; ++token) {
        const bool is_interleaved = token < num_interleaved;
        const int64_t each = is_interleaved ? 4 : 1, place = is_interleaved ? token % 4 : 0;
        const char * block = from + (token - place) * stride;
        for (int64_t b = 0; b < blocks; ++b, block += each * 34) {
            airdraft_pair & two = to[token / 2 * blocks + b];
            const char * const quants = block + each * 2 + place * 8;
            int8_t * const own = two.quants[token % 2];
            for (int piece = 0; piece < 4; ++piece) {
                std::memcpy(own + piece * 8, quants + piece * each * 8, 8);
            }
            const __m256i values = _mm256_loadu_si256((const __m256i *) own);
            const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), values);
            const __m256i eighths = _mm256_madd_epi16(pairs, _mm256_set1_epi16(-8));
            __m128i low = _mm_add_epi32(_mm256_castsi256_si128(eighths), _mm256_extracti128_si256(eighths, 1));
            low = _mm_add_epi32(low, _mm_unpackhi_epi64(low, low));
            low = _mm_add_epi32(low, _mm_shuffle_epi32(low, 0x55));
            two.lows[token % 2] = (int64_t) (uint32_t) _mm_cvtsi128_si32(low);
            uint16_t scale;
            std::memcpy(&scale, block + place * 2, 2);
            two.scales[token % 2] = _cvtsh_ss(scale);
        }
    }
}

// Of eight rows those of `half`, times P pairs of tokens, `count` tokens of which are real: one alone,
// or with others.
template <int P, bool is_alone = false>
static void airdraft_q4_tile(
        const airdraft_q4_0x8 * weights, int half, const airdraft_pair * tokens, int64_t blocks,
        float * out, int64_t out_stride, int64_t count) {
    using sums = airdraft_sums;
    typename sums::floats sum[P];
    for (int p = 0; p < P; ++p) {
        sum[p] = sums::none();
    }
    for (int64_t b = 0; b < blocks; ++b) {
        const airdraft_q4_0x8 & block = weights[b];
        for (int at = 0; at < 144; at += 64) {
            _mm_prefetch((const char *) &block + 8192 + at, _MM_HINT_T0);
        }
        const auto near = sums::unsign(sums::load(block.quants + 32 * half));
        const auto far = sums::unsign(sums::load(block.quants + 64 + 32 * half));
        const typename sums::ints x[4] = {
            sums::low_halves(near), sums::low_halves(far), sums::high_halves(near), sums::high_halves(far) };
        const auto scale = sums::scales(_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) block.scales)), half);
        for (int p = 0; p < P; ++p) {
            const airdraft_pair & two = tokens[p * blocks + b];
            int64_t y[2][4];
            std::memcpy(y, two.quants, sizeof(y));
            const auto first = sums::dot(sums::all(two.lows[0]), x, y[0]);
            const auto second = is_alone ? sums::all(0) : sums::dot(sums::all(two.lows[1]), x, y[1]);
            const auto pair = sums::all(airdraft_load64(two.scales));
            sum[p] = sums::add(sums::join(first, second), scale, pair, sum[p]);
        }
    }
    for (int p = 0; p < P; ++p) {
        float * const to = out + 2 * p * out_stride + sums::rows * half;
        sums::store(sum[p], to, 2 * p + 1 < count ? to + out_stride : nullptr);
    }
}

// Rows, a multiple of eight, times tokens: out[token * out_stride + row]. stride: of tokens, in bytes.
static void airdraft_repacked_products(
        int64_t num_rows, int64_t count, int64_t blocks, const void * weights,
        const char * values, int64_t stride, float * out, int64_t out_stride) {
    static thread_local std::vector<airdraft_pair> own;
    std::vector<airdraft_pair> & tokens = own;
    airdraft_lay_out_pairs(values, stride, count, blocks, tokens);
    const int64_t num_pairs = (count + 1) / 2, most = airdraft_sums::most_pairs;
    for (int64_t row = 0; row < num_rows; row += 8) {
        const airdraft_q4_0x8 * const from = (const airdraft_q4_0x8 *) weights + row / 8 * blocks;
        for (int half = 0; half < 8 / airdraft_sums::rows; ++half) {
            int64_t tiles = (num_pairs + most - 1) / most;
            for (int64_t pair = 0; pair < num_pairs; --tiles) {
                const int64_t width = (num_pairs - pair + tiles - 1) / tiles;
                const airdraft_pair * const those = tokens.data() + pair * blocks;
                float * const to = out + 2 * pair * out_stride + row;
                const int64_t left = count - 2 * pair;
#define AIRDRAFT_WIDTH(P) \
    case P: airdraft_q4_tile<P>(from, half, those, blocks, to, out_stride, left); break;
                if (left == 1) {
                    airdraft_q4_tile<1, true>(from, half, those, blocks, to, out_stride, left);
                } else switch (width) {
                    AIRDRAFT_WIDTH(1) AIRDRAFT_WIDTH(2) AIRDRAFT_WIDTH(3) AIRDRAFT_WIDTH(4)
                    AIRDRAFT_WIDTH(5) AIRDRAFT_WIDTH(6) AIRDRAFT_WIDTH(7) AIRDRAFT_WIDTH(8)
                }
#undef AIRDRAFT_WIDTH
                pair += width;
            }
        }
    }
}
#endif
