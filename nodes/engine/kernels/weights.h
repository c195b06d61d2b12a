// Lays out the weights of a file as described in layout.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "ggml.h"
#include "layout.h"

namespace airdraft {

// Returns the format for a type of ggml, if there is one. IQ4_NL has that of Q8_0: its 4 bits are the index of a number
// of 8 bits, so the values are the same.
std::optional<Format> format_of(ggml_type);

// Returns the bytes of a matrix with so many rows of so many columns.
size_t packed_bytes(Format, int64_t rows, int64_t columns);
int blocks_of(Format, int64_t columns);

// Lays out rows of a type that has a format, as they are in a file, `stride` bytes apart. out: packed_bytes() bytes at a
// multiple of 64.
void pack_weights(ggml_type, const void * from, size_t stride, int64_t rows, int64_t columns, void * out);

}  // namespace airdraft
