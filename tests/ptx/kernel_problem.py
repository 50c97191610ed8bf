"""Small random problems for the interpreted kernels: arrays in the number type's own storage beside
the same numbers in float64."""

import ctypes as c

import numpy as np
from dense_numpy import Dense
from interpreter.number_types import bf16_to_f32, f32_to_bf16
from kernel_api import DISTANCES, GROUPS, MEASURES, NUMBER_TYPES, Problem

_STORAGE = {"fp16": np.float16, "tf32": np.float32, "fp32": np.float32, "fp64": np.float64}

# Largest error relative to the largest value: sums and logits are fp32; products of the stored
# numbers are exact except in tf32, whose logits of slope 10 amplify its rounding.
TOLERANCE = {"bf16": 2e-5, "fp16": 2e-5, "tf32": 4e-3, "fp32": 1e-5, "fp64": 1e-13}
# The pair weights are rounded too.
GRADIENT_TOLERANCE = {"bf16": 1.2e-2, "fp16": 2e-3, "tf32": 1.5e-2, "fp32": 4e-5, "fp64": 1e-13}


def real_of(number_type):
    """What statistics are stored as."""
    return np.float64 if number_type == "fp64" else np.float32


def stored(x, number_type):
    """The array as the kernels read it; bf16 as its bits."""
    if number_type == "bf16":
        return f32_to_bf16(x.astype(np.float32))
    return x.astype(_STORAGE[number_type])


def numbers(array, number_type):
    """The stored numbers in float64."""
    return (bf16_to_f32(array) if number_type == "bf16" else array).astype(np.float64)


class _Arrays:
    """Arrays in the library's memory, of n rows of d numbers."""

    def zeros(self, *shape, dtype=None):
        """Address of an output array, of the statistics' type unless told."""
        return self.library.put(np.full(shape, 7, dtype or real_of(self.number_type)))

    def zero_embeddings(self, rows):
        return self.library.put(stored(np.full((rows, self.d), 7.0), self.number_type))

    def get(self, address):
        return self.library.memory.get(address)

    def expect(self, what, address, expected, tolerance, *, embeddings=False):
        """The array at `address` equals `expected` up to tolerance times the largest of it."""
        actual = self.get(address)
        actual = numbers(actual, self.number_type) if embeddings else actual.astype(np.float64)
        finite = np.isfinite(expected)
        np.testing.assert_array_equal(actual[~finite], expected[~finite], err_msg=what)
        scale = max(1.0, np.abs(expected[finite]).max(initial=0))
        np.testing.assert_allclose(
            actual[finite], expected[finite], rtol=0, atol=tolerance * scale, err_msg=what
        )


class SmallProblem(_Arrays):
    """A problem in the library's memory; `m` 0 is a self problem.

    mined: each row has thresholds.  has_extent: the last rows of both sides take no part, and hold
    NaN.  disjoint_labels: no pair is positive.  exact: the embeddings are
    quarters, so that products are exact in every number type, and ties are ties.
    set_words: of labels that are sets.  self_offset: of the rows among the references.
    """

    def __init__(
        self,
        library,
        number_type,
        measure,
        n,
        m,
        d,
        *,
        seed=0,
        mined=False,
        has_extent=False,
        disjoint_labels=False,
        exact=False,
        set_words=0,
        self_offset=None,
    ):
        generator = np.random.default_rng(seed)
        self.library, self.number_type, self.is_self = library, number_type, m == 0
        self.n, self.m, self.d, self.measure = n, m or n, d, measure
        sign = -1 if measure in DISTANCES else 1
        logit = (-2.0 * sign, 1.0, 10.0 * sign, -3.0)

        def side(rows):
            shape = rows, d
            x = generator.integers(-2, 3, shape) / 4 if exact else generator.standard_normal(shape)
            x = stored(x if exact else x / np.sqrt(d), number_type)
            if not set_words:
                return x, generator.integers(0, 3, rows) << np.int64(33)
            # few bits in each word, the sign among them
            bits = generator.random((rows, set_words, 3)) < 0.3 / set_words
            return x, (bits * np.array([1, 1 << 33, -(1 << 63)], np.int64)).sum(2)

        a, a_labels = side(n)
        r, r_labels = (None, None) if self.is_self else side(m)
        if disjoint_labels:
            r_labels += np.int64(3) << np.int64(33)
        extent = (n - 2, n - 2 if self.is_self else m - 1) if has_extent else None
        excluded = None
        if self.is_self or self_offset is not None:
            own = (np.arange(n) + (self_offset or 0)) % self.m
            excluded = own[:, None] == np.arange(self.m)
        self.dense = Dense(
            numbers(a, number_type),
            None if r is None else numbers(r, number_type),
            a_labels,
            r_labels,
            logit,
            measure,
            extent,
            excluded,
        )
        if has_extent:
            for array, active in zip((a, r), extent, strict=True):
                if array is not None:
                    array[active:] = stored(np.float32("nan"), number_type)
        real = real_of(number_type)
        self.struct = Problem(
            NUMBER_TYPES.index(number_type),
            MEASURES.index(measure),
            library.put(a),
            library.put(r),
            *(
                library.put(None if labels is None else np.ascontiguousarray(labels.T))
                for labels in (a_labels, r_labels)  # sets word by word
            ),
            n,
            m,
            d,
            self.is_self,
            excluded is not None,
            None,
            (c.c_double * 4)(*logit),
            library.put(self.dense.mine().astype(real)) if mined else None,
            library.put(np.array(extent, np.int64)) if has_extent else None,
            set_words=set_words,
            self_offset=self_offset or 0,
        )


class SmallGroups(_Arrays):
    """n rows against classes of `size` vectors each, in the library's memory and in float64."""

    def __init__(self, library, number_type, group, n, num_classes, size, d, sharpness=7.0):
        generator = np.random.default_rng(5)
        self.library, self.number_type, self.group = library, number_type, group
        self.n, self.d, self.sharpness = n, d, sharpness
        self.logit = logit = (-2.0, 1.0, 10.0, -3.0)
        # bf16's numbers are exact in TF32, too: no rounding chooses among the vectors of a class
        shape, coarse = (num_classes, size, d), "bf16" if number_type == "tf32" else number_type
        a, w = (
            stored(numbers(stored(x / np.sqrt(d), coarse), coarse), number_type)
            for x in map(generator.standard_normal, ((n, d), shape))
        )
        labels = generator.integers(0, num_classes, n)
        self.a, self.w = (numbers(x, number_type) for x in (a, w))
        self.own = labels[:, None] == np.arange(num_classes)
        y = np.einsum("id,ckd->ick", self.a, self.w)
        if group == "maximum":
            self.slopes = np.arange(size) == y.argmax(2)[:, :, None]
            self.s = y.max(2)
        else:
            p = np.exp(sharpness * (y - y.max(2, keepdims=True)))
            p /= p.sum(2, keepdims=True)
            self.s = (p * y).sum(2)
            self.slopes = p * (1 + sharpness * (y - self.s[:, :, None]))
        self.scale = np.where(self.own, logit[0], logit[2])
        self.z = self.scale * self.s + np.where(self.own, logit[1], logit[3])
        self.struct = Problem(
            NUMBER_TYPES.index(number_type),
            len(MEASURES) + GROUPS.index(group),
            library.put(a),
            library.put(w.reshape(-1, d)),
            library.put(labels),
            None,
            n,
            num_classes * size,
            d,
            False,
            False,
            None,
            (c.c_double * 4)(*logit),
            None,
            None,
            size,
            sharpness,
            None,
        )

    def statistics(self):
        """[2, n]: lse of the other classes, and the own one's logit."""
        others = np.where(self.own, -np.inf, self.z)
        largest = others.max(1, keepdims=True)
        lse = largest[:, 0] + np.log(np.exp(others - largest).sum(1))
        return np.stack([lse, np.where(self.own, self.z, 0).sum(1)])

    def gradients(self, statistics, grad):
        """Of anchors, vectors [C K, d] and logit."""
        of_others = grad[0][:, None] * np.exp(self.z - statistics[0][:, None])
        d_z = np.where(self.own, grad[1][:, None], of_others)
        weights = (d_z * self.scale)[:, :, None] * self.slopes
        to_vectors = np.einsum("ick,id->ckd", weights, self.a).reshape(-1, self.d)
        kinds = (np.where(kind, d_z, 0) for kind in (self.own, ~self.own))
        to_logit = [x for of in kinds for x in ((of * self.s).sum(), of.sum())]
        return np.einsum("ick,ckd->id", weights, self.w), to_vectors, np.array(to_logit)
