#include "kernels/operators.cuh"

namespace fusedml {
template struct Operators<Fp64>;
}  // namespace fusedml
