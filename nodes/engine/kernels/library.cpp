// A buffer type of ggml-cpu for weights in our layouts, and the operations on it.
//
// llama.cpp calls supports_op of every such type, in order, for each weight. The first type that takes a
// weight stores it, and its compute_forward runs the product on the threads of the pass.
#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <string>
#include <system_error>
#include <thread>

#include "internals.h"
#include "kernels.h"
#include "weights.h"

namespace airdraft {

namespace {

const Kernels * chosen;

// The functions of ggml's libraries that are called here. The libraries are loaded already, so this one does not
// link to them.
struct Ggml {
    decltype(&ggml_backend_buft_alloc_buffer) alloc_buffer;
    decltype(&ggml_backend_buft_is_host) is_host;
    decltype(&ggml_nbytes) nbytes;
    decltype(&ggml_version) version;
    decltype(&ggml_backend_reg_dev_get) device_of;
    ggml_backend_buffer_type_t (*cpu_buffer_type)();
    ggml_backend_reg_t (*cpu_reg)();
    extra_buffer_types extra_types;
    void (*barrier)(struct ggml_threadpool *);
    void (*chunk_set)(struct ggml_threadpool *, int);
    int (*chunk_add)(struct ggml_threadpool *, int);
} called;

// Finds a function in a loaded library of ggml or llama.cpp.
template <class Function> bool find(const char * name, Function & function) {
    std::vector<std::string> paths;
    dl_iterate_phdr(
        [](dl_phdr_info * info, size_t, void * found) {
            if (strstr(info->dlpi_name, "libggml") || strstr(info->dlpi_name, "libllama")) {
                ((std::vector<std::string> *) found)->push_back(info->dlpi_name);
            }
            return 0;
        },
        &paths);
    function = nullptr;
    for (const auto & path : paths) {
        void * library = dlopen(path.c_str(), RTLD_NOW | RTLD_NOLOAD);
        if (library && !function) function = (Function) dlsym(library, name);
        if (library) dlclose(library);
    }
    return function != nullptr;
}

ggml_backend_buffer_type_t our_type();

bool is_ours(const ggml_tensor * weights) { return weights->buffer && weights->buffer->buft == our_type(); }

struct Activations {
    int blocks;  // blocks of columns
    int64_t columns, tokens;
};

Activations activations_of(const ggml_tensor * op) {
    const ggml_tensor *w = op->src[0], *x = op->src[1];
    return {blocks_of(*format_of(w->type), w->ne[0]), w->ne[0], x->ne[1] * x->ne[2] * x->ne[3]};
}

const Product & product_of(const Kernels & kernels, const ggml_tensor * weights) {
    return kernels.products[(int) *format_of(weights->type)];
}

// Packs blocks `first` to `last` - 1 of the activations of all tokens, counted token by token. row(token): the
// token's floats; packed: tiles as in kernels.h.
template <class Row>
void pack_activations(const Kernels & kernels, const Product & product, const Activations & s, int64_t first,
                      int64_t last, int32_t * packed, Row row) {
    const int most = kernels.most_tokens;
    alignas(64) float padded[256];
    for (int64_t at = first; at < last; at++) {
        const int64_t token = at / s.blocks;
        const int b = (int) (at % s.blocks);
        const int64_t begin = token / most * most;
        const int width = (int) std::min<int64_t>(most, s.tokens - begin);
        int32_t * tile = packed + (begin * s.blocks + (int64_t) b * width) * product.words;
        const float * x = row(token) + (int64_t) b * product.columns;
        const int64_t some = s.columns - (int64_t) b * product.columns;
        if (some < product.columns) {
            memset(padded, 0, sizeof padded);
            memcpy(padded, x, some * sizeof(float));
            x = padded;
        }
        product.pack(x, tile, width, (int) (token - begin));
    }
}

// The rows of the output layer that are computed; 0 for all. A draft node leaves out those of tokens that hardly occur.
std::atomic<int> output_rows{0};
// The logit of a token that is left out. It is finite, because a grammar may allow such tokens only.
constexpr float LEFT_OUT = -1e30f;

// Whether a product is that with the output layer. Some files have none: it is their embedding, which is in no other
// product.
bool is_output_layer(const ggml_tensor * weights) {
    return !strcmp(weights->name, "output.weight") || !strcmp(weights->name, "token_embd.weight");
}

class Products : public ggml::cpu::tensor_traits {
    bool work_size(int, const ggml_tensor * op, size_t & size) override {
        const Activations s = activations_of(op);
        size = s.tokens * s.blocks * product_of(*chosen, op->src[0]).words * sizeof(int32_t);
        return true;
    }

    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        const ggml_tensor *w = op->src[0], *x = op->src[1];
        const Activations s = activations_of(op);
        const Product & product = product_of(*chosen, w);
        const int rows = (int) w->ne[1], limit = is_output_layer(w) ? output_rows.load() : 0;
        const int groups = ((limit ? std::min(limit, rows) : rows) + ROWS - 1) / ROWS;
        auto * packed = (int32_t *) params->wdata;

        const int64_t all = s.tokens * s.blocks;
        pack_activations(*chosen, product, s, all * params->ith / params->nth, all * (params->ith + 1) / params->nth,
                         packed, [&](int64_t token) {
                             const int64_t i1 = token % x->ne[1], rest = token / x->ne[1];
                             return (const float *) ((const char *) x->data + i1 * x->nb[1] +
                                                     rest % x->ne[2] * x->nb[2] + rest / x->ne[2] * x->nb[3]);
                         });
        const int64_t stride = op->nb[1] / sizeof(float);
        if (params->ith == 0) {
            called.chunk_set(params->threadpool, params->nth);
            for (int64_t token = 0; token < s.tokens && groups * ROWS < rows; token++) {
                float * out = (float *) op->data + token * stride;
                std::fill(out + groups * ROWS, out + rows, LEFT_OUT);
            }
        }
        called.barrier(params->threadpool);

        // Small enough that all threads end at about the same time, large enough that they seldom need another.
        const int chunk = params->nth == 1 ? groups : std::max(1, groups / (8 * params->nth));
        for (int at = params->ith; at * chunk < groups; at = called.chunk_add(params->threadpool, 1)) {
            product.multiply(w->data, at * chunk, std::min(groups, (at + 1) * chunk), s.blocks, packed, (int) s.tokens,
                             (float *) op->data, stride, rows);
        }
        return true;
    }
};

// Finds the next cells that a token sees, from cell `at` on, and moves `at` past them. mask: 16-bit floats that are
// added to the scores, minus infinity for cells that the token does not see; null if it sees all cells.
void next_piece(const half_bits * mask, int64_t cells, int64_t & at, Piece & piece) {
    constexpr half_bits UNSEEN = 0xfc00;
    constexpr uint64_t ALL_UNSEEN = 0xfc00fc00fc00fc00;
    piece.count = 0;
    const auto take = [&](float bias) {
        piece.biases[piece.count] = bias;
        piece.cells[piece.count++] = (int32_t) at++;
    };
    while (at < cells && piece.count < PIECE) {
        uint64_t four = 1;
        if (mask && at + 4 <= cells) memcpy(&four, mask + at, sizeof four);
        if (four == ALL_UNSEEN) {
            at += 4;
        } else if (four == 0 && piece.count + 4 <= PIECE) {
            for (int i = 0; i < 4; i++) take(0.0f);
        } else if (mask && mask[at] == UNSEEN) {
            at++;
        } else {
            take(mask ? float_of(mask[at]) : 0.0f);
        }
    }
}

// The attention of ggml's FLASH_ATTN_EXT. A task is one head of keys with all heads of queries that share it, for
// consecutive tokens, because the tokens of a prompt see mostly the same cells. If there are too few tasks for the
// threads, each piece of a token's keys is a task.
class Attention : public ggml::cpu::tensor_traits {
    // The most tokens of a task.
    static constexpr int MOST_TOKENS = 16;
    // With fewer queries it is faster not to transpose the keys (AVX2, heads of 64 and 128).
    static constexpr int FEW_QUERIES = 12;

    struct Shape {
        const ggml_tensor *q, *k, *v, *mask;
        int tokens, heads, sharing, most_pieces, sequences, threads;

        Shape(const ggml_tensor * op, int num_threads)
            : q(op->src[0]),
              k(op->src[1]),
              v(op->src[2]),
              mask(op->src[3]),
              tokens((int) q->ne[1]),
              heads((int) k->ne[2]),
              sharing((int) (q->ne[2] / k->ne[2])),
              most_pieces((int) ((k->ne[1] + PIECE - 1) / PIECE)),
              sequences((int) q->ne[3]),
              threads(num_threads) {}

        int64_t rows() const { return (int64_t) tokens * sequences; }
        bool is_split() const { return threads > 1 && rows() * heads < 4 * threads; }

        // The tokens of a task; their number changes no bit.
        int together() const {
            const int64_t fair = threads == 1 ? MOST_TOKENS : rows() * heads / (4 * threads);
            return (int) std::min<int64_t>(MOST_TOKENS, std::max<int64_t>(1, fair));
        }

        int64_t unfolded_floats() const { return PIECE * (k->ne[0] + v->ne[0]); }

        // If split: a part for each piece, and the cell where each begins. Otherwise for each thread: the joined
        // parts, the next part, and a piece as floats.
        size_t work_bytes() const {
            if (is_split()) return (sizeof(Part) * heads * sharing + sizeof(int64_t)) * rows() * most_pieces;
            return threads * thread_bytes();
        }
        size_t thread_bytes() const {
            return sizeof(Part) * (together() + 1) * sharing + unfolded_floats() * sizeof(float);
        }
    };

    // One head of keys for a token of a sequence.
    struct Place {
        int64_t token, head, sequence;
    };

    bool work_size(int num_threads, const ggml_tensor * op, size_t & size) override {
        size = 0;
        // OpenMP may start fewer threads than asked for (OMP_THREAD_LIMIT, OMP_DYNAMIC), and each then needs more.
        for (int threads = 1; threads <= num_threads; threads++) {
            size = std::max(size, VECTOR + Shape(op, threads).work_bytes());
        }
        return true;
    }

    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        const Shape s(op, params->nth);
        auto * work = (char *) (((uintptr_t) params->wdata + VECTOR - 1) / VECTOR * VECTOR);
        if (s.is_split()) {
            by_pieces(params, op, s, work);
        } else {
            by_tokens(params, op, s, work + params->ith * s.thread_bytes());
        }
        return true;
    }

    static void by_pieces(ggml_compute_params * params, ggml_tensor * op, const Shape & s, char * work) {
        auto * parts = (Part *) work;
        auto * begins = (int64_t *) (parts + s.rows() * s.heads * s.most_pieces * s.sharing);
        Piece piece;
        for (int64_t row = params->ith; row < s.rows(); row += s.threads) {
            int64_t cell = 0;
            for (int i = 0; i < s.most_pieces; i++) {
                begins[row * s.most_pieces + i] = cell;
                next_piece(mask_of(s, place_of(s, row, 0)), s.k->ne[1], cell, piece);
            }
        }
        if (params->ith == 0) called.chunk_set(params->threadpool, params->nth);
        called.barrier(params->threadpool);
        const auto parts_of = [&](int64_t row, int64_t head, int64_t i) {
            return parts + ((row * s.heads + head) * s.most_pieces + i) * s.sharing;
        };
        const int64_t tasks = s.rows() * s.heads * s.most_pieces;
        for (int64_t at = params->ith; at < tasks; at = called.chunk_add(params->threadpool, 1)) {
            const int64_t i = at % s.most_pieces, head = at / s.most_pieces % s.heads;
            const int64_t row = at / s.most_pieces / s.heads;
            const Place place = place_of(s, row, head);
            int64_t cell = begins[row * s.most_pieces + i];
            next_piece(mask_of(s, place), s.k->ne[1], cell, piece);
            attend(op, s, place, piece, parts_of(row, head, i));
        }
        called.barrier(params->threadpool);
        for (int64_t at = params->ith; at < s.rows() * s.heads; at += s.threads) {
            const int64_t row = at / s.heads, head = at % s.heads;
            const Place place = place_of(s, row, head);
            for (int i = 0; i < s.most_pieces; i++) {
                int64_t cell = begins[row * s.most_pieces + i];
                next_piece(mask_of(s, place), s.k->ne[1], cell, piece);
                if (piece.count == 0) {
                    if (i == 0) clear(s, parts_of(row, head, 0));
                    break;
                }
                if (i > 0) join(s, parts_of(row, head, 0), parts_of(row, head, i));
            }
            finish(op, s, place, parts_of(row, head, 0));
        }
    }

    static void by_tokens(ggml_compute_params * params, ggml_tensor * op, const Shape & s, char * work) {
        auto * joined = (Part *) work;
        Part * next = joined + s.together() * s.sharing;
        auto * keys = (float *) (next + s.sharing);
        float * values = keys + PIECE * s.k->ne[0];
        if (params->ith == 0) called.chunk_set(params->threadpool, params->nth);
        called.barrier(params->threadpool);
        const int64_t tiles = (s.tokens + s.together() - 1) / s.together();
        const int64_t tasks = tiles * s.heads * s.sequences;
        for (int64_t at = params->ith; at < tasks; at = called.chunk_add(params->threadpool, 1)) {
            const Place first{at / s.heads % tiles * s.together(), at % s.heads, at / s.heads / tiles};
            const int tokens = (int) std::min<int64_t>(s.together(), s.tokens - first.token);
            const int64_t begin = attend_together(op, s, first, tokens, joined, keys, values);
            for (int t = 0; t < tokens; t++) {
                const Place place{first.token + t, first.head, first.sequence};
                attend_alone(op, s, place, begin, joined + t * s.sharing, next);
                finish(op, s, place, joined + t * s.sharing);
            }
        }
    }

    // Computes and joins, for each of these tokens, the full pieces that all of them see. Returns the cell at which
    // the first piece begins that may differ between them.
    static int64_t attend_together(const ggml_tensor * op, const Shape & s, const Place & first, int tokens,
                                   Part * joined, float * keys, float * values) {
        const int count = tokens * s.sharing;
        if (count < FEW_QUERIES) return 0;
        int64_t alike = s.k->ne[1];
        const half_bits * mask = mask_of(s, first);
        for (int t = 1; t < tokens && mask; t++) {
            const half_bits * other = mask_of(s, {first.token + t, first.head, first.sequence});
            alike = std::mismatch(mask, mask + alike, other).first - mask;
        }
        const float * queries[MOST_TOKENS * MOST_HEADS];
        for (int t = 0; t < tokens; t++) {
            queries_of(s, {first.token + t, first.head, first.sequence}, queries + t * s.sharing);
        }
        const Cache cache = cache_of(op, s, first);
        Piece piece;
        for (int64_t begin = 0, cell = 0;; begin = cell) {
            next_piece(mask, s.k->ne[1], cell, piece);
            if (piece.count < PIECE || cell > alike) return begin;
            chosen->unfold(cache, piece, keys, values);
            chosen->attend_many(cache, piece, keys, values, queries, count, joined, begin == 0);
        }
    }

    // Computes the pieces of a token from a cell on, and joins them to those before it.
    static void attend_alone(const ggml_tensor * op, const Shape & s, const Place & place, int64_t cell, Part * joined,
                             Part * next) {
        Piece piece;
        for (bool is_first = cell == 0;; is_first = false) {
            next_piece(mask_of(s, place), s.k->ne[1], cell, piece);
            if (piece.count == 0) {
                if (is_first) clear(s, joined);
                return;
            }
            attend(op, s, place, piece, is_first ? joined : next);
            if (!is_first) join(s, joined, next);
        }
    }

    static Place place_of(const Shape & s, int64_t row, int64_t head) {
        return {row % s.tokens, head, row / s.tokens};
    }

    static const half_bits * mask_of(const Shape & s, const Place & place) {
        if (!s.mask) return nullptr;
        return (const half_bits *) ((const char *) s.mask->data + place.token * s.mask->nb[1] +
                                    place.sequence % s.mask->ne[3] * s.mask->nb[3]);
    }

    static Cache cache_of(const ggml_tensor * op, const Shape & s, const Place & place) {
        Cache cache;
        cache.keys = (const char *) s.k->data + place.head * s.k->nb[2] + place.sequence * s.k->nb[3];
        cache.values = (const char *) s.v->data + place.head * s.v->nb[2] + place.sequence * s.v->nb[3];
        cache.key_stride = s.k->nb[1];
        cache.value_stride = s.v->nb[1];
        cache.key_size = (int) s.k->ne[0];
        cache.value_size = (int) s.v->ne[0];
        memcpy(&cache.scale, op->op_params, sizeof(float));
        return cache;
    }

    static void queries_of(const Shape & s, const Place & place, const float ** queries) {
        for (int h = 0; h < s.sharing; h++) {
            queries[h] = (const float *) ((const char *) s.q->data + place.token * s.q->nb[1] +
                                          (place.head * s.sharing + h) * s.q->nb[2] + place.sequence * s.q->nb[3]);
        }
    }

    static void attend(const ggml_tensor * op, const Shape & s, const Place & place, const Piece & piece,
                       Part * parts) {
        if (piece.count == 0) return;
        const float * queries[MOST_HEADS];
        queries_of(s, place, queries);
        chosen->attend(cache_of(op, s, place), piece, queries, s.sharing, parts);
    }

    // The result of a token that sees no cell.
    static void clear(const Shape & s, Part * parts) {
        for (int h = 0; h < s.sharing; h++) {
            memset((void *) parts[h].values, 0, sizeof parts[h].values);
            parts[h].sum = 1.0f;
        }
    }

    static void join(const Shape & s, Part * joined, const Part * next) {
        for (int h = 0; h < s.sharing; h++) chosen->join(joined[h], next[h], (int) s.v->ne[0]);
    }

    static void finish(ggml_tensor * op, const Shape & s, const Place & place, const Part * parts) {
        for (int h = 0; h < s.sharing; h++) {
            auto * out = (float *) ((char *) op->data + (place.head * s.sharing + h) * op->nb[1] +
                                    place.token * op->nb[2] + place.sequence * op->nb[3]);
            chosen->finish(parts[h], (int) s.v->ne[0], out);
        }
    }

  public:
    static bool supports(const ggml_tensor * op) {
        const ggml_tensor *q = op->src[0], *k = op->src[1], *v = op->src[2], *mask = op->src[3];
        float numbers[3];  // scale, slope of the biases, softcap
        memcpy(numbers, op->op_params, sizeof numbers);
        return q->type == GGML_TYPE_F32 && k->type == GGML_TYPE_F16 && v->type == GGML_TYPE_F16 &&
               op->type == GGML_TYPE_F32 && q->nb[0] == 4 && k->nb[0] == 2 && v->nb[0] == 2 && k->ne[0] % 32 == 0 &&
               v->ne[0] % 32 == 0 && k->ne[0] <= MOST_SIZE && v->ne[0] <= MOST_SIZE && k->ne[2] == v->ne[2] &&
               q->ne[2] % k->ne[2] == 0 && q->ne[2] / k->ne[2] <= MOST_HEADS && q->ne[3] == k->ne[3] &&
               q->ne[3] == v->ne[3] && numbers[1] == 0.0f && numbers[2] == 0.0f && !op->src[4] &&
               (!mask || (mask->type == GGML_TYPE_F16 && mask->ne[2] == 1));
    }
};

// Whether ggml computed attention, because these kernels do not have the operation's form.
std::atomic<bool> left_attention{false};

class OurType : public ggml::cpu::extra_buffer_type {
    bool supports_op(ggml_backend_dev_t, const ggml_tensor * op) override {
        const ggml_tensor *w = op->src[0], *x = op->src[1];
        // llama.cpp asks for the scale of a matrix as if it were a matrix, and then multiplies by it in another way.
        return op->op == GGML_OP_MUL_MAT && is_ours(w) && w->ne[1] > 1 && w->ne[2] == 1 && w->ne[3] == 1 &&
               format_of(w->type) &&
               x->type == GGML_TYPE_F32 && x->nb[0] == sizeof(float) &&
               (!x->buffer || called.is_host(x->buffer->buft));
    }

    ggml::cpu::tensor_traits * get_tensor_traits(const ggml_tensor * op) override {
        static Products products;
        static Attention attention;
        if (op->op == GGML_OP_MUL_MAT) return is_ours(op->src[0]) ? &products : nullptr;
        if (op->op != GGML_OP_FLASH_ATTN_EXT) return nullptr;
        if (Attention::supports(op)) return &attention;
        left_attention = true;
        return nullptr;
    }
};

const char * name_of_type(ggml_backend_buffer_type_t) { return "airdraft"; }

size_t alignment_of(ggml_backend_buffer_type_t) { return VECTOR; }

size_t bytes_of(ggml_backend_buffer_type_t, const ggml_tensor * weights) {
    const auto format = format_of(weights->type);
    return format ? packed_bytes(*format, weights->ne[1], weights->ne[0]) : called.nbytes(weights);
}

void set_weights(ggml_backend_buffer_t, ggml_tensor * weights, const void * data, size_t offset, size_t size) {
    if (offset != 0 || size != called.nbytes(weights)) {
        fprintf(stderr, "airdraft kernels: weights come in one piece\n");
        abort();
    }
    // llama.cpp loads with one thread, which needs a second for a gigabyte. Another thread pays from some megabytes.
    constexpr size_t WORTH_BYTES = 4 << 20, MOST_THREADS = 8;
    const size_t threads = std::min<size_t>({std::thread::hardware_concurrency(), MOST_THREADS, size / WORTH_BYTES});
    const auto pack = [=](int64_t first, int64_t last) {
        const auto format = *format_of(weights->type);
        pack_weights(weights->type, (const char *) data + first * weights->nb[1], weights->nb[1], last - first,
                     weights->ne[0], (char *) weights->data + packed_bytes(format, first, weights->ne[0]));
    };
    // Each thread packs whole groups of rows.
    const int64_t rows = weights->ne[1], groups = (rows + ROWS - 1) / ROWS, many = std::max<size_t>(threads, 1);
    const auto begin = [=](int64_t part) { return std::min(rows, groups * part / many * ROWS); };
    std::vector<std::thread> helpers;
    for (int64_t part = 1; part < many; part++) {
        try {
            helpers.emplace_back(pack, begin(part), begin(part + 1));
        } catch (const std::system_error &) {
            // The unit of a service may allow no more threads.
            pack(begin(part), begin(part + 1));
        }
    }
    pack(0, begin(1));
    for (auto & helper : helpers) helper.join();
}

// Asks the kernel for pages of 2 MiB. A pass reads all weights once, and with pages of 4 KiB it also waits for their
// addresses: a pass of one token takes a tenth longer (Qwen2.5-Coder-1.5B Q4_K_M, Xeon model 207, a virtual machine).
void use_large_pages(char * begin, size_t size) {
    constexpr uintptr_t LARGE = 2 << 20;
    const uintptr_t first = ((uintptr_t) begin + LARGE - 1) / LARGE * LARGE;
    const uintptr_t last = ((uintptr_t) begin + size) / LARGE * LARGE;
    // If the kernel has none, the pages stay small.
    if (first < last) madvise((void *) first, last - first, MADV_HUGEPAGE);
}

ggml_backend_buffer_t new_buffer(ggml_backend_buffer_type_t type, size_t size) {
    ggml_backend_buffer_t buffer = called.alloc_buffer(called.cpu_buffer_type(), size);
    if (buffer) {
        use_large_pages((char *) buffer->iface.get_base(buffer), size);
        buffer->buft = type;
        buffer->iface.set_tensor = set_weights;
        // llama.cpp does not read weights back or copy them.
        buffer->iface.get_tensor = nullptr;
        buffer->iface.cpy_tensor = nullptr;
    }
    return buffer;
}

ggml_backend_buffer_type_t our_type() {
    static ggml_backend_buffer_type type = {
        {name_of_type, new_buffer, alignment_of, nullptr, bytes_of, nullptr},
        called.device_of(called.cpu_reg(), 0),
        new OurType,
    };
    return &type;
}

const Kernels * const all_kernels[] = {
#ifdef __x86_64__
    &avx512_kernels, &avxvnni_kernels, &avx2_kernels,
#endif
    &any_kernels,
};

// Returns the kernels of a name, or the best ones of this processor if it is empty; null if they cannot run here.
const Kernels * named(const char * name) {
    for (const Kernels * kernels : all_kernels) {
        if (kernels->runs_here() && (!*name || !strcmp(name, kernels->name))) return kernels;
    }
    return nullptr;
}

}  // namespace

}  // namespace airdraft

#define EXPORT extern "C" __attribute__((visibility("default")))

using namespace airdraft;

// Makes llama.cpp use these kernels for models that are loaded from now on. No model may be loaded before.
//
// kernels: the name of an instruction set, or "" for the best. keeps_others: whether weights that these kernels do
// not take may have ggml's own repacked layouts. Returns the name of the instruction set, or null if this processor
// lacks it, or if llama.cpp's libraries are not loaded or of another version, as LLAMA_CPP_LIB_PATH may make them.
EXPORT const char * airdraft_register(const char * kernels, bool keeps_others) {
    if (!(chosen = named(kernels)) ||
        !find("ggml_version", called.version) ||
        strcmp(called.version(), GGML) ||
        !find("ggml_backend_buft_alloc_buffer", called.alloc_buffer) ||
        !find("ggml_backend_buft_is_host", called.is_host) ||
        !find("ggml_nbytes", called.nbytes) ||
        !find("ggml_backend_reg_dev_get", called.device_of) ||
        !find("ggml_backend_cpu_buffer_type", called.cpu_buffer_type) ||
        !find("ggml_backend_cpu_reg", called.cpu_reg) ||
        !find("_Z39ggml_backend_cpu_get_extra_buffer_typesv", called.extra_types) ||
        !find("ggml_barrier", called.barrier) ||
        !find("ggml_threadpool_chunk_set", called.chunk_set) ||
        !find("ggml_threadpool_chunk_add", called.chunk_add)) {
        return nullptr;
    }
    auto & types = called.extra_types();
    if (!keeps_others) {
        types.clear();
    }
    if (std::find(types.begin(), types.end(), our_type()) == types.end()) {
        types.insert(types.begin(), our_type());
    }
    return chosen->name;
}

// Lets later passes of this process compute only the first rows of the output layer; 0 for all.
EXPORT void airdraft_limit_output(int rows) { output_rows = rows; }

// Returns whether passes since the last call had attention that ggml computed, for example with a limit on scores.
EXPORT bool airdraft_left_attention() { return left_attention.exchange(false); }

// Where the rows of a stage of a split model go, as its caller has it. name: the result of the last block. room: the
// floats that `rows` has room for; used: those of the last pass, more than room if they did not fit.
struct StageRows {
    const char * name;
    float * rows;
    size_t room, used;
};

// ggml's callback of a pass, whose data is a StageRows: copies the rows, and ends the pass with them.
EXPORT bool airdraft_take_rows(ggml_tensor * tensor, bool asks, void * data) {
    auto & stage = *(StageRows *) data;
    if (asks) return !strcmp(tensor->name, stage.name);
    const size_t count = (size_t) (tensor->ne[0] * tensor->ne[1] * tensor->ne[2] * tensor->ne[3]);
    const bool fits = tensor->type == GGML_TYPE_F32 && stage.used <= stage.room && count <= stage.room - stage.used;
    if (fits) memcpy(stage.rows + stage.used, tensor->data, count * sizeof(float));
    stage.used = fits ? stage.used + count : stage.room + 1;
    return false;
}

// Returns the version of llama-cpp-python whose headers this file was compiled with.
EXPORT const char * airdraft_built_for() { return AIRDRAFT_LLAMA; }

// For tests and measurements: returns the bytes of weights in our layout, or 0 if it does not have ggml's type.
EXPORT size_t airdraft_packed_bytes(int type, int64_t rows, int64_t columns) {
    const auto format = format_of((ggml_type) type);
    return format ? packed_bytes(*format, rows, columns) : 0;
}

// Lays weights out. weights: rows as in a file, `stride` bytes apart; packed: at a multiple of 64.
EXPORT void airdraft_pack(int type, const void * weights, size_t stride, int64_t rows, int64_t columns, void * packed) {
    pack_weights((ggml_type) type, weights, stride, rows, columns, packed);
}

// Multiplies packed weights with x, (tokens, columns) floats, on this thread. out: (tokens, rows) floats, of which
// only the groups of sixteen rows from `first` to `last` - 1 are written. Returns whether such kernels run here.
EXPORT bool airdraft_multiply(const char * kernels, int type, const void * packed, int64_t rows, int64_t columns,
                              int first, int last, const float * x, int tokens, float * out) {
    const Kernels * used = named(kernels);
    if (!used) {
        return false;
    }
    const Format format = *format_of((ggml_type) type);
    const Product & product = used->products[(int) format];
    const int blocks = blocks_of(format, columns);
    std::vector<int32_t> activations((size_t) tokens * blocks * product.words);
    pack_activations(*used, product, {blocks, columns, tokens}, 0, (int64_t) tokens * blocks, activations.data(),
                     [&](int64_t token) { return x + token * columns; });
    product.multiply(packed, first, last, blocks, activations.data(), tokens, out, rows, (int) rows);
    return true;
}

// Computes attention of one token's heads over a cache, on this thread. q: (heads, key_size) floats; k, v: (cells,
// size) 16-bit floats; mask: (cells,) 16-bit floats; out: (heads, value_size) floats. unfolded: as for many queries.
EXPORT bool airdraft_attend(const char * kernels, const float * q, int heads, const half_bits * k, const half_bits * v,
                            const half_bits * mask, int64_t cells, int key_size, int value_size, float scale,
                            bool unfolded, float * out) {
    const Kernels * used = named(kernels);
    if (!used) {
        return false;
    }
    const Cache cache = {(const char *) k, (const char *) v, key_size * sizeof *k, value_size * sizeof *v,
                         key_size,         value_size,       scale};
    std::vector<const float *> queries;
    for (int h = 0; h < heads; h++) queries.push_back(q + h * key_size);
    std::vector<Part> joined(heads), next(heads);
    std::vector<float> keys(PIECE * key_size), values(PIECE * value_size);
    Piece piece;
    int64_t cell = 0;
    for (bool is_first = true; next_piece(mask, cells, cell, piece), piece.count > 0; is_first = false) {
        if (unfolded) {
            used->unfold(cache, piece, keys.data(), values.data());
            used->attend_many(cache, piece, keys.data(), values.data(), queries.data(), heads, joined.data(), is_first);
            continue;
        }
        used->attend(cache, piece, queries.data(), heads, is_first ? joined.data() : next.data());
        for (int h = 0; h < heads && !is_first; h++) used->join(joined[h], next[h], value_size);
    }
    for (int h = 0; h < heads; h++) used->finish(joined[h], value_size, out + h * value_size);
    return true;
}
