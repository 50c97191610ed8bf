"""A progress bar where tqdm is installed, silence where it is not, as on a bare GPU machine."""

from __future__ import annotations

from typing import Any

try:
    from tqdm import tqdm
except ImportError:
    tqdm = None


class Progress:
    """Counts up to ``total`` and shows the time left.  A context manager."""

    def __init__(self, total: float) -> None:
        self.total, self.done = total, 0.0
        form = "{desc}{percentage:3.0f}%|{bar}| {elapsed}, about {remaining} left"
        self._bar: Any = tqdm(total=total, bar_format=form, smoothing=0.1) if tqdm else None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def describe(self, what: str) -> None:
        """Says what is going on now."""
        if self._bar is not None:
            self._bar.set_description(what)

    def advance(self, amount: float = 1) -> None:
        """Adds to what is done."""
        amount = min(amount, self.total - self.done)  # sums of fractions may exceed the total
        self.done += amount
        if self._bar is not None:
            self._bar.update(amount)
