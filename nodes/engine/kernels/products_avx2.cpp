#include "isa_x86_256.h"
#include "products.h"

namespace airdraft {
static bool runs_here() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
extern const Kernels avx2_kernels = kernels<Avx2>("avx2", runs_here);
}  // namespace airdraft
