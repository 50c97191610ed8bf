// The kernels of sm_90a for bf16; the ordinary build does not have them yet, see README.md.
#include "hopper/product_host.cuh"

namespace fusedml {

template cudaError_t hopper_product(const HopperProductArguments<Bf16>&,
                                    const HopperProductOperands<Bf16>&, cudaStream_t);

}  // namespace fusedml
