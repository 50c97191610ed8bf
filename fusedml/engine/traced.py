"""Named tuples with properties that torch.compile finds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

_LACKS_PROPERTIES = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 12)


class WithProperties:
    """The first base of a named tuple that has properties; its second one has the fields.

    Before PyTorch 2.12 torch.compile knows the fields and methods of a named tuple only.  A class
    with a ``__new__`` of its own is none to it, and it looks for whatever the class has; later it
    would trip over that.
    """

    __slots__ = ()

    if _LACKS_PROPERTIES and not TYPE_CHECKING:  # where the arguments are those of the fields

        def __new__(cls, *args, **kwargs):
            return super().__new__(cls, *args, **kwargs)
