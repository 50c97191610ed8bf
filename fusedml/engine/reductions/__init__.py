"""Reductions of pairs to a few numbers per line, each written once for all that drives them.

``entries``  what a reduction sees: measures, kinds of pair, and the lines that the pairs feed.
``logits``   the logits of a formula, in numbers.
``reduced``  what all reductions have in common: forward ``add``, backward ``weights``.
``sums``     S: sums of functions of the logits.
``thresholds``  T: sums of each line's negatives against its positives.
``extrema``  X: the extreme pair of each line, and its column.
``given``    drives them on measures that are given: blocks of rows, and lists.

Tiles are driven by ``engine.tiled.reduced``, small problems by ``engine.whole_sums``.
"""
