#include "kernels/operators.cuh"

namespace fusedml {
template struct Operators<Fp32>;
}  // namespace fusedml
