"""The parts of the two calls, in their order and with their seconds.

The first call finds out what is right and how fast it is; the second looks at what the first one
found wrong or slow, after it was mended.  What a later part needs of an earlier one is binaries
alone, so that nothing but a failed build makes a part pointless.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from scripts.gpu_check import binaries
from scripts.gpu_check.running import ROOT, Part
from scripts.gpu_check.tools import has, tool

FIRST_MINUTES, SECOND_MINUTES = 6.5, 4.0
NATIVE = (
    *("gpu_statistics", "gpu_gradient", "gpu_engine", "gpu_groups", "gpu_sums"),
    *("gpu_divergences", "gpu_extreme_pairs"),
    *("gpu_two_sided", "gpu_positive_pairs", "gpu_thresholds"),
    *("gpu_listed_pairs", "gpu_windows", "gpu_normalize"),
)
HOPPER = (
    *("test_hopper_gpu", "test_hopper_product_gpu"),
    *("test_hopper_sweep_gpu", "test_hopper_weights_gpu", "test_hopper_special_gpu"),
)
RACES = ("gpu_statistics", "gpu_gradient")
# in this order: what the losses stand on, the losses, how they run
TESTS = tuple(
    f"tests/gpu/test_gpu_{name}.py" for name in ("operators", "engine", "losses", "execution")
)
# direction, kernels, how many of their launches
PROFILED = (
    ("forward", "pair_sweep|hopper_sweep", 1),
    (
        "backward",
        "pair_weights|weights_product|gradient_rows|hopper_weights|hopper_product|hopper_rows",
        4,
    ),
)
EXTENSION_PART = "build-extension"


@dataclass(frozen=True)
class Setting:
    """Where the parts run; the defaults are a machine with a GPU, others a rehearsal without.

    output: for what they write.  architecture: to compile for.  programs: folder of the binaries.
    package: where the extension is put.  seeds: of the native programs.  workers: of pytest.
    shrink: divides sizes, and seconds replaces the time of rounds, where it is set.
    environment: of every part.  selected: pytest's -k, to run less.  patience: multiplies limits.
    """

    output: Path
    architecture: str
    programs: Path = binaries.CARRIED
    package: Path = ROOT / "fusedml"
    device: str = "cuda"
    seeds: int = 3
    workers: int = 6
    shrink: int = 1
    seconds: float | None = None
    environment: dict[str, str] = field(default_factory=dict)
    selected: str | None = None
    patience: float = 1

    def program(self, name: str) -> str:
        return str(self.programs / name)


def python(*arguments: str) -> tuple[str, ...]:
    """A command of this interpreter."""
    return (sys.executable, *arguments)


def builds(setting: Setting) -> list[Part]:
    """A part for each binary: instantly done where it was carried and its sources are the same."""
    parts = []
    for name in binaries.for_architecture(setting.architecture):
        where = ("--folder", str(setting.programs), "--architecture", setting.architecture)
        install = ("--install", str(setting.package)) if name == binaries.EXTENSION else ()
        command = python("-m", "scripts.gpu_check.binaries", name, *where, *install)
        part = EXTENSION_PART if name == binaries.EXTENSION else f"build-{name}"
        parts.append(Part(part, (command,), 110))
    return parts


def machine(setting: Setting) -> Part:
    """GPU, clocks and versions, and whether the kernels load."""
    command = python("-m", "scripts.gpu_check.machine")
    return Part("machine", (command, ("nvidia-smi",)), 20, keeps_going=True)


def native(setting: Setting) -> Part:
    """The primitives, whose results are kept, and the operators against double loops.

    First of all Hopper's own instructions, on small integers, to the bit.
    """
    primitives = setting.program("test_primitives_gpu")
    built = binaries.for_architecture(setting.architecture)
    return Part(
        "native",
        (
            *((setting.program(name),) for name in HOPPER if name in built),
            (primitives, "--record", str(setting.output / "primitives.txt")),
            *((setting.program(name), str(setting.seeds)) for name in NATIVE),
        ),
        30,
        at_once=True,
    )


def smoke(setting: Setting) -> Part:
    """Each loss once, and one large step."""
    command = python("-m", "scripts.gpu_check.smoke", "--shrink", str(setting.shrink))
    return Part("smoke", (command,), 25, (EXTENSION_PART,))


def timer(setting: Setting) -> Part:
    """The operators without Python, under each choice of the plans; and what Hopper's kernels are
    to reach.
    """
    seconds = 15 if setting.seconds is None else setting.seconds
    sizes = ("--seconds", str(seconds), "--shrink", str(setting.shrink))
    program = setting.program("gpu_timer")
    return Part("timer", ((program, *sizes), (program, "--hopper", *sizes)), 50)


def tests(setting: Setting, selected: Sequence[str] = TESTS, limit_s: float = 85) -> Part:
    """tests/gpu, several processes on the one GPU; what hangs costs a worker and half a minute."""
    plugins: list[str] = []
    if has("xdist"):
        plugins += ["-n", str(setting.workers), "--maxschedchunk=1", "--max-worker-restart=60"]
    if has("pytest_timeout"):
        plugins += ["--timeout=30", "--timeout-method=thread"]
    command = python(
        *("-m", "pytest", *selected, "-o", "addopts=", "-q", "-rfE", "--tb=short"),
        *("-p", "no:cacheprovider", "--durations=10", *plugins),
        *(("-k", setting.selected) if setting.selected else ()),
        f"--junitxml={setting.output / 'tests.xml'}",
    )
    return Part("tests", (command,), limit_s, (EXTENSION_PART,))


def goldens(setting: Setting) -> Part:
    """What the operators give, to be compared with the emulator."""
    command = python("-m", "tests.golden", str(setting.output / "golden.npz"))
    return Part("goldens", (command,), 25, (EXTENSION_PART,))


def goals(setting: Setting, name: str = "goals", limit_s: float = 90, *options: str) -> Part:
    """The table of goals, with nothing else running."""
    seconds = () if setting.seconds is None else ("--seconds", str(setting.seconds))
    # its largest n is four times the others', and a CPU's bfloat16 products are slow
    shrink = 1 if setting.shrink == 1 else 4 * setting.shrink
    command = python(
        *("-m", "benchmarks.gpu_goals", "--output", str(setting.output / f"{name}.csv")),
        *("--device", setting.device, "--shrink", str(shrink), *seconds, *options),
    )
    return Part(name, (command,), limit_s, (EXTENSION_PART,))


def profile(setting: Setting, d: int) -> Part:
    """The main kernels under the profiler: all it knows in files, figures, its details as text.

    Forward and backward apart, as the launches of the one are many before the other begins.
    """
    collected, figures, details = zip(*(_profile(setting, d, *k) for k in PROFILED), strict=True)
    return Part(f"profile-{d}", (*collected, *figures, *details), 30, keeps_going=True)


def _profile(
    setting: Setting, d: int, direction: str, kernels: str, launches: int
) -> tuple[tuple[str, ...], ...]:
    ncu, n = tool("ncu"), 16384 // setting.shrink
    report = str(setting.output / f"profile-{d}-{direction}")
    collect = (
        *(ncu, "--clock-control", "none", "--set", "full", "--import-source", "yes"),
        *("--kernel-name", f"regex:.*({kernels})_kernel.*", "--launch-count", str(launches)),
        *("-f", "-o", report, setting.program("gpu_timer"), "--profile", str(n), str(d)),
    )
    show = (ncu, "--import", f"{report}.ncu-rep", "--page")
    return collect, (*show, "raw", "--csv"), (*show, "details")


def sanitizer(setting: Setting, kind: str, programs: Sequence[str], limit_s: float) -> Part:
    """Native programs under one of the sanitizer's tools, side by side, one seed each."""
    command = (tool("compute-sanitizer"), "--error-exitcode=9", "--launch-timeout=60")
    return Part(
        kind,
        tuple((*command, "--tool", kind, setting.program(name), "1") for name in programs),
        limit_s,
        at_once=True,
    )


def bench(setting: Setting) -> Part:
    """The last: it writes its file after each case, so less time means fewer rows."""
    small = ("--n", "64", "--classes", "100", "--providers", "fusedml", "--rounds", "1")
    sizes = small if setting.shrink > 1 else ()
    command = python(
        *("-m", "benchmarks.bench", "--suite", "gpu", "--device", setting.device, *sizes),
        *("--time-limit-s", "30", "--output", str(setting.output / "bench.csv")),
    )
    return Part("bench", (command,), 230, (EXTENSION_PART,))


def first_call(setting: Setting) -> list[Part]:
    """Is it right, how fast is it, what is slow."""
    parts = [
        *builds(setting),
        machine(setting),
        native(setting),
        smoke(setting),
        timer(setting),
        tests(setting),
        goldens(setting),
        goals(setting),
        profile(setting, 768),
        profile(setting, 128),
        sanitizer(setting, "memcheck", NATIVE, 60),
        sanitizer(setting, "racecheck", RACES, 60),
    ]
    return _in_setting(setting, parts)


def second_call(
    setting: Setting, failed: Sequence[str], races: Sequence[str], before: Path | None
) -> list[Part]:
    """What was mended: tests that had failed, times before and after, races; then the benchmark.

    failed: ids of tests.  races: native programs whose kernels have changed.  before: a folder
    with the package and its extension as they were, or None.
    """
    parts = [*builds(setting), machine(setting)]
    if failed:
        parts.append(tests(setting, failed, 60))
    if before is not None:
        parts.append(_goals_before(setting, before))
    parts.append(goals(setting, "goals", 60, "--eager"))
    if before is not None:
        old, new = (str(setting.output / f"{name}.csv") for name in ("goals-before", "goals"))
        compare = python("-m", "benchmarks.bench", "--compare", old, new)
        parts.append(Part("goals-compared", (compare,), 15))
    if races:
        parts.append(sanitizer(setting, "racecheck", races, 40))
    return _in_setting(setting, [*parts, bench(setting)])


def _goals_before(setting: Setting, before: Path) -> Part:
    """The goals with the other package, which shadows the one here."""
    part = goals(setting, "goals-before", 60, "--eager")
    paths = os.pathsep.join([str(before), str(ROOT), setting.environment.get("PYTHONPATH", "")])
    return replace(part, needs=(), environment={"PYTHONPATH": paths, "PYTHONSAFEPATH": "1"})


def _in_setting(setting: Setting, parts: Sequence[Part]) -> list[Part]:
    return [
        replace(
            part,
            limit_s=part.limit_s * setting.patience,
            environment={**setting.environment, **part.environment},
        )
        for part in parts
    ]
