"""Executes the PTX that nvcc emits, with numpy, to check the device side of the primitives.

The g++ emulator runs the kernels' C++ source and never sees the text of the inline assembly; this
interpreter runs what nvcc makes of both.  A register is an array over the lanes of a team of warps.
Unknown instructions raise Fault.
"""

from .async_units import tensor_map
from .memory import Fault, GlobalMemory
from .simulator import Module

__all__ = ["Fault", "GlobalMemory", "Module", "tensor_map"]
