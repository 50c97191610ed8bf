#pragma once
// What is summed over the pairs of a row against thresholds of its own.

namespace fusedml {

/// f(u) of u = y - t, the hardness y of a pair less a threshold t:
///   hinge     max(0, u + margin)        softplus  log(1 + e^(u + margin))
///   sigmoid   1 / (1 + e^-u)            pulse     max(0, 1 - |u|)
enum class ThresholdForm { kHinge, kSoftplus, kSigmoid, kPulse };

/// A hardness or threshold beyond all others: it meets nothing, and the difference of two such is
/// finite in float32.
constexpr float kAbsent = 1e37f;

struct ThresholdTerms {
  ThresholdForm form;
  double origin, unit;  ///< y = (x - origin) / unit
  double margin;        ///< of the first two forms, and which u they count:
  double at_least, above, below;
};

}  // namespace fusedml
