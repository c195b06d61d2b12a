#include "isa_x86_256.h"
#include "products.h"

namespace airdraft {
static bool runs_here() {
    return this_processor().avx2;
}
extern const Kernels avx2_kernels = kernels<Avx2>("avx2", runs_here);
}  // namespace airdraft
