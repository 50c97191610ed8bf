#pragma once
// The terms of a loss of sums as the kernels take them, in their parameters.
#include <algorithm>
#include <cmath>

#include "core/pair.h"
#include "heads/pair_term.h"
#include "kernels/api.h"

namespace fusedml {

/// Index of a kind of pair, among its terms and among the shifts of a line.
FUSEDML_HOST_DEVICE constexpr int kind_index(bool is_positive) { return is_positive ? 0 : 1; }

/// At most two terms of each kind of pair.
template <class Real>
struct LineTerms {
  PairTerm<Real> term[2][kMostTermsOfKind];  ///< by kind_index()
  /// At least 1: a kind that has no term gets one that is 0, of which nothing but a NaN is left.
  int count[2];
  int place[2][kMostTermsOfKind];  ///< among all terms; -1 of the one that is 0
  bool has_shifts;

  /// Chosen when the kernel runs, so that its code is there once.
  FUSEDML_DEVICE PairTerm<Real> get(int kind, int index) const {
    static_assert(kMostTermsOfKind == 2);
    const PairTerm<Real>&one = term[kind][0], &other = term[kind][1];
    const bool is_first = index == 0;
    return {
        is_first ? one.exponent : other.exponent,   is_first ? one.square : other.square,
        is_first ? one.linear : other.linear,       is_first ? one.constant : other.constant,
        is_first ? one.floor : other.floor,         is_first ? one.ceiling : other.ceiling,
        is_first ? one.is_closed : other.is_closed, is_first ? one.is_softplus : other.is_softplus};
  }

  static LineTerms of(const PairSums& sums) {
    LineTerms result{};
    result.has_shifts = sums.shifts != nullptr;
    for (int kind = 0; kind < 2; ++kind) {
      result.term[kind][0].floor = -INFINITY;
      result.term[kind][0].ceiling = INFINITY;
      result.place[kind][0] = result.place[kind][1] = -1;
    }
    for (int k = 0; k < sums.num_terms; ++k) {
      const int kind = kind_index(sums.is_positive[k]), index = result.count[kind]++;
      const PairTerm<double>& given = sums.terms[k];
      result.term[kind][index] = {Real(given.exponent), Real(given.square), Real(given.linear),
                                  Real(given.constant), Real(given.floor),  Real(given.ceiling),
                                  given.is_closed,      given.is_softplus};
      result.place[kind][index] = k;
    }
    for (int& count : result.count) count = count > 0 ? count : 1;
    return result;
  }
};

/// Not inlined: the unrolled epilogues would hold a copy per pair.
template <class Number>
__device__ __attribute__((noinline)) typename Number::Real term_function(TermFunction function,
                                                                         typename Number::Real z) {
  switch (function) {
    case TermFunction::kSoftplus:
      return softplus(z);
    case TermFunction::kSigmoid:
      return sigmoid(z);
    case TermFunction::kExp:
      break;
  }
  return std::exp(z);
}

template <class Number>
struct TermFunctions {
  using Real = typename Number::Real;
  FUSEDML_DEVICE Real operator()(TermFunction function, Real z) const {
    return term_function<Number>(function, z);
  }
};

/// What a slope of a term may come to: how much larger than the gradients of the sums the weights
/// of the pairs may be.  Of a term without end, at |z| = 1.
inline double steepness(const PairSums& sums) {
  double most = 1;
  for (int k = 0; k < sums.num_terms; ++k) {
    const PairTerm<double>& term = sums.terms[k];
    const double end = term.exponent < 0 ? term.floor : term.ceiling;
    const double z = std::isfinite(end) ? std::fabs(end) : 1;
    const double polynomial =
        std::fabs(term.square) * z * z + std::fabs(term.linear) * z + std::fabs(term.constant);
    const double at_end = std::exp(term.exponent * (std::isfinite(end) ? end : 0)) *
                          (std::fabs(term.exponent) * polynomial + 2 * std::fabs(term.square) * z +
                           std::fabs(term.linear));
    most = std::max(most, at_end);
  }
  return most;
}

}  // namespace fusedml
