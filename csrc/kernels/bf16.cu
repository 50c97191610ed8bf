#include "kernels/operators.cuh"

namespace fusedml {
template struct Operators<Bf16>;
}  // namespace fusedml
