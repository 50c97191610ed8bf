"""The machinery below the losses, in reading order.

* ``inputs``, ``labels``, ``label_sets`` (several a row), ``advice``, ``arguments``, ``foreign``,
  ``no_positives``: what a call is checked for, and what it says.
* ``pairs``: the pair problem, and what is measured of a pair.  ``precision``, ``unit_rows``,
  ``row_order``: rows as they are measured.
* ``queue``: what is remembered of earlier batches.
* ``routes``: by labels, by an index tuple, by another distance, on the full matrix.
  ``triplet_lists``: triplets that are drawn, or found by what is hardest.
* ``autograd``: which of the ``torch.autograd.Function``s in ``functions`` compute a problem, over
  ``ops``: ``torch.ops.fusedml.*``, their ``schemas``, ``fake_kernels`` and backends
  (``backends``), and their FLOPs (``flops``).
* ``recorded``, ``formulas_by_rows``: gradients that are differentiated in turn.  ``traced``: what
  older compilers find in a named tuple.
* ``positives``: the positive pairs, listed or in strips.  Operators made of the others:
  ``joint_rows``, on the sums of two rows, and ``joint_classes``, the same of large classes;
  ``threshold_rows``, triplets, ranks and histograms where there are kernels; ``harder_sums``, rows
  of two embeddings.
* ``reductions``: of pairs to a few numbers per line, whatever holds the pairs.
* ``pair_lists``: lists of pairs or triplets, counted and then written, for the miners.
* ``tiled``: the operators in pure PyTorch, tile by tile.  ``whole``, ``whole_measures``,
  ``whole_values``, ``whole_kinds``, ``whole_lists``, ``whole_sums``, ``whole_means``,
  ``whole_centred``, ``whole_slopes``, ``whole_targets``, ``whole_thresholds``,
  ``whole_histograms``, ``whole_divergences``, ``whole_joint``, ``marked``, ``kept``: on matrices
  that are small enough to be held; ``averaged``: means whose gradient is found in the forward;
  ``eager_rows``: on strips of rows, the same; ``few_positives``, ``few_matrix``, ``paired``,
  ``paired_strips``, ``paired_sums``: without masks; ``linear_sums``: without pairs.
"""
