#pragma once
// What the pair weights of a backward are made of.
#include "heads/positive_pair_head.h"
#include "kernels/line_terms.cuh"
#include "logits/any_measure.h"
#include "logits/two_products.h"

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
  static constexpr bool kHasOneKernel = false;  ///< with small tiles, and no route A
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
  static constexpr bool kHasOneKernel = true;
  static constexpr bool kIsOfTerms = true;
  using Logit = AnyMeasureLogit<Real>;
  bool rows_own, cols_own;
  bool is_halved;
  LineTerms<Real> terms;
};

/// The same of the divergences of the rows of two products.
enum DivergenceVector {
  kGradDivergence,
  kLseFirst,  ///< of the logits of either product
  kLseSecond,
  kDivergence,
  kNumDivergenceVectors,
};

template <class Number>
struct DivergenceSource {
  using Real = typename Number::Real;
  static constexpr int kVectors = kNumDivergenceVectors;
  static constexpr bool kHasOneKernel = true;
  using Logit = TwoProductLogits<Real>;
  bool rows_own, cols_own;
  bool is_halved;
  MatrixView<typename Number::Element> second;  ///< [rows, e]
  /// Of which product the weights are: its rows are the embeddings of the problem, and those of the
  /// other one are `second`.
  bool is_of_second;
};

}  // namespace fusedml
