// The interface of one instruction set's kernels; each file products_*.cpp implements it for one set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "layout.h"

namespace airdraft {

// The number of tokens for which weights are read once.
constexpr int TOKENS = 16;

struct Product {
    size_t block_bytes;
    int columns;  // columns of a block
    int words;    // words of one token's activations for a block

    // Packs one block of one token. x: `columns` floats; tile: the block of a tile, in which `width` tokens
    // lie side by side; t: the index of this token.
    void (*pack)(const float * x, int32_t * tile, int width, int t);

    // Computes out[t * stride + row] for the rows of groups `first` to `last` - 1 of sixteen each, and all tokens.
    // weights: (groups, blocks) blocks; x: tiles of `most_tokens` tokens, (blocks, words, tokens) each.
    // Rows from `rows` on do not exist.
    void (*multiply)(const void * weights, int first, int last, int blocks, const int32_t * x, int tokens,
                     float * out, size_t stride, int rows);
};

// The cells of a piece, the largest head, and the most heads in one call.
constexpr int PIECE = 64;
constexpr int MOST_SIZE = 512;
constexpr int MOST_HEADS = 16;

// The keys and values that some heads share, as 16-bit floats. Strides are bytes from cell to cell.
struct Cache {
    const char *keys, *values;
    size_t key_stride, value_stride;
    int key_size, value_size;  // floats of a head, multiples of 32
    float scale;
};

// Cells that a token sees, and the numbers that the mask adds to their scores.
struct Piece {
    int count;
    int32_t cells[PIECE];
    float biases[PIECE];
};

// The sums of a head: the largest score, the sum of e^(score - most), and that of the values times these weights.
struct alignas(64) Part {
    float most, sum;
    alignas(64) float values[MOST_SIZE];
};

struct Kernels {
    const char * name;
    int most_tokens;  // the most tokens of a tile
    bool (*runs_here)();
    Product products[8];  // indexed by Format

    // See attention.h.
    void (*attend)(const Cache &, const Piece &, const float * const * queries, int heads, Part * parts);
    void (*unfold)(const Cache &, const Piece &, float * keys, float * values);
    void (*attend_many)(const Cache &, const Piece &, const float * keys, const float * values,
                        const float * const * queries, int count, Part * joined, bool is_first);
    void (*join)(Part & joined, const Part & next, int size);
    void (*finish)(const Part & joined, int size, float * out);
};

extern const Kernels any_kernels, avx2_kernels, avxvnni_kernels, avx512_kernels;

// The instruction sets that run here. avx2: with FMA and F16C; avx512: F, BW, VL, DQ and VNNI, and all of avx2.
struct Processor {
    bool avx2, avxvnni, avx512;
};
Processor this_processor();

}  // namespace airdraft
