"""Reductions of pairs to a few numbers per line, each written once for all that drives them.

``entries``  what a reduction sees: measures, kinds of pair, and the lines that the pairs feed.
``logits``   the logits of a formula, in numbers.
``reduced``  what all reductions have in common: forward ``add``, backward ``weights``.
``log_sums`` L: log-sum-exps, of any logits.
``sums``     S: sums of functions of the logits.
``thresholds``  T: sums of each line's negatives against its positives.
``extrema``  X: the extreme pair of each line, and its column.
``mined``    which pairs the Multi-Similarity rule keeps, by the extrema of each line.
``given``    drives them on measures that are given: blocks of rows, and lists.

Tiles are driven by ``engine.tiled.reduced``, small problems by ``engine.whole_sums``.  Where L is
computed in other ways, that is for speed: ``tiled.statistics`` and ``tiled.gradient`` take one
exponential of a pair for all its lines where no maximum is needed; ``whole`` makes a call of
PyTorch for both kinds of pair, and ``few_matrix`` needs no masks, where calls are what costs.
"""
