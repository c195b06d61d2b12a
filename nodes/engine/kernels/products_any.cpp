#include "isa_any.h"
#include "products.h"

namespace airdraft {
static bool runs_here() {
    return true;
}
extern const Kernels any_kernels = kernels<AnyProcessor>("any", runs_here);
}  // namespace airdraft
