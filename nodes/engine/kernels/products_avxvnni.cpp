#define AIRDRAFT_VNNI
#include "isa_x86_256.h"
#include "products.h"

namespace airdraft {
static bool runs_here() {
    return this_processor().avxvnni;
}
extern const Kernels avxvnni_kernels = kernels<Avx2>("avxvnni", runs_here);
}  // namespace airdraft
