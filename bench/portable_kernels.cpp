// Prints a digest of the kernels' results for each format and instruction set that runs here: the same inputs, drawn
// from one seed, on every machine.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

extern "C" {
size_t airdraft_packed_bytes(int type, int64_t rows, int64_t columns);
void airdraft_pack(int type, const void * weights, size_t stride, int64_t rows, int64_t columns, void * packed);
bool airdraft_multiply(const char * kernels, int type, const void * packed, int64_t rows, int64_t columns, int first,
                       int last, const float * x, int tokens, float * out);
bool airdraft_attend(const char * kernels, const float * q, int heads, const uint16_t * k, const uint16_t * v,
                     const uint16_t * mask, int64_t cells, int key_size, int value_size, float scale, bool unfolded,
                     float * out);
}

namespace {

struct Draw {
    uint64_t state;

    uint32_t bits() {
        state = state * 6364136223846793005u + 1442695040888963407u;
        return (uint32_t) (state >> 32);
    }

    // Between -4 and 4, of any size down to 2^-20.
    float number() {
        // One after the other: compilers order what is called inside one expression as they like.
        const float fraction = (float) (int32_t) bits();
        return std::ldexp(fraction, -29 - (int) (bits() % 20));
    }

    // A 16-bit float between 2^-9 and 2^0, of either sign.
    uint16_t half() {
        const uint32_t b = bits();
        return (uint16_t) ((b & 0x83ff) | (6 + (b >> 20) % 9) << 10);
    }
};

// ggml's number, columns and bytes of a block, and where in it 16-bit floats are.
struct Kind {
    const char * name;
    int type, columns, bytes;
    std::vector<int> halves;
};

const std::vector<Kind> KINDS = {
    {"Q4_0", 2, 32, 18, {0}},        {"Q5_0", 6, 32, 22, {0}},        {"Q8_0", 8, 32, 34, {0}},
    {"Q4_K", 12, 256, 144, {0, 2}},  {"Q5_K", 13, 256, 176, {0, 2}},  {"Q6_K", 14, 256, 210, {208}},
    {"F16", 1, 1, 2, {0}},           {"F32", 0, 1, 4, {}},
};
const char * const NAMES[] = {"any", "avx2", "avxvnni", "avx512"};

struct Digest {
    uint64_t value = 14695981039346656037u;

    // FNV-1a, of 64 bits.
    void add(const std::vector<float> & numbers) {
        for (size_t i = 0; i < numbers.size() * sizeof(float); i++) {
            value = (value ^ ((const unsigned char *) numbers.data())[i]) * 1099511628211u;
        }
    }
};

std::vector<unsigned char> weights_of(const Kind & kind, int rows, int columns, Draw & draw) {
    std::vector<unsigned char> out((size_t) rows * (columns / kind.columns) * kind.bytes);
    for (size_t block = 0; block < out.size(); block += kind.bytes) {
        if (kind.type == 0) {
            const float number = draw.number();
            memcpy(&out[block], &number, sizeof number);
            continue;
        }
        for (int i = 0; i < kind.bytes; i++) out[block + i] = (unsigned char) draw.bits();
        for (int at : kind.halves) {
            const uint16_t half = draw.half();
            memcpy(&out[block + at], &half, sizeof half);
        }
    }
    return out;
}

void products(const char * name) {
    constexpr int ROWS = 41, COLUMNS = 768, MOST = 33;
    for (const Kind & kind : KINDS) {
        Draw draw{(uint64_t) kind.type};
        const auto weights = weights_of(kind, ROWS, COLUMNS, draw);
        std::vector<float> x(MOST * COLUMNS);
        for (float & number : x) number = draw.number();
        std::vector<unsigned char> memory(airdraft_packed_bytes(kind.type, ROWS, COLUMNS) + 64);
        void * packed = memory.data() + (64 - (uintptr_t) memory.data() % 64) % 64;
        airdraft_pack(kind.type, weights.data(), weights.size() / ROWS, ROWS, COLUMNS, packed);
        Digest digest;
        for (int tokens : {1, 2, 5, 16, MOST}) {
            std::vector<float> out((size_t) tokens * ROWS);
            if (!airdraft_multiply(name, kind.type, packed, ROWS, COLUMNS, 0, (ROWS + 15) / 16, x.data(), tokens,
                                   out.data())) {
                return;
            }
            digest.add(out);
        }
        printf("%s %s %016llx\n", kind.name, name, (unsigned long long) digest.value);
    }
}

void attention(const char * name) {
    constexpr int HEADS = 7, CELLS = 300;
    Draw draw{99};
    Digest digest;
    for (int size : {64, 96, 128}) {
        std::vector<float> q(HEADS * size), out(HEADS * size);
        std::vector<uint16_t> k(CELLS * size), v(CELLS * size), mask(CELLS);
        for (float & number : q) number = draw.number();
        for (uint16_t & half : k) half = draw.half();
        for (uint16_t & half : v) half = draw.half();
        // A cell in four is not seen.
        for (uint16_t & half : mask) half = draw.bits() % 4 ? 0 : 0xfc00;
        for (bool unfolded : {false, true}) {
            if (!airdraft_attend(name, q.data(), HEADS, k.data(), v.data(), mask.data(), CELLS, size, size, 0.25f,
                                 unfolded, out.data())) {
                return;
            }
            digest.add(out);
        }
    }
    printf("attention %s %016llx\n", name, (unsigned long long) digest.value);
}

}  // namespace

int main() {
    for (const char * name : NAMES) {
        products(name);
        attention(name);
    }
}
