// Transposes rows of 16-bit floats, with AVX2.
#pragma once

#include <immintrin.h>

#include "layout.h"

namespace airdraft {
namespace {

// Transposes eight rows of eight columns.
__attribute__((always_inline)) static inline void transposed8(const half_bits * const * rows, int from, float * out,
                                                              int stride) {
    __m256 a[8], b[8];
    for (int i = 0; i < 8; i++) a[i] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) (rows[i] + from)));
    // First pairs of rows, then groups of four. The halves of a register stay separate until the end.
    for (int i = 0; i < 4; i++) {
        b[2 * i] = _mm256_unpacklo_ps(a[2 * i], a[2 * i + 1]);
        b[2 * i + 1] = _mm256_unpackhi_ps(a[2 * i], a[2 * i + 1]);
    }
    for (int i = 0; i < 2; i++) {
        for (int j = 0; j < 2; j++) {
            a[4 * i + 2 * j] = _mm256_shuffle_ps(b[4 * i + j], b[4 * i + 2 + j], 0x44);
            a[4 * i + 2 * j + 1] = _mm256_shuffle_ps(b[4 * i + j], b[4 * i + 2 + j], 0xee);
        }
    }
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(out + i * stride, _mm256_permute2f128_ps(a[i], a[4 + i], 0x20));
        _mm256_storeu_ps(out + (4 + i) * stride, _mm256_permute2f128_ps(a[i], a[4 + i], 0x31));
    }
}

__attribute__((always_inline)) static inline void transposed16(const half_bits * const * rows, float * out,
                                                               int stride) {
    for (int half = 0; half < 16; half += 8) {
        for (int from = 0; from < 16; from += 8) transposed8(rows + half, from, out + from * stride + half, stride);
    }
}

}  // namespace
}  // namespace airdraft
