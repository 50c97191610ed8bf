#pragma once
// The number types of kernels/ as Hopper's units name them.
#include <type_traits>

#include "core/hopper_primitives.cuh"
#include "core/number.cuh"
#include "kernels/tensor_map.h"

namespace fusedml {

template <class Number>
constexpr WgmmaType kWgmmaType = std::is_same_v<Number, Fp16> ? WgmmaType::kFp16 : WgmmaType::kBf16;

template <class Number>
constexpr SixteenBitType kTensorMapType =
    std::is_same_v<Number, Fp16> ? SixteenBitType::kFp16 : SixteenBitType::kBf16;

}  // namespace fusedml
