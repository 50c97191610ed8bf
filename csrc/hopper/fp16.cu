#include "hopper/operators.cuh"

namespace fusedml {
template struct HopperOperators<Fp16>;
}
