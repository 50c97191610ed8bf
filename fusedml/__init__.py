"""Deep-metric-learning losses over all pairs of a batch, without the n x n matrix."""
