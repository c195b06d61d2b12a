// What attention on a CPU does between its sums, for many sequences in one cache. The sums are as
// they were, and their order, so the bits are the same.
#include <cstdint>
#include <cstring>

// So that a library can be asked whether it has this: nodes/engine/llama_abi.py.
extern "C" {
__attribute__((visibility("default"))) extern const int airdraft_attention;
const int airdraft_attention = 1;
}

// The first of the cells `at` to `end` that mask, F16, does not set to minus infinity; or `end`.
//
// Of the cells of a cache that streams share, all but a stream's own are masked. ggml looks at them
// one by one, for each head of each layer.
static inline int64_t airdraft_next_seen(const uint16_t * mask, int64_t at, int64_t end) {
    const uint16_t hidden = 0xFC00;
    const uint64_t four_hidden = 0xFC00FC00FC00FC00;
    uint64_t cells[4];
    while (at + 16 <= end) {
        std::memcpy(cells, mask + at, sizeof(cells));
        if ((cells[0] & cells[1] & cells[2] & cells[3]) != four_hidden ||
            (cells[0] | cells[1] | cells[2] | cells[3]) != four_hidden) {
            break;
        }
        at += 16;
    }
    while (at < end && mask[at] == hidden) {
        ++at;
    }
    return at;
}

// Which row of queries is the at-th: numbered as ggml does, heads before queries.
//
// Heads that share keys and values follow each other for one query, so that they find these in the
// processor's caches. One head for all queries first, as ggml has it, reads another stream's keys
// for each of them, and all of them again for the next head.
static inline int64_t airdraft_row(int64_t at, int64_t queries, int64_t heads, int64_t sharing) {
    const int64_t plane = at / (queries * heads);
    const int64_t inside = at % (queries * heads);
    const int64_t group = inside / (queries * sharing);
    const int64_t query = inside / sharing % queries;
    const int64_t head = group * sharing + inside % sharing;
    return (plane * heads + head) * queries + query;
}
