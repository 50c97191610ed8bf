"""The operators' definitions with dense float64 matrices: the ground truth of the interpreted
kernels.  The words are those of csrc/kernels/api.h."""

from dataclasses import dataclass

import numpy as np


@dataclass
class Dense:
    """anchors [n, d], references [m, d] or None, labels, numbers or sets of words, logit [4],
    extent: the rows and columns that take part, or None; excluded: bool [n, m], the pairs that are
    ignored, or None; gradients follow below."""

    anchors: np.ndarray
    references: np.ndarray | None
    anchor_labels: np.ndarray
    reference_labels: np.ndarray | None
    logit: tuple
    measure: str
    extent: tuple | None = None
    excluded: np.ndarray | None = None

    def __post_init__(self):
        a = self.anchors
        r = a if self.references is None else self.references
        labels = self.anchor_labels if self.references is None else self.reference_labels
        squared = ((a[:, None] - r[None]) ** 2).sum(axis=2)
        distances = {"euclidean": np.sqrt(squared), "squared_euclidean": squared}
        self.is_distance = self.measure in distances
        self.x = distances.get(self.measure, a @ r.T)
        exists = np.ones_like(squared, bool)
        if self.excluded is not None:
            exists &= ~self.excluded
        if self.extent is not None:
            exists[self.extent[0] :] = False
            exists[:, self.extent[1] :] = False
        if labels.ndim == 2:
            equal = (self.anchor_labels[:, None] & labels[None]).any(axis=2)
        else:
            equal = self.anchor_labels[:, None] == labels[None]
        self.positive, self.negative = exists & equal, exists & ~equal
        # z = scale f + shift g of each kind, and dz/dx as the backward takes it
        self.terms, slopes = zip(*(self.curve(kind) for kind in (True, False)), strict=True)
        z, self.slopes = (
            [
                scale * f + shift * g
                for scale, shift, (f, g) in zip(self.logit[::2], self.logit[1::2], of, strict=True)
            ]
            for of in (self.terms, slopes)
        )
        self.z = np.where(equal, *z)

    def turned(self):
        """The same pairs seen from the references."""
        sides = self.references, self.anchors, self.reference_labels, self.anchor_labels
        extent = None if self.extent is None else self.extent[::-1]
        excluded = None if self.excluded is None else self.excluded.T
        return Dense(*sides, self.logit, self.measure, extent, excluded)

    def curve(self, is_positive):
        """((f, g), (their slopes)) of z = scale f(x) + shift g(x) on positives or negatives."""
        x, one, zero = self.x, np.ones_like(self.x), np.zeros_like(self.x)
        scale, shift = self.logit[:2] if is_positive else self.logit[2:]
        if self.measure == "circle":
            zero_of_logit = -shift / scale
            limit = 2 - zero_of_logit - x if is_positive else x + zero_of_logit
            bracket = np.maximum(limit, 0)
            return (bracket * x, bracket), (bracket, zero)
        if self.measure == "angular_margin" and is_positive:
            root = np.sqrt(np.maximum(1 - x * x, np.finfo(np.float32).eps))
            slope = np.where(1 - x * x >= np.finfo(np.float32).eps, -x / root, 0)
            return (x, root), (one, slope)
        return (x, one), (one, zero)

    def hardness(self):
        return -self.x if self.is_distance else self.x

    def mine(self):
        """thresholds [2, n] in the middle of each row, between two pairs; only what is hardest,
        by them, counts from now on."""
        exists = self.positive | self.negative
        y = np.where(exists, self.hardness(), np.nan)
        thresholds = np.zeros((2, len(y)))
        for i in np.flatnonzero(exists.any(axis=1)):
            ordered = np.sort(y[i][exists[i]])
            first = max(1, len(ordered) // 4)
            gaps = ordered[1:] - ordered[:-1]
            k = first - 1 + np.argmax(gaps[first - 1 : max(first, 3 * len(ordered) // 4)])
            thresholds[:, i] = ordered[k : k + 2].mean()
        self.positive &= self.hardness() < thresholds[0][:, None]
        self.negative &= self.hardness() > thresholds[1][:, None]
        return thresholds

    def extrema(self):
        y = self.hardness()
        return np.stack(
            [
                np.where(self.positive, y, np.inf).min(axis=1),
                np.where(self.negative, y, -np.inf).max(axis=1),
            ]
        )

    def statistics(self):
        return np.stack(
            [
                lse(np.where(self.positive, self.z, -np.inf)),
                lse(np.where(self.negative, self.z, -np.inf)),
                np.where(self.positive, self.z, 0).sum(axis=1),
            ]
        )

    def counts(self):
        return np.stack([self.positive.sum(axis=1), self.negative.sum(axis=1)])

    def logit_weights(self, statistics, grad):
        """d(sum of grad . statistics) / dz_ij."""
        with np.errstate(all="ignore"):
            of_positive = grad[0][:, None] * np.exp(self.z - statistics[0][:, None])
            of_negative = grad[1][:, None] * np.exp(self.z - statistics[1][:, None])
        return np.where(self.positive, of_positive + grad[2][:, None], 0) + np.where(
            self.negative, of_negative, 0
        )

    def gradients(self, d_z):
        """(anchors_grad, references_grad or None, logit_grad) from dL/dz [n, m]."""
        d_positive, d_negative = np.where(self.positive, d_z, 0), np.where(self.negative, d_z, 0)
        logit_grad = np.array(
            [
                (d_z * term).sum()
                for d_z, terms in zip((d_positive, d_negative), self.terms, strict=True)
                for term in terms
            ]
        )
        d_x = d_positive * self.slopes[0] + d_negative * self.slopes[1]
        to_a, to_r = self.measure_gradients(d_x)
        return to_a, to_r, logit_grad

    def measure_gradients(self, d_x):
        """(anchors_grad, references_grad or None) from dL/dx [n, m]."""
        a = self.anchors
        r = a if self.references is None else self.references
        if not self.is_distance:
            to_a, to_r = d_x @ r, d_x.T @ a
        else:
            with np.errstate(all="ignore"):
                slope = np.where(self.x == 0, 0, 1 / self.x) if self.measure == "euclidean" else 2
            w = d_x * slope
            to_a = w.sum(axis=1)[:, None] * a - w @ r
            to_r = w.sum(axis=0)[:, None] * r - w.T @ a
        if self.references is None:
            return to_a + to_r, None
        return to_a, to_r


def lse(z):
    """Log-sum-exp of each row; -inf for an empty set."""
    largest = z.max(axis=1)
    shift = np.where(np.isfinite(largest), largest, 0)
    with np.errstate(all="ignore"):
        return shift + np.log(np.exp(z - shift[:, None]).sum(axis=1))


def softplus(x):
    return np.logaddexp(0, x)


def sigmoid(x):
    return np.exp(-np.logaddexp(0, -x))
