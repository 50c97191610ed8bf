#include "kernels/operators.cuh"

namespace fusedml {
template struct Operators<Tf32>;
}  // namespace fusedml
