// Compares packaging/llama.cpp with plain loops that add up in ggml's order, lane by lane. Prints a
// line for each kernel that the compiler's flags allow: its name, the values compared, those that
// differ in a bit.
#include "attention.h"
#include "products.h"
#include "repacked.h"

#include <cstdio>
#include <random>

#if defined(AIRDRAFT_ATTEND)
static std::mt19937 noise(1);

static float uniform(float low, float high) {
    return std::uniform_real_distribution<float>(low, high)(noise);
}

static int64_t number(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(noise);
}

static bool differ(float x, float y) { return std::memcmp(&x, &y, sizeof(x)) != 0; }

static uint16_t to_f16(float x) { return _cvtss_sh(x, 0); }

static float from_f16(uint16_t x) { return _cvtsh_ss(x); }

// As ggml_vec_dot_f16: four registers of `lanes` floats.
static float dot(const uint16_t * x, const uint16_t * y, int d, int lanes) {
    float sum[4][16] = {};
    for (int i = 0; i < d; ++i) {
        float & s = sum[i / lanes % 4][i % lanes];
        s = std::fma(from_f16(x[i]), from_f16(y[i]), s);
    }
    float all[16];
    for (int i = 0; i < lanes; ++i) {
        all[i] = (sum[0][i] + sum[2][i]) + (sum[1][i] + sum[3][i]);
    }
    for (int half = lanes / 2; half >= 4; half /= 2) {
        for (int i = 0; i < half; ++i) {
            all[i] = all[i + half] + all[i];
        }
    }
    return lanes == 16 ? (all[0] + all[2]) + (all[1] + all[3]) : (all[0] + all[1]) + (all[2] + all[3]);
}

// As ggml's loop over cells, of one query.
static void attend(
        const airdraft_cells & seen, const float * query, int d, float & most, float & sum, float * out) {
    std::vector<uint16_t> q(d), total(d);
    for (int i = 0; i < d; ++i) {
        q[i] = to_f16(query[i]);
    }
    most = -INFINITY;
    sum = 0.0f;
    for (int64_t at = seen.begin; at < seen.end; ++at) {
        const float hides = seen.mask ? from_f16(seen.mask[at]) : 0.0f;
        if (hides == -INFINITY) {
            continue;
        }
        const uint16_t * key = (const uint16_t *) (seen.keys + at * seen.key_stride);
        const uint16_t * value = (const uint16_t *) (seen.values + at * seen.value_stride);
        float s = dot(key, q.data(), d, airdraft_lanes::count) * seen.scale;
        s += hides;
        float less = 1.0f, part = 1.0f;
        if (s > most) {
            less = expf(most - s);
            most = s;
            for (int i = 0; i < d; ++i) {
                total[i] = to_f16(from_f16(total[i]) * less);
            }
        } else {
            part = expf(s - most);
        }
        for (int i = 0; i < d; ++i) {
            total[i] = to_f16(std::fma(from_f16(value[i]), part, from_f16(total[i])));
        }
        sum = std::fma(sum, less, part);
    }
    for (int i = 0; i < d; ++i) {
        out[i] = from_f16(total[i]);
    }
}

static void compare_attention() {
    long compared = 0, differing = 0;
    for (int round = 0; round < 300; ++round) {
        const int d = round % 3 ? 64 : 128;
        const int heads = (int) number(1, airdraft_most_heads(d));
        const int64_t cells = number(1, 150), stride = d + 16 * number(0, 3);
        std::vector<uint16_t> keys(cells * stride), values(cells * stride), mask(cells);
        for (auto & x : keys) { x = to_f16(uniform(-2, 2)); }
        for (auto & x : values) { x = to_f16(uniform(-2, 2)); }
        const float share = uniform(0, 1);
        for (auto & x : mask) { x = uniform(0, 1) < share ? 0 : 0xFC00; }
        std::vector<float> queries(heads * d);
        for (auto & x : queries) { x = uniform(-3, 3); }
        const float * rows[3] = {};
        for (int h = 0; h < heads; ++h) { rows[h] = &queries[h * d]; }
        const int64_t begin = number(0, cells / 2);
        const airdraft_cells seen = {
            (const char *) keys.data(), (const char *) values.data(), (size_t) stride * 2, (size_t) stride * 2,
            round % 5 ? mask.data() : nullptr, begin, number(begin, cells), 0.125f };

        float maxima[3], sums[3], out[3 * 128];
        airdraft_attend_heads(d, heads, seen, rows, maxima, sums, out);

        for (int h = 0; h < heads; ++h) {
            float most, sum, row[128];
            attend(seen, rows[h], d, most, sum, row);
            differing += differ(most, maxima[h]) + differ(sum, sums[h]);
            for (int i = 0; i < d; ++i) { differing += differ(row[i], out[h * d + i]); }
            compared += d + 2;
        }
    }
    std::printf("attention %ld %ld\n", compared, differing);
}
#endif

#if defined(AIRDRAFT_PRODUCTS)
static std::vector<airdraft_block> blocks_of(int64_t count, int64_t least) {
    std::vector<airdraft_block> made(count);
    for (auto & block : made) {
        block.scale = to_f16(uniform(0, 0.02f));
        for (auto & x : block.quants) { x = (int8_t) number(least, 127); }
    }
    return made;
}

// As ggml_vec_dot_q8_0_q8_0.
static float dot(const airdraft_block * x, const airdraft_block * y, int64_t blocks) {
    float sum[8] = {};
    for (int64_t b = 0; b < blocks; ++b) {
        const float scale = from_f16(x[b].scale) * from_f16(y[b].scale);
        for (int i = 0; i < 8; ++i) {
            int four = 0;
            for (int k = 4 * i; k < 4 * i + 4; ++k) { four += x[b].quants[k] * y[b].quants[k]; }
            sum[i] = std::fma(scale, (float) four, sum[i]);
        }
    }
    for (int half = 4; half; half /= 2) {
        for (int i = 0; i < half; ++i) { sum[i] += sum[i + half]; }
    }
    return sum[0];
}

static void compare_products() {
    long compared = 0, differing = 0;
    for (int round = 0; round < 120; ++round) {
        const int64_t m = number(1, 70), n = round < 20 ? round + 1 : number(1, 70), blocks = number(1, 20);
        const int64_t weight_stride = blocks + number(0, 2), value_stride = blocks + number(0, 2);
        const int64_t out_stride = m + number(0, 3);
        const int threads = (int) number(1, 3);
        // ggml makes values of -127 to 127; a file of weights may have all that a byte can be.
        const auto weights = blocks_of(m * weight_stride, -128), values = blocks_of(n * value_stride, -127);
        std::vector<float> out(n * out_stride, -1.0f);

        for (int thread = 0; thread < threads; ++thread) {
            airdraft_products(m, n, blocks, weights.data(), weight_stride, values.data(), value_stride,
                out.data(), out_stride, thread, threads);
        }

        for (int64_t t = 0; t < n; ++t) {
            for (int64_t row = 0; row < out_stride; ++row) {
                // Nothing is written beyond the rows.
                const float wanted = row < m ? dot(&weights[row * weight_stride], &values[t * value_stride], blocks) : -1.0f;
                differing += differ(wanted, out[t * out_stride + row]);
                ++compared;
            }
        }
    }
    std::printf("products %ld %ld\n", compared, differing);
}
#endif

#if defined(AIRDRAFT_REPACKED)
// As ggml lays out tokens: four of them interleaved, in pieces of eight bytes, then one by one.
static std::vector<char> interleaved(const std::vector<airdraft_block> & values, int64_t n, int64_t blocks) {
    std::vector<char> made(n * blocks * sizeof(airdraft_block));
    char * to = made.data();
    for (int64_t t = 0; t < n; t += t + 4 <= n ? 4 : 1) {
        const int64_t each = t + 4 <= n ? 4 : 1;
        for (int64_t b = 0; b < blocks; ++b) {
            for (int64_t k = 0; k < each; ++k, to += 2) {
                std::memcpy(to, &values[(t + k) * blocks + b].scale, 2);
            }
            for (int64_t at = 0; at < 32 * each; ++at) {
                const airdraft_block & block = values[(t + at / 8 % each) * blocks + b];
                *to++ = (char) block.quants[at / (8 * each) * 8 + at % 8];
            }
        }
    }
    return made;
}

static void compare_repacked() {
    long compared = 0, differing = 0;
    for (int round = 0; round < 160; ++round) {
        const int64_t m = 8 * number(1, 6), n = round < 40 ? round + 1 : number(1, 70), blocks = number(1, 20);
        const int64_t out_stride = m + number(0, 3);
        std::vector<airdraft_q4_0x8> weights(m / 8 * blocks + 64);
        for (auto & block : weights) {
            for (auto & x : block.scales) { x = to_f16(uniform(-0.02f, 0.02f)); }
            for (auto & x : block.quants) { x = (uint8_t) number(0, 255); }
        }
        const auto values = blocks_of(n * blocks, -127);
        const auto laid_out = interleaved(values, n, blocks);
        std::vector<float> out(n * out_stride, -1.0f);

        airdraft_repacked_products(m, n, blocks, weights.data(), laid_out.data(),
            blocks * sizeof(airdraft_block), out.data(), out_stride);

        for (int64_t t = 0; t < n; ++t) {
            for (int64_t row = 0; row < out_stride; ++row) {
                float sum = 0.0f;
                for (int64_t b = 0; b < blocks && row < m; ++b) {
                    const airdraft_q4_0x8 & x = weights[row / 8 * blocks + b];
                    const airdraft_block & y = values[t * blocks + b];
                    int whole = 0;
                    for (int k = 0; k < 32; ++k) {
                        const int byte = x.quants[k % 16 / 8 * 64 + row % 8 * 8 + k % 8];
                        const int half = k < 16 ? byte & 15 : byte >> 4;
                        whole += (half < 8 ? half : half - 16) * y.quants[k];
                    }
                    const float scale = from_f16(x.scales[row % 8]) * from_f16(y.scale);
                    sum = std::fma((float) whole, scale, sum);
                }
                // Nothing is written beyond the rows.
                differing += differ(row < m ? sum : -1.0f, out[t * out_stride + row]);
                ++compared;
            }
        }
    }
    std::printf("repacked %ld %ld\n", compared, differing);
}
#endif

int main() {
#if defined(AIRDRAFT_ATTEND)
    compare_attention();
#endif
#if defined(AIRDRAFT_PRODUCTS)
    compare_products();
#endif
#if defined(AIRDRAFT_REPACKED)
    compare_repacked();
#endif
}
