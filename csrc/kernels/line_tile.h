#pragma once
#include <type_traits>

#include "core/tile.cuh"

namespace fusedml {

/// A tile of which each row is one warp's alone: 16 rows of it and all columns.  Four neighbouring
/// lanes hold the pairs of a row.
template <class Number>
using LineTile = std::conditional_t<Number::kTensorCores, TileShape<128, 128, 16, 128>,
                                    TileShape<64, 64, 16, 64>>;

}  // namespace fusedml
