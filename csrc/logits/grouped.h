#pragma once
#include "logits/affine.h"

namespace fusedml {

/// Logits affine in what several vectors of a class have in common, y_k being the similarities of a
/// row with them:
///   S = max_k y_k,   or   S = sum_k p_k y_k  with  p = softmax(sharpness y);
///   z+ = scale+ S + shift+,   z- = scale- S + shift-.
/// The second is that of SoftTriple, Qian et al., ICCV 2019, eq. (5) and (6).
///
/// A thread holds all y_k of a row and a class as consecutive items (`GroupAxis`), the items of one
/// class after those of the other.  kOfRows: the vectors are the rows of the tile, else its
/// columns.
template <class Real, bool kOfRows_>
struct GroupedLogit : AffineLogit<Real> {
  static constexpr bool kIsLight = false, kIsGrouped = true, kOfRows = kOfRows_;
  Real sharpness;
  bool is_soft;
  int size;                ///< vectors of a class
  uint32_t firsts, lasts;  ///< bit k: item k is the first, or the last, of its class

  FUSEDML_DEVICE GroupedLogit(const LogitParameters& parameters, bool is_second_kind)
      : AffineLogit<Real>(parameters, is_second_kind),
        sharpness(Real(parameters.groups.get_sharpness())),
        is_soft(is_second_kind),
        size(parameters.groups.size),
        firsts(0),
        lasts(0) {
    for (int item = 0; item < kMostGroupVectors; item += size) {
      firsts |= uint32_t(1) << item;
      if (item + size <= kMostGroupVectors) lasts |= uint32_t(1) << (item + size - 1);
    }
  }

  /// Of a class; what only fills up a tile has no last item.
  FUSEDML_DEVICE bool is_first(int item) const { return firsts >> item & 1; }
  FUSEDML_DEVICE bool is_last(int item) const { return lasts >> item & 1; }
};

}  // namespace fusedml
