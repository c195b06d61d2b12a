#include "isa_x86_512.h"
#include "products.h"

namespace airdraft {
static bool runs_here() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}
extern const Kernels avx512_kernels = kernels<Avx512>("avx512", runs_here);
}  // namespace airdraft
