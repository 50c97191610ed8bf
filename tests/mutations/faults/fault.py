"""What a seeded fault is."""

from typing import NamedTuple


class Fault(NamedTuple):
    """`before` occurs once in `file` and is replaced by `after`."""

    file: str
    before: str
    after: str
    cases: str  # a key of mutant.CASES
    number_type: str = "bf16"
    variant: str = "plain"  # or "asan", "tsan"
