"""The kernel library's own host code, with its launches run by the PTX interpreter.

The emulated library (csrc/kernels compiled for the emulator) plans and launches as on a GPU; its
launch observer hands each launch over: kernel, grid, block, shared memory and parameters.  Device
pointers are addresses in the interpreter's memory, which the host code never follows.

The structs mirror csrc/kernels/api.h.
"""

import ctypes as c
import re
import subprocess

import numpy as np
from interpreter import GlobalMemory

NUMBER_TYPES = ("bf16", "fp16", "tf32", "fp32", "fp64")
MEASURES = ("dot", "euclidean", "squared_euclidean", "angular_margin", "circle")
GROUPS = ("maximum", "soft_maximum")  # behind the measures
DISTANCES = ("euclidean", "squared_euclidean")
ROW_HEADS = ("softplus_sum", "hinge_sum", "cross_entropy", "mean_cross_entropy")
PAIR_HEADS = ("softplus_gap", "squared_hinge")
ROUTES = ("auto", "rows", "panel")
TILE_SIZES = ("auto", "large", "small")


def _struct(name, **fields):
    return type(name, (c.Structure,), {"_fields_": list(fields.items())})


_POINTER = c.c_void_p
Problem = _struct(
    "Problem",
    number_type=c.c_int,
    measure=c.c_int,
    anchors=_POINTER,
    references=_POINTER,
    anchor_labels=_POINTER,
    reference_labels=_POINTER,
    n=c.c_int64,
    m=c.c_int64,
    d=c.c_int64,
    is_self=c.c_bool,
    exclude_diagonal=c.c_bool,
    device_logit=_POINTER,
    logit=c.c_double * 4,
    thresholds=_POINTER,
    extent=_POINTER,
    group_size=c.c_int,
    sharpness=c.c_double,
    device_sharpness=_POINTER,
    labels_sorted=c.c_bool,
    set_words=c.c_int,
    self_offset=c.c_int64,
)
RowHead = _struct("RowHead", kind=c.c_int, device_parameters=_POINTER, parameters=c.c_double * 2)
StatisticsOutputs = _struct(
    "StatisticsOutputs", statistics=_POINTER, counts=_POINTER, losses=_POINTER, partials=_POINTER
)
GradientOutputs = _struct("GradientOutputs", anchors=_POINTER, references=_POINTER, logit=_POINTER)
SweepOptions = _struct(
    "SweepOptions",
    max_slot_bytes=c.c_int64,
    grid_blocks=c.c_int64,
    tile_size=c.c_int,
    engine=c.c_int,
)
GradientOptions = _struct(
    "GradientOptions",
    route=c.c_int,
    max_panel_bytes=c.c_int64,
    max_sum_bytes=c.c_int64,
    max_slot_bytes=c.c_int64,
    max_workspace_bytes=c.c_int64,
    tile_size=c.c_int,
    engine=c.c_int,
)
FORMS = ("hinge", "softplus", "sigmoid", "pulse")
Thresholds = _struct(
    "Thresholds",
    values=_POINTER,
    count=c.c_int64,
    form=c.c_int,
    origin=c.c_double,
    unit=c.c_double,
    margin=c.c_double,
    at_least=c.c_double,
    above=c.c_double,
    below=c.c_double,
    others=_POINTER,
)
ListedPairs = _struct("ListedPairs", rows=_POINTER, columns=_POINTER, count=c.c_int64)
PairWindows = _struct("PairWindows", values=_POINTER, width=c.c_int64)
WindowList = _struct(
    "WindowList",
    ends=_POINTER,
    size=c.c_int64,
    rows=_POINTER,
    columns=_POINTER,
    measures=_POINTER,
)
SortedPairs = _struct("SortedPairs", keys=_POINTER, order=_POINTER)
Normalization = _struct(
    "Normalization",
    number_type=c.c_int,
    is_float=c.c_bool,
    x=_POINTER,
    order=_POINTER,
    places=_POINTER,
    rows=c.c_int64,
    d=c.c_int64,
)
ExtremePairs = _struct("ExtremePairs", is_largest=c.c_bool * 2, intervals=_POINTER)
PairTerm = _struct(
    "PairTerm",
    exponent=c.c_double,
    square=c.c_double,
    linear=c.c_double,
    constant=c.c_double,
    floor=c.c_double,
    ceiling=c.c_double,
    is_closed=c.c_bool,
    is_softplus=c.c_bool,
)
PairSums = _struct(
    "PairSums",
    terms=PairTerm * 4,
    is_positive=c.c_bool * 4,
    num_terms=c.c_int,
    both_sides=c.c_bool,
    shifts=_POINTER,
)
PairSumsOutputs = _struct(
    "PairSumsOutputs", sums=_POINTER, slopes=_POINTER, counts=_POINTER, numbers=_POINTER
)
SecondProduct = _struct("SecondProduct", rows=_POINTER, d=c.c_int64)
PositivePairs = _struct("PositivePairs", head=c.c_int, reference_lse=_POINTER)
_Launch = _struct(
    "Launch",
    kernel=_POINTER,
    grid=c.c_uint32 * 3,
    block=c.c_uint32 * 3,
    dynamic_shared_bytes=c.c_size_t,
    num_arguments=c.c_int,
    arguments=c.POINTER(_POINTER),
    argument_bytes=c.POINTER(c.c_size_t),
)
_Observer = c.CFUNCTYPE(c.c_bool, c.POINTER(_Launch))


def sweep_options(grid_blocks=0, tile_size="large"):
    """SweepOptions; large tiles, though the problems are small."""
    return SweepOptions(0, grid_blocks, TILE_SIZES.index(tile_size))


def gradient_options(route, max_panel_bytes=0, tile_size="large"):
    """GradientOptions, likewise."""
    options = GradientOptions(ROUTES.index(route), max_panel_bytes)
    options.tile_size = TILE_SIZES.index(tile_size)
    return options


class KernelLibrary:
    """The host functions of api.h.

    module: the interpreter.Module that the launches go to; memory: its GlobalMemory; launched:
    [(mangled name, threads of a block, bytes of dynamic shared memory)]; blocks, blocks_down: the
    first two sides of their grids.
    """

    def __init__(self, path):
        self._library = c.CDLL(str(path))
        self._functions, self._kernels = {}, {}
        self._observer = observer = c.c_void_p.in_dll(self._library, "launch_observer")
        symbols = _symbols(path)
        offsets = [address for name, address in symbols if name == "launch_observer"]
        base = c.addressof(observer) - offsets[0]
        for name, address in symbols:
            if match := re.match(
                r"_ZN7fusedml\d+([a-z_]+)ERKNS_(?:7Problem|13Normalization)", name
            ):
                self._functions[match[1]] = name
            elif re.match(r"_ZN7fusedmlL?\d+[a-z_]+_kernel", name):
                # nvcc does not mark the names of static kernels
                self._kernels[base + address] = name.replace("7fusedmlL", "7fusedml")
        self._callback = _Observer(self._observe)
        observer.value = c.cast(self._callback, c.c_void_p).value
        self.module, self.memory, self.launched, self._error = None, None, [], None
        self.blocks, self.blocks_down = [], []

    def close(self):
        """Lets the library run its own launches again, before the observer is gone."""
        self._observer.value = None

    def start(self, module, bytes_of_memory=1 << 22):
        """Begins anew with empty memory."""
        self.module, self.memory, self.launched = module, GlobalMemory(bytes_of_memory), []
        self.blocks, self.blocks_down = [], []

    def put(self, array):
        """The address of a copy of the array; None for None."""
        return None if array is None else int(self.memory.put(array))

    def call(self, name, problem, *arguments, workspace):
        """Runs an operator; `workspace` are the arguments of its workspace function, or None.

        The sweep's or the gradient's options come last in both, as in api.h.
        """
        memory = []
        if workspace is not None:
            size = self._function(f"{name}_workspace", c.c_size_t)
            bytes_of = size(*_by_reference([problem, *workspace]))
            memory = [self.put(np.full(bytes_of, 0xFF, np.uint8))]
        function = self._function(name, c.c_int)
        split = len(arguments)
        if arguments and isinstance(arguments[-1], (SweepOptions, GradientOptions)):
            split -= 1  # behind the stream
        parameters = [problem, *arguments[:split], *memory, None, *arguments[split:]]
        error = function(*_by_reference(parameters))
        if self._error is not None:
            raised, self._error = self._error, None
            raise raised
        assert error == 0

    def _function(self, name, result):
        function = getattr(self._library, self._functions[name])
        function.restype = result
        return function

    def _observe(self, pointer):
        if self.module is None or self._error is not None:
            return self._error is not None
        try:
            launch = pointer.contents
            name = self._kernels[launch.kernel]
            arguments = [
                c.string_at(launch.arguments[i], launch.argument_bytes[i])
                for i in range(launch.num_arguments)
            ]
            self.launched.append((name, launch.block[0], launch.dynamic_shared_bytes))
            self.blocks.append(launch.grid[0])
            self.blocks_down.append(launch.grid[1])
            self.module.launch(
                name,
                tuple(launch.grid),
                tuple(launch.block),
                arguments,
                self.memory,
                dynamic_bytes=launch.dynamic_shared_bytes,
                seed=1,
            )
        except Exception as error:  # an exception cannot pass through C++
            self._error = error
        return True


def _by_reference(values):
    return [
        c.byref(value) if isinstance(value, c.Structure) else c.c_void_p(value) for value in values
    ]


def _symbols(path):
    """[(mangled name, offset)] of the library; each file has its own copies of static kernels."""
    done = subprocess.run(
        ["nm", "--defined-only", str(path)], capture_output=True, text=True, check=True
    )
    lines = (line.split() for line in done.stdout.splitlines())
    return [(fields[2], int(fields[0], 16)) for fields in lines if len(fields) == 3]
