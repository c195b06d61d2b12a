#define AIRDRAFT_VNNI
#include "isa_x86_256.h"
#include "products.h"

namespace airdraft {
static bool runs_here() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") && __builtin_cpu_supports("avxvnni");
}
extern const Kernels avxvnni_kernels = kernels<Avx2>("avxvnni", runs_here);
}  // namespace airdraft
