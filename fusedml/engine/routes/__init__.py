"""Three ways from embeddings to losses, chosen by the input, each in bounded memory.

``fused``   labels and a distance the tiles can measure: the operators of ``engine.autograd``.
``listed``  an explicit index tuple: memory proportional to the listed pairs.
``blocks``  labels and any other distance: blocks of rows, recomputed in the backward.

``choice`` picks one, and ``listed_sides`` whether listed pairs are read from a matrix of all;
``class_pairs`` and ``proxies`` make the pair problems of N-pair and proxy losses,
``swapped_triplets`` strips of positive pairs.  ``row_strips`` is what miners look at: whole rows,
measured by any distance; ``window_lists`` what they list of them, pairs in ``windows``, and
``threshold_pairs`` the pairs next to others.
"""
