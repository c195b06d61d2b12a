// Weights of a file, laid out as layout.h says.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "ggml.h"
#include "layout.h"

namespace airdraft {

// The format of a type of ggml's, if there is one.
std::optional<Format> format_of(ggml_type);

// Of a matrix with so many rows of so many columns.
size_t packed_bytes(Format, int64_t rows, int64_t columns);
int blocks_of(Format, int64_t columns);

// Lays out rows as they are in a file, `stride` bytes apart. out: packed_bytes of them, at a multiple of 64.
void pack_weights(Format, const void * from, size_t stride, int64_t rows, int64_t columns, void * out);

}  // namespace airdraft
