// The layout of weights in memory: sixteen rows side by side, one block of columns after the other.
//
// A vector of 64 bytes holds four columns of each of the sixteen rows: byte 4 * row + column. One
// instruction multiplies these by the same four activations and adds up each row. Nibbles: the low ones
// are columns 8i to 8i + 3, the high ones 8i + 4 to 8i + 7. No format needs more memory than in a file.
#pragma once

#include <cstdint>
#include <cstring>

namespace airdraft {

using half_bits = uint16_t;

constexpr int ROWS = 16;
constexpr int VECTOR = 64;

// 256 columns. Scales and minima have 6 bits each and are packed again, so that 64 bytes are unpacked at
// once. Bytes 0-63 are the scales of the first four groups of 32 columns and two bits of those of the last
// four, 64-127 the same of the minima, 128-191 the four low bits of both for the last four groups.
struct alignas(64) Q4KBlock {
    uint8_t scales[3 * VECTOR];
    half_bits d[ROWS], dmin[ROWS];
    uint8_t low[32][VECTOR];
};

// As Q4_K, and the fifth bits of 32 columns in 64 bytes: bit i of a byte is that of columns 4i to 4i + 3.
struct alignas(64) Q5KBlock {
    uint8_t scales[3 * VECTOR];
    half_bits d[ROWS], dmin[ROWS];
    uint8_t low[32][VECTOR];
    uint8_t high[8][VECTOR];
};

// 256 columns in sixteen groups with a signed scale each. Bits 2i and 2i + 1 of a byte of `high` are the
// upper two of columns 4i to 4i + 3 of the group.
struct Q6KBlock {
    int8_t scales[16][ROWS];
    half_bits d[ROWS];
    uint8_t low[32][VECTOR];
    uint8_t high[16][VECTOR];
};

// Two blocks of 32 columns each, so that vectors do not straddle cache lines; the second of the last
// pair may be empty (d = 0).
struct alignas(64) Q4Pair {
    half_bits d[2][ROWS];
    uint8_t low[2][4][VECTOR];
};

struct alignas(64) Q5Pair {
    half_bits d[2][ROWS];
    uint8_t low[2][4][VECTOR];
    uint8_t high[2][VECTOR];
};

// Weights plus 128, as unsigned bytes.
struct alignas(64) Q8Pair {
    half_bits d[2][ROWS];
    uint8_t byte[2][8][VECTOR];
};

// 64 columns, one after the other.
struct alignas(64) F16Block {
    half_bits weight[64][ROWS];
};

struct alignas(64) F32Block {
    float weight[64][ROWS];
};

static_assert(sizeof(Q4KBlock) == ROWS * 144 && sizeof(Q5KBlock) == ROWS * 176 && sizeof(Q6KBlock) == ROWS * 210);
static_assert(sizeof(Q4Pair) == 2 * ROWS * 18 && sizeof(Q5Pair) == 2 * ROWS * 22 && sizeof(Q8Pair) == 2 * ROWS * 34);

// The value of a 16-bit float.
static inline float float_of(half_bits h) {
    const uint32_t sign = (uint32_t) (h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 1023;
    uint32_t bits = sign | (exponent == 31 ? 255 : exponent + 112) << 23 | fraction << 13;
    float out;
    if (exponent == 0) {
        out = (float) fraction * 0x1p-24f;
        memcpy(&bits, &out, 4);
        bits |= sign;
    }
    memcpy(&out, &bits, 4);
    return out;
}

enum class Format { Q4_K, Q5_K, Q6_K, Q4_0, Q5_0, Q8_0, F16, F32 };

}  // namespace airdraft
