// What this x86 processor and its operating system can do. `__builtin_cpu_supports` says it too, but it is always
// false in what Zig compiles: Zig's library has only a stub of the function that fills its table.
#ifdef __x86_64__
#include <cpuid.h>

#include "kernels.h"

namespace airdraft {

namespace {

Processor looked_up() {
    constexpr unsigned FMA = 1u << 12, OSXSAVE = 1u << 27, F16C = 1u << 29, BASE = FMA | OSXSAVE | F16C;
    constexpr unsigned AVX2 = 1u << 5, AVX512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31, AVX512_VNNI = 1u << 11;
    constexpr unsigned AVX_VNNI = 1u << 4;
    constexpr unsigned YMM = 0x06, ZMM = 0xe6;
    Processor found{};
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & BASE) != BASE) return found;
    // The registers that the operating system keeps for each thread.
    unsigned kept, upper;
    __asm__("xgetbv" : "=a"(kept), "=d"(upper) : "c"(0));
    if ((kept & YMM) != YMM || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return found;
    found.avx2 = b & AVX2;
    found.avx512 = found.avx2 && (kept & ZMM) == ZMM && (b & AVX512) == AVX512 && (c & AVX512_VNNI);
    // Leaf 7 has no second part on older processors.
    found.avxvnni = found.avx2 && a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & AVX_VNNI);
    return found;
}

}  // namespace

Processor this_processor() {
    // A virtual machine's host answers each question, which takes as long as a small product.
    static const Processor found = looked_up();
    return found;
}

}  // namespace airdraft
#endif
