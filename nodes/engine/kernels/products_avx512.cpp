#include "isa_x86_512.h"
#include "products.h"

namespace airdraft {
static bool runs_here() {
    return this_processor().avx512;
}
extern const Kernels avx512_kernels = kernels<Avx512>("avx512", runs_here);
}  // namespace airdraft
