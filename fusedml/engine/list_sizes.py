"""Which way the pairs of an index tuple are computed: by how many there are, beside all pairs.

On the matrix of all pairs; on the matrix with what is done to its listed entries alone; on copies
of both rows of each listed pair; or by operators that take a list, in memory proportional to it.
"""

from __future__ import annotations

from dataclasses import dataclass

# The matrix is less work than the list if it lists one of so many of its pairs, or if there are few
# pairs at all.
_PAIRS_PER_DENSE = 2
_FEW_PAIRS = 1 << 17

# Fewer pairs than one of so many, and one for eight numbers of a row, are copied and multiplied one
# by one; a matrix of up to so many pairs costs no more than what that spares.
_PAIRS_PER_GATHERED = 30
_FEW_MULTIPLIED = 1 << 10
# Elements of copied rows, 8 MB in float32.
_MOST_GATHERED = 1 << 21

# Fewer entries than one of so many are less work one by one than as a matrix.
_PAIRS_PER_ENTRY = 8

# Pairs of the problem for each listed one up to which matrices of all are held, in floating point
# or as marks: they take as much memory as the list several times over, or as sorting it.
_PAIRS_PER_HELD = 32
# Numbers of listed pairs that may be held several times over: 4 MB in float32.
_MOST_HELD = 1 << 20
# Up to so many a call costs more than its pairs.
_FEW_LISTED = 1 << 14


@dataclass(slots=True)
class ListSize:
    """num_pairs: of the problem, listed or not.  num_listed: of both kinds, each as often as it is
    listed.  width: numbers of a row.
    """

    num_pairs: int
    num_listed: int
    width: int

    @property
    def is_dense(self) -> bool:
        """Whether the matrix of all pairs is less work than the list."""
        return self.num_pairs <= max(_FEW_PAIRS, self.num_listed * _PAIRS_PER_DENSE)

    @property
    def is_gathered(self) -> bool:
        """Whether copies of both rows of each listed pair are less work than the matrix."""
        if self.num_listed * self.width > _MOST_GATHERED:
            return False
        most = self.num_listed * (_PAIRS_PER_GATHERED + self.width // 8)
        return self.num_pairs > max(_FEW_MULTIPLIED, most)

    @property
    def is_sparse(self) -> bool:
        """Whether the listed entries are less work one by one, gathered or read from the matrix,
        than matrices of all or the list.
        """
        if self.is_gathered:
            return True
        return self.is_dense and self.num_pairs > self.num_listed * _PAIRS_PER_ENTRY

    @property
    def fills_matrix(self) -> bool:
        """Whether matrices of all pairs, or marks, take no more memory than the list, but for a
        constant.
        """
        return self.num_pairs <= self.num_listed * _PAIRS_PER_HELD

    @property
    def may_be_held(self) -> bool:
        """Whether numbers of the listed pairs may be held several times over."""
        return self.num_listed <= _MOST_HELD

    @property
    def is_short(self) -> bool:
        """Whether a call costs more than its pairs."""
        return self.num_listed <= _FEW_LISTED
