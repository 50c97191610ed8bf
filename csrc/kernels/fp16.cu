#include "kernels/operators.cuh"

namespace fusedml {
template struct Operators<Fp16>;
}  // namespace fusedml
