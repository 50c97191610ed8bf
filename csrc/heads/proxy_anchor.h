#pragma once
#include "heads/multi_similarity.h"

namespace fusedml {

/// Proxy-Anchor Loss, Kim et al., CVPR 2020, eq. (4); the rows are the proxies.
///   L_i = softplus(lse+) / #proxies with a positive + softplus(lse-) / #proxies
/// Multi-Similarity's form with the two divisors in place of alpha and beta.
template <class Real>
using ProxyAnchorHead = MultiSimilarityHead<Real>;

}  // namespace fusedml
