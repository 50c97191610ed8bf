#pragma once
// What the pair weights of a backward are made of.
#include "heads/positive_pair_head.h"
#include "kernels/line_terms.cuh"

namespace fusedml {

/// What the weights need of each row that owns a loss; the vectors of a SideTile.
enum WeightVector {
  kLsePositive,
  kLseNegative,
  kGradLsePositive,  ///< dL / d(lse_positive of the row)
  kGradLseNegative,
  kGradSumPositive,
  kNumWeightVectors,
  // a loss of positive pairs v(z, lse_own, lse_other) has the upstream gradient of its rows here
  kPairLse = kLseNegative,
  kPairRowGrad = kGradSumPositive,
};

/// Which losses the weights come from.
struct WeightSource {
  static constexpr int kVectors = kNumWeightVectors;
  static constexpr bool kIsOfTerms = false;
  bool rows_own, cols_own;  ///< whose statistics the loss is made of; in a self problem both
  /// The transposed pairs are not visited: each pair stands for both.
  bool is_halved;
  bool is_pair_head;  ///< positives weigh by `head`; negatives by their row's lse_negative
  PositivePairHead head;
};

/// The same of a loss of sums of terms.
enum TermVector {
  kShift,                  ///< by kind_index()
  kGradTerm = kShift + 2,  ///< dL/dF of the line, [kind_index()][term]
  kNumTermVectors = kGradTerm + 2 * kMostTermsOfKind,
};

template <class Real>
struct TermSource {
  static constexpr int kVectors = kNumTermVectors;
  static constexpr bool kIsOfTerms = true;
  bool rows_own, cols_own;
  bool is_halved;
  LineTerms<Real> terms;
};

}  // namespace fusedml
