#pragma once
#include "core/platform.h"

namespace fusedml {

/// Log-sum-exp of a stream of logits, kept as (max, sum) with lse = max + log(sum).
/// Milakov & Gimelshein 2018, "Online normalizer calculation for softmax".
template <class Real>
struct OnlineLse {
  Real max = Real(-INFINITY);  ///< or any number near it: what the sum is relative to
  Real sum = 0;                ///< sum_j exp(z_j - max); NaN as soon as one z_j is

  /// Only the maximum of an empty set is -inf: subtract 0 then, as (-inf) - (-inf) would be NaN.
  static FUSEDML_HOST_DEVICE Real shift_of(Real max) {
    return max == Real(-INFINITY) ? Real(0) : max;
  }

  FUSEDML_HOST_DEVICE void merge(const OnlineLse& other) {
    if (max == other.max) {  // often, and exp(0) = 1
      sum += other.sum;
      return;
    }
    const Real merged = max > other.max ? max : other.max;
    const Real shift = shift_of(merged);
    sum = sum * std::exp(max - shift) + other.sum * std::exp(other.max - shift);
    max = merged;
  }

  /// -inf for an empty set, NaN if a logit was NaN.
  FUSEDML_HOST_DEVICE Real value() const {
    return sum == Real(0) ? Real(-INFINITY) : max + std::log(sum);
  }
};

/// Running statistics of one row over the pairs seen so far.
template <class Real>
struct RowStatistics {
  OnlineLse<Real> positive, negative;
  Real sum_positive = 0;  ///< sum of z over the positives
  int num_positive = 0, num_negative = 0;

  FUSEDML_HOST_DEVICE void merge(const RowStatistics& other) {
    positive.merge(other.positive);
    negative.merge(other.negative);
    sum_positive += other.sum_positive;
    num_positive += other.num_positive;
    num_negative += other.num_negative;
  }
};

/// What a head sees of a row.
template <class Real>
struct RowSummary {
  Real lse_positive, lse_negative;  ///< log sum exp(z) over P(i), N(i); -inf for an empty set
  Real sum_positive;                ///< sum of z over P(i)
  int64_t num_positive, num_negative;
};

/// Partial derivatives of L_i.
template <class Real>
struct RowPartials {
  Real lse_positive, lse_negative, sum_positive;
};

template <class Real>
struct RowLoss {
  Real value;
  RowPartials<Real> partials;
};

/// v(z_ip, lse_i, lse_p) of one positive pair and its partial derivatives.
template <class Real>
struct PairLoss {
  Real value, d_logit, d_anchor_lse, d_reference_lse;
};

}  // namespace fusedml
