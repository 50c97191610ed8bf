// What nvcc compiles for the PTX interpreter and the budgets.
#include "unit_kernels.cuh"

namespace fusedml::units {

template __global__ void cp_async_kernel<4>(const unsigned char*, const int*, unsigned char*);
template __global__ void cp_async_kernel<8>(const unsigned char*, const int*, unsigned char*);
template __global__ void cp_async_kernel<16>(const unsigned char*, const int*, unsigned char*);
template __global__ void ldmatrix_kernel<2, false>(const uint16_t*, uint32_t*);
template __global__ void ldmatrix_kernel<2, true>(const uint16_t*, uint32_t*);
template __global__ void ldmatrix_kernel<4, false>(const uint16_t*, uint32_t*);
template __global__ void ldmatrix_kernel<4, true>(const uint16_t*, uint32_t*);
template __global__ void mma_16_bit_kernel<false, false>(const uint16_t*, const uint16_t*, float*);
template __global__ void mma_16_bit_kernel<false, true>(const uint16_t*, const uint16_t*, float*);
template __global__ void mma_16_bit_kernel<true, false>(const uint16_t*, const uint16_t*, float*);
template __global__ void mma_16_bit_kernel<true, true>(const uint16_t*, const uint16_t*, float*);
template __global__ void shuffle_kernel<float>(const float*, float*, int);
template __global__ void shuffle_kernel<double>(const double*, double*, int);
template __global__ void shuffle_kernel<long long>(const long long*, long long*, int);

}  // namespace fusedml::units
