#include "weights.h"

#include <cstring>

namespace airdraft {

namespace {

// The blocks of a row in a file (ggml-common.h of llama.cpp).
struct FileQ4K {
    half_bits d, dmin;
    uint8_t scales[12], low[128];
};

struct FileQ5K {
    half_bits d, dmin;
    uint8_t scales[12], high[32], low[128];
};

struct FileQ6K {
    uint8_t low[128], high[64];
    int8_t scales[16];
    half_bits d;
};

struct FileQ40 {
    half_bits d;
    uint8_t low[16];
};

struct FileQ50 {
    half_bits d;
    uint8_t high[4], low[16];
};

struct FileQ80 {
    half_bits d;
    int8_t byte[32];
};

static_assert(sizeof(FileQ4K) == 144 && sizeof(FileQ5K) == 176 && sizeof(FileQ6K) == 210);
// The numbers that 4 bits of IQ4_NL stand for.
constexpr int8_t IQ4NL[] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

struct FileIQ4NL {
    half_bits d;
    uint8_t low[16];
};

static_assert(sizeof(FileIQ4NL) == 18 && sizeof(FileQ40) == 18 && sizeof(FileQ50) == 22 && sizeof(FileQ80) == 34);

uint32_t four_bytes(const void * at) {
    uint32_t word;
    memcpy(&word, at, 4);
    return word;
}

void put_four(uint8_t * vector, int row, uint32_t word) { memcpy(vector + 4 * row, &word, 4); }

// Packs nibbles of `count` vectors from eight bytes each: the low ones if `shift` is 0, the high ones if it is 4.
void put_nibbles(uint8_t (*to)[VECTOR], const uint8_t * from, int row, int count, int shift) {
    for (int i = 0; i < count; i++) {
        const uint32_t first = four_bytes(from + 8 * i) >> shift & 0x0f0f0f0f;
        const uint32_t second = four_bytes(from + 8 * i + 4) >> shift & 0x0f0f0f0f;
        put_four(to[i], row, first | second << 4);
    }
}

// The scale and minimum of a group of 32 columns: 6 bits each, which the last four groups have in two parts.
void scale_and_minimum(const uint8_t * packed, int group, uint8_t & scale, uint8_t & minimum) {
    if (group < 4) {
        scale = packed[group] & 63;
        minimum = packed[group + 4] & 63;
    } else {
        scale = (packed[group + 4] & 15) | packed[group - 4] >> 6 << 4;
        minimum = packed[group + 4] >> 4 | packed[group] >> 6 << 4;
    }
}

template <class Block, class File> void put_scales(Block & to, const File & from, int row) {
    to.d[row] = from.d;
    to.dmin[row] = from.dmin;
    for (int group = 0; group < 8; group++) {
        uint8_t scale, minimum;
        scale_and_minimum(from.scales, group, scale, minimum);
        // The minima of two groups alternate, so that one instruction multiplies both.
        const int at = 16 * (group & 3) + row;
        const int at_minimum = 32 * (group >> 1 & 1) + 2 * row + (group & 1);
        if (group < 4) {
            to.scales[at] |= scale;
            to.scales[VECTOR + at_minimum] |= minimum;
        } else {
            to.scales[at] |= scale >> 4 << 6;
            to.scales[VECTOR + at_minimum] |= minimum >> 4 << 6;
            to.scales[2 * VECTOR + at] |= scale & 15;
            to.scales[2 * VECTOR + at_minimum] |= (minimum & 15) << 4;
        }
    }
}

// 256 columns of Q4_K and Q5_K: 32 in low nibbles, then 32 in the high ones of the same bytes.
template <class Block, class File> void put_low(Block & to, const File & from, int row) {
    for (int group = 0; group < 8; group++) {
        put_nibbles(to.low + 4 * group, from.low + group / 2 * 32, row, 4, group % 2 * 4);
    }
}

void put(Q4KBlock & to, const FileQ4K * from, int row, int) {
    put_scales(to, *from, row);
    put_low(to, *from, row);
}

void put(Q5KBlock & to, const FileQ5K * from, int row, int) {
    put_scales(to, *from, row);
    put_low(to, *from, row);
    // Byte k has the fifth bits of column k of every group.
    for (int group = 0; group < 8; group++) {
        uint32_t word = 0;
        for (int i = 0; i < 8; i++) word |= (four_bytes(from->high + 4 * i) >> group & 0x01010101) << i;
        put_four(to.high[group], row, word);
    }
}

void put(Q6KBlock & to, const FileQ6K * from, int row, int) {
    to.d[row] = from->d;
    for (int group = 0; group < 16; group++) to.scales[group][row] = from->scales[group];
    // 128 columns: 64 in low nibbles, then 64 in the high ones of the same bytes; byte k of 32 has the upper
    // bits of columns k, k + 32, k + 64 and k + 96.
    for (int quarter = 0; quarter < 8; quarter++) {
        const uint8_t *low = from->low + quarter / 4 * 64 + quarter % 2 * 32, *high = from->high + quarter / 4 * 32;
        put_nibbles(to.low + 4 * quarter, low, row, 4, quarter % 4 / 2 * 4);
        for (int half = 0; half < 2; half++) {
            uint32_t word = 0;
            for (int i = 0; i < 4; i++) {
                word |= (four_bytes(high + 16 * half + 4 * i) >> quarter % 4 * 2 & 0x03030303) << 2 * i;
            }
            put_four(to.high[2 * quarter + half], row, word);
        }
    }
}

// 32 columns: 16 in low nibbles, 16 in the high ones.
template <class File> void put_low(uint8_t (*to)[VECTOR], const File & from, int row) {
    put_nibbles(to, from.low, row, 2, 0);
    put_nibbles(to + 2, from.low, row, 2, 4);
}

void put(Q4Pair & to, const FileQ40 * from, int row, int halves) {
    for (int half = 0; half < halves; half++) {
        to.d[half][row] = from[half].d;
        put_low(to.low[half], from[half], row);
    }
}

void put(Q5Pair & to, const FileQ50 * from, int row, int halves) {
    for (int half = 0; half < halves; half++) {
        to.d[half][row] = from[half].d;
        put_low(to.low[half], from[half], row);
        const uint32_t bits = four_bytes(from[half].high);
        uint32_t word = 0;
        for (int i = 0; i < 8; i++) {
            // Moves four adjacent bits to the lowest bits of four bytes.
            const uint32_t four = bits >> 4 * i & 15;
            word |= ((four & 1) | (four & 2) << 7 | (four & 4) << 14 | (four & 8) << 21) << i;
        }
        put_four(to.high[half], row, word);
    }
}

void put_half(Q8Pair & to, const FileQ80 & from, int row, int half) {
    to.d[half][row] = from.d;
    for (int i = 0; i < 8; i++) {
        // Adds 128 to each byte without a carry into the next one.
        put_four(to.byte[half][i], row, four_bytes(from.byte + 4 * i) ^ 0x80808080);
    }
}

void put(Q8Pair & to, const FileQ80 * from, int row, int halves) {
    for (int half = 0; half < halves; half++) put_half(to, from[half], row, half);
}

void put(Q8Pair & to, const FileIQ4NL * from, int row, int halves) {
    for (int half = 0; half < halves; half++) {
        FileQ80 same{from[half].d, {}};
        for (int k = 0; k < 16; k++) {
            same.byte[k] = IQ4NL[from[half].low[k] & 15];
            same.byte[k + 16] = IQ4NL[from[half].low[k] >> 4];
        }
        put_half(to, same, row, half);
    }
}

template <class Block, class Weight> void put(Block & to, const Weight * from, int row, int columns) {
    for (int k = 0; k < columns; k++) to.weight[k][row] = from[k];
}

// per_block: the number of the file's blocks (or weights) in one of ours.
template <class Block, class File>
void pack_all(const void * from, size_t stride, int64_t rows, int blocks, int per_block, int64_t file_blocks,
              void * out) {
    auto * block = (Block *) out;
    for (int64_t first = 0; first < rows; first += ROWS) {
        for (int b = 0; b < blocks; b++, block++) {
            memset((void *) block, 0, sizeof *block);
            for (int row = 0; row < ROWS && first + row < rows; row++) {
                const auto * file = (const File *) ((const char *) from + (first + row) * stride);
                const int64_t left = file_blocks - (int64_t) b * per_block;
                put(*block, file + (int64_t) b * per_block, row, left < per_block ? (int) left : per_block);
            }
        }
    }
}

struct Sizes {
    ggml_type type;
    int columns;  // columns of one of our blocks
    size_t bytes;
};

constexpr Sizes SIZES[] = {
    {GGML_TYPE_Q4_K, 256, sizeof(Q4KBlock)}, {GGML_TYPE_Q5_K, 256, sizeof(Q5KBlock)},
    {GGML_TYPE_Q6_K, 256, sizeof(Q6KBlock)}, {GGML_TYPE_Q4_0, 64, sizeof(Q4Pair)},
    {GGML_TYPE_Q5_0, 64, sizeof(Q5Pair)},    {GGML_TYPE_Q8_0, 64, sizeof(Q8Pair)},
    {GGML_TYPE_F16, 64, sizeof(F16Block)},   {GGML_TYPE_F32, 64, sizeof(F32Block)},
};

}  // namespace

std::optional<Format> format_of(ggml_type type) {
    if (type == GGML_TYPE_IQ4_NL) return Format::Q8_0;
    for (int i = 0; i < 8; i++) {
        if (SIZES[i].type == type) return (Format) i;
    }
    return std::nullopt;
}

int blocks_of(Format format, int64_t columns) {
    const int width = SIZES[(int) format].columns;
    return (int) ((columns + width - 1) / width);
}

size_t packed_bytes(Format format, int64_t rows, int64_t columns) {
    return (size_t) ((rows + ROWS - 1) / ROWS) * blocks_of(format, columns) * SIZES[(int) format].bytes;
}

void pack_weights(ggml_type type, const void * from, size_t stride, int64_t rows, int64_t columns, void * out) {
    const Format format = *format_of(type);
    const int n = blocks_of(format, columns);
    if (type == GGML_TYPE_IQ4_NL) return pack_all<Q8Pair, FileIQ4NL>(from, stride, rows, n, 2, columns / 32, out);
    switch (format) {
        case Format::Q4_K: return pack_all<Q4KBlock, FileQ4K>(from, stride, rows, n, 1, n, out);
        case Format::Q5_K: return pack_all<Q5KBlock, FileQ5K>(from, stride, rows, n, 1, n, out);
        case Format::Q6_K: return pack_all<Q6KBlock, FileQ6K>(from, stride, rows, n, 1, n, out);
        case Format::Q4_0: return pack_all<Q4Pair, FileQ40>(from, stride, rows, n, 2, columns / 32, out);
        case Format::Q5_0: return pack_all<Q5Pair, FileQ50>(from, stride, rows, n, 2, columns / 32, out);
        case Format::Q8_0: return pack_all<Q8Pair, FileQ80>(from, stride, rows, n, 2, columns / 32, out);
        case Format::F16: return pack_all<F16Block, half_bits>(from, stride, rows, n, 64, columns, out);
        case Format::F32: return pack_all<F32Block, float>(from, stride, rows, n, 64, columns, out);
    }
}

}  // namespace airdraft
