"""What the two calls of scripts/gpu_check consist of, and what is made of their results."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest

from fusedml import native
from scripts.gpu_check import __main__ as command
from scripts.gpu_check import binaries, calls, failures, profile, summary, tools
from scripts.gpu_check.running import FAILED, OK, SKIPPED, Result

ROOT = Path(__file__).resolve().parents[2]
BUILDS = [
    *("build-extension", "build-libfusedml_gpu.so"),
    *(
        f"build-gpu_{name}"
        for name in (
            *("statistics", "gradient", "engine", "groups", "sums", "divergences"),
            *("extreme_pairs", "two_sided"),
            *("positive_pairs", "thresholds", "listed_pairs", "windows", "normalize"),
        )
    ),
    *("build-test_primitives_gpu", "build-test_hopper_gpu", "build-test_hopper_product_gpu"),
    *("build-test_hopper_sweep_gpu", "build-test_hopper_weights_gpu"),
    *("build-test_hopper_special_gpu", "build-gpu_timer"),
]
FIRST = [
    *("machine", "native", "smoke", "timer", "tests", "goldens", "goals"),
    *("profile-768", "profile-128", "memcheck", "racecheck"),
]
# of the parts that come before the sanitizers, which take what is left
MOST_S = {
    **{"machine": 20, "native": 30, "smoke": 25, "timer": 50, "tests": 85, "goldens": 25},
    **{"goals": 90, "profile-768": 30, "profile-128": 30},
}


def setting(output=Path("/out"), **changes):
    return calls.Setting(output, "9.0a", **changes)


def names(parts):
    return [part.name for part in parts]


def test_order_and_seconds_of_the_first_call():
    parts = calls.first_call(setting())
    assert names(parts) == [*BUILDS, *FIRST]
    limits = {part.name: part.limit_s for part in parts}
    assert {name: limits[name] for name in MOST_S} == MOST_S
    # with everything carried, all of them fit even if each takes its limit; and so they do, but for
    # the last two, after a build of a minute and a half there
    assert sum(MOST_S.values()) <= calls.FIRST_MINUTES * 60 < 10 * 60
    usual = 10 + 20 + 10 + 15 + 80 + 20 + 80 + 40
    assert 90 + usual <= calls.FIRST_MINUTES * 60


def test_only_a_failed_build_makes_a_part_pointless():
    parts = calls.first_call(setting()) + calls.second_call(setting(), ["x"], calls.RACES, ROOT)
    for part in parts:
        assert set(part.needs) <= {calls.EXTENSION_PART}, part.name
        # builds need nothing: one that fails skips no other; nor do the native programs
        if part.name.startswith("build-") or part.name in ("native", "timer", "memcheck"):
            assert part.needs == ()
    assert {part.name: part.at_once for part in parts}["native"]


def test_second_call():
    parts = calls.second_call(setting(), ["a::b", "c::d[e f]"], ["gpu_gradient"], Path("/before"))
    assert names(parts)[len(BUILDS) :] == [
        *("machine", "tests", "goals-before", "goals", "goals-compared", "racecheck", "bench"),
    ]
    by_name = {part.name: part for part in parts}
    (tests,) = by_name["tests"].commands
    assert {"a::b", "c::d[e f]"} <= set(tests) and not set(calls.TESTS) & set(tests)
    (race,) = by_name["racecheck"].commands
    assert race[-2].endswith("gpu_gradient")
    # the same goals, of the other package
    (before,), (after,) = by_name["goals-before"].commands, by_name["goals"].commands
    assert [x.replace("goals-before", "goals") for x in before] == list(after)
    assert by_name["goals-before"].environment["PYTHONPATH"].startswith("/before")
    assert calls.SECOND_MINUTES + calls.FIRST_MINUTES < 12
    without = names(calls.second_call(setting(), [], [], None))[len(BUILDS) :]
    assert without == ["machine", "goals", "bench"]


@pytest.mark.parametrize("is_installed", [False, True])
def test_tests_run_without_the_plugins(monkeypatch, is_installed):
    monkeypatch.setattr(calls, "has", lambda package: is_installed)
    (pytest_command,) = calls.tests(setting()).commands
    assert ("--timeout=30" in pytest_command) == is_installed
    assert ("-n" in pytest_command) == is_installed
    files = [argument for argument in pytest_command if argument.startswith("tests/gpu/")]
    assert [file.rpartition("_")[2] for file in files] == [
        "operators.py",
        "engine.py",
        "losses.py",
        "execution.py",
    ]
    assert all((ROOT / file).exists() for file in files)


def test_every_profiled_kernel_exists():
    folders = (ROOT / "csrc" / folder for folder in ("kernels", "hopper"))
    sources = [path.read_text() for folder in folders for path in folder.glob("*.cuh")]
    for _, names, _ in calls.PROFILED:
        for name in names.split("|"):
            kernel = re.compile(rf"\bvoid(.*\n){{0,2}}.*\b{name}_kernel\(")
            assert any(map(kernel.search, sources)), name


def test_programs_of_the_toolkit_are_found_beside_the_path(tmp_path, monkeypatch):
    program = tmp_path / "bin" / "compute-sanitizer"
    program.parent.mkdir()
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert tools.tool("compute-sanitizer") == str(program)
    assert tools.tool("no-such-program") == "no-such-program"


@pytest.mark.parametrize(("capability", "architecture"), [("8.9", "8.9"), ("9.0", "9.0a")])
def test_builds_for_the_gpu_that_is_there(tmp_path, monkeypatch, capability, architecture):
    fake = tmp_path / "nvidia-smi"
    fake.write_text(f"#!/bin/sh\necho '{capability}'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tools.architecture() == architecture


def test_says_so_without_a_gpu(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command.main(["--output", str(tmp_path / "out")]) == 2
    assert "finds no GPU" in capsys.readouterr().out


def test_an_unknown_part_is_an_error(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tools, "architecture", lambda: "9.0a")
    with pytest.raises(SystemExit):
        command.main(["--output", str(tmp_path), "--parts", "goals", "gaols"])
    assert "--parts must be of build-extension" in capsys.readouterr().err


JUNIT = """<?xml version="1.0"?><testsuites><testsuite>
<testcase classname="tests.gpu.test_gpu_operators" name="test_fine[1]"/>
<testcase classname="tests.gpu.test_gpu_operators" name="test_a[x-64]"><failure
 message="AssertionError: gradient 0: error 0.00123 &gt; 0.000456&#10;assert 0.00123 &lt;= 0.0004"/>
</testcase>
<testcase classname="tests.gpu.test_gpu_losses" name="test_b"><error
 message="failed on teardown with &quot;AcceleratorError: an illegal memory access&quot;"/>
</testcase>
<testcase classname="" name="tests/gpu/test_gpu_losses.py::test_b"><failure
 message="worker 'gw2' crashed while running 'tests/gpu/test_gpu_losses.py::test_b'"/></testcase>
</testsuite></testsuites>
"""


def test_failed_tests_are_named_with_their_first_assertion(tmp_path):
    (tmp_path / "tests.xml").write_text(JUNIT)
    found = failures.failed_tests(tmp_path / "tests.xml")
    assert list(found) == [
        "tests/gpu/test_gpu_operators.py::test_a[x-64]",
        "tests/gpu/test_gpu_losses.py::test_b",
    ]
    assert "error 0.00123 > 0.000456" in found["tests/gpu/test_gpu_operators.py::test_a[x-64]"]
    assert "illegal memory access" in found["tests/gpu/test_gpu_losses.py::test_b"]


def test_cases_of_one_test_take_one_place(tmp_path):
    lines = [f"FAILED tests/gpu/a.py::test_a[{k}] - assert error {k} > 0\n" for k in range(300)]
    (tmp_path / "tests.log").write_text("".join([*lines, "FAILED tests/gpu/a.py::test_b - oh\n"]))
    text = summary.summarise([Result("tests", FAILED, 60)], tmp_path)
    assert "tests/gpu/a.py::test_a[0] and 299 more of it\n    assert error 0 > 0" in text
    assert "tests/gpu/a.py::test_b\n    oh" in text


def test_failed_tests_of_a_run_that_was_killed(tmp_path):
    (tmp_path / "tests.xml").write_text(JUNIT[:300])
    (tmp_path / "tests.log").write_text(
        "....F\nFAILED tests/gpu/test_gpu_losses.py::test_c[a b] - assert 3 == 4\nERROR nothing\n"
    )
    assert summary.all_failed_tests(tmp_path) == {
        "tests/gpu/test_gpu_losses.py::test_c[a b]": "assert 3 == 4"
    }


def test_telling_lines_of_a_native_program(tmp_path):
    log = tmp_path / "native.log"
    log.write_text(
        "$ gpu_gradient 3\n"
        "anchors_grad bf16 dot n=67 m=0 d=33 seed 0: error 0.5, allowed 0.012\n"
        "8411 checks passed, 1 failed, seeds 0..2\n$ gpu_statistics 3\n"
        "7064 checks passed, 0 failed, seeds 0..2\n"
    )
    lines = failures.telling_lines(log)
    assert lines[0].endswith("error 0.5, allowed 0.012")
    assert not [line for line in lines[:-1] if " 0 failed" in line]


def raw_page(*kernels):
    """What the profiler prints: names, units, a row per launch."""
    columns = {
        "gpu__time_duration.sum": ("us", "1,093.25"),
        "sm__throughput.avg.pct_of_peak_sustained_elapsed": ("%", "61.25"),
        "lts__t_sector_hit_rate.pct": ("%", "97.1"),
        "launch__registers_per_thread": ("register/thread", "143"),
        "sm__inst_executed_pipe_xu.avg.pct_of_peak_sustained_active": ("%", "55.1"),
        "sm__inst_executed_pipe_fma.avg.pct_of_peak_sustained_active": ("%", "20"),
        "sm__pipe_tensor_op_hmma_cycles_active.avg.pct_of_peak_sustained_active": ("%", "33"),
        "smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio": ("inst", "1.7"),
        "smsp__average_warps_issue_stalled_wait_per_issue_active.ratio": ("inst", "2.5"),
        "smsp__average_warps_issue_stalled_selected_per_issue_active.ratio": ("inst", "n/a"),
    }
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(["ID", "Process ID", "Kernel Name", *columns])
    writer.writerow(["", "", "", *(unit for unit, _ in columns.values())])
    for k, kernel in enumerate(kernels):
        name = f"void fusedml::{kernel}_kernel<fusedml::Bf16, fusedml::X<(int)128>>(fusedml::Y)"
        writer.writerow([k, 7, name, *(value for _, value in columns.values())])
    return text.getvalue()


def test_table_of_the_profile(tmp_path):
    log = tmp_path / "profile-768.log"
    pages = raw_page("pair_sweep", "pair_sweep"), raw_page("product")
    log.write_text("==PROF== Connected\n{}$ ncu\n{}$ ncu\n".format(*pages))
    header, first, second = profile.table(log)
    assert header.split()[:4] == ["kernel", "ms", "sm%", "mem%"]
    assert first.split()[:7] == ["pair_sweep", "1.093", "61.2", "-", "-", "97.1", "-"]
    assert "143" in first.split()
    assert "xu 55.1, tensor_op_hmma 33" in first and first.endswith("wait 2.5, barrier 1.7")
    assert second.startswith("product ")


def test_profile_without_figures(tmp_path):
    (tmp_path / "log").write_text("==ERROR== the profiler is not allowed to read counters\n")
    assert profile.table(tmp_path / "log") == ["no figures: see the log"]
    assert profile.table(tmp_path / "missing") == ["no figures: see the log"]


def test_summary_fits_whatever_goes_wrong(tmp_path):
    case = (
        '<testcase classname="tests.gpu.test_x" name="test_{}"><failure message="{}"/></testcase>'
    )
    cases = "".join(case.format(k, f"{k}: error 0.5 &gt; 0.1 " * 30) for k in range(500))
    (tmp_path / "tests.xml").write_text(f"<testsuites>{cases}</testsuites>")
    for name in ("machine", "native", "smoke", "tests", "goals", "memcheck"):
        (tmp_path / f"{name}.log").write_text("an Error that takes a line\n" * 5000)
    (tmp_path / "timer.log").write_text(
        "operation,n,d,type,choice,median_ms,least_ms,rounds\n"
        + "".join(f"sweep,{k},768,bf16,as planned,3.25,3.1,9\n" for k in range(1000))
    )
    for d in (128, 768):
        page = raw_page(*(f"kernel_{k}" for k in range(100)))
        (tmp_path / f"profile-{d}.log").write_text(page)
    results = [Result(part.name, FAILED, 99.9, "x" * 500) for part in calls.first_call(setting())]
    text = summary.summarise(results, tmp_path)
    assert 6000 < len(text) <= summary.MOST_CHARACTERS < 12_000
    for part in ("build-extension", "tests/gpu/test_x.py::test_0", "sweep 0 x 768", "kernel_0"):
        assert part in text
    assert "more lines" in text


def test_summary_of_a_good_call_says_little(tmp_path):
    (tmp_path / "tests.log").write_text("$ pytest\n.......\n800 passed, 12 skipped in 60.1s\n")
    (tmp_path / "timer.log").write_text(
        "operation,n,d,type,choice,median_ms,least_ms,rounds\n"
        "sweep,65536,768,bf16,as planned,31.5,31.1,9\n"
        "sweep,65536,768,bf16,132 blocks,30.25,30.1,9\n"
        "sweep,65536,768,bf16,528 blocks,32,31,9\n"
        "panel,65536,768,bf16,8 MiB,70,69,9\n"
        "weights,65536,768,bf16,8 MiB,40,39,9\n"
        "panel,65536,768,bf16,32 MiB,68,67,9\n"
        "weights,65536,768,bf16,32 MiB,41,39,9\n"
        "stage,operation,n,d,most_ms,median_ms,least_ms,rounds,same_bits,verdict\n"
        "4,step,65536,768,22,23.456,23.1,9,yes,NOT MET\n"
    )
    results = [Result("tests", OK, 60), Result("racecheck", SKIPPED, 0, "no time left")]
    text = summary.summarise(results, tmp_path)
    assert "800 passed" in text
    goal = "hopper step 65536 x 768: 23.5 ms, at most 22: NOT MET, same bits: yes"
    assert goal in text
    assert "sweep 65536 x 768 bf16: 31.5 ms as planned, 30.2 with 132 blocks" in text
    assert "weights 65536 x 768 bf16: 40 with 8 MiB" in text
    assert "product 65536 x 768 bf16: 27 with 32 MiB" in text
    assert "no time left" in text
    assert "other failures" not in text


@pytest.fixture
def fake_cmake(tmp_path, monkeypatch):
    """Compiles a file that names its target; none of those in the set that it returns."""
    broken, compiled = set(), []

    def compile_into(binary, folder, architecture):
        compiled.append(binary.name)
        if binary.name in broken:
            raise SystemExit("the CUDA kernels could not be compiled")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / binary.name).write_text(architecture)
        if binary.name == binaries.EXTENSION:
            (folder / binaries.INFO).write_text("native = True\n")

    monkeypatch.setattr(binaries, "compile_into", compile_into)
    return broken, compiled


def test_a_binary_that_does_not_compile_stops_no_other(tmp_path, fake_cmake, capsys):
    broken, compiled = fake_cmake
    broken.add("gpu_gradient")
    folder = tmp_path / "gpu"
    assert binaries.main(["--folder", str(folder)]) == 1
    assert compiled == list(binaries.BINARIES)
    output = capsys.readouterr().out
    assert "gpu_gradient: failed: the CUDA kernels could not be compiled" in output
    there = {path.name for path in folder.iterdir()} - {"binaries.json", binaries.INFO}
    assert there == set(binaries.BINARIES) - broken


def test_only_what_is_missing_or_of_other_sources_is_compiled(tmp_path, fake_cmake, monkeypatch):
    _, compiled = fake_cmake
    folder = tmp_path / "gpu"
    package = tmp_path / "package"
    package.mkdir()
    arguments = ["--folder", str(folder), "--install", str(package)]
    assert binaries.main(arguments) == 0
    assert (package / binaries.EXTENSION).read_text() == binaries.ARCHITECTURE
    compiled.clear()
    assert binaries.main(arguments) == 0
    assert compiled == []
    (folder / "gpu_timer").unlink()
    assert binaries.main(arguments) == 0
    assert compiled == ["gpu_timer"]
    compiled.clear()
    # another architecture is another binary, and another library that it loads
    assert binaries.main(["gpu_timer", *arguments, "--architecture", "8.0"]) == 0
    assert compiled == [binaries.KERNELS, "gpu_timer"]
    compiled.clear()
    digest_of = binaries.digest_of
    monkeypatch.setattr(
        binaries,
        "digest_of",
        lambda binary, architecture: (
            "new" * ("gpu/native" in str(binary.sources)) or digest_of(binary, architecture)
        ),
    )
    assert binaries.main(["gpu_statistics", binaries.EXTENSION, *arguments]) == 0
    assert compiled == [binaries.KERNELS, "gpu_statistics"]


def test_what_these_libraries_are_too_old_for_is_compiled(tmp_path, fake_cmake, monkeypatch):
    _, compiled = fake_cmake
    arguments = ["gpu_timer", "--folder", str(tmp_path / "gpu")]
    assert binaries.main(arguments) == 0
    ldd = tmp_path / "bin" / "ldd"
    ldd.parent.mkdir()
    ldd.write_text("#!/bin/sh\necho \"$1: /lib/libc.so.6: version 'GLIBC_2.99' not found\"\n")
    ldd.chmod(0o755)
    for path, times in ((str(tmp_path), 1), (str(ldd.parent), 2)):
        monkeypatch.setenv("PATH", path)
        assert binaries.main(arguments) == 0
        assert compiled == [binaries.KERNELS, "gpu_timer"] * times


def test_a_carried_program_can_be_started(tmp_path, fake_cmake):
    arguments = ["gpu_timer", "--folder", str(tmp_path)]
    assert binaries.main(arguments) == 0
    (tmp_path / "gpu_timer").chmod(0o644)
    assert binaries.main(arguments) == 0
    assert (tmp_path / "gpu_timer").stat().st_mode & 0o100


def test_the_extension_is_kept_with_its_package(tmp_path, fake_cmake, monkeypatch, capsys):
    monkeypatch.setattr(binaries, "BEFORE", tmp_path / "before")
    folder = tmp_path / "gpu"
    assert binaries.main([binaries.EXTENSION, "--folder", str(folder)]) == 0
    assert binaries.main(["--folder", str(folder), "--keep-as-before"]) == 0
    kept = tmp_path / "before" / "fusedml"
    assert (kept / binaries.EXTENSION).read_text() == binaries.ARCHITECTURE
    assert (kept / "native.py").read_text() == (ROOT / "fusedml" / "native.py").read_text()
    assert {path.suffix for path in kept.rglob("*.so")} == {".so"}


def test_a_digest_is_of_all_that_a_binary_is_compiled_from():
    for binary in binaries.BINARIES.values():
        files = {str(path.relative_to(ROOT)) for path in binaries._files(binary.sources)}
        assert {"csrc/core/primitives.cuh", "cmake/Native.cmake"} <= files
        assert all((ROOT / source).exists() for source in binary.sources), binary
    extension = binaries._files(binaries.BINARIES[binaries.EXTENSION].sources)
    assert {path.name for path in extension} >= {"binding.cpp", "Binding.cmake", "bf16.cu"}
    gradient = binaries._files(binaries.BINARIES["gpu_gradient"].sources)
    assert {path.name for path in gradient} >= {"test_gradient.cpp", "check.h", "reference.h"}


def test_every_operator_has_a_golden():
    (goldens,) = calls.goldens(setting()).commands
    from tests import golden  # noqa: PLC0415

    assert "tests.golden" in goldens
    assert {case.operator for case in golden.cases()} == set(native.OPERATORS)


def test_hoppers_instructions_come_first_and_on_hopper_alone():
    programs = [Path(command[0]).name for command in calls.native(setting()).commands]
    first = len(calls.HOPPER) + 1
    assert programs[:first] == [*calls.HOPPER, "test_primitives_gpu"]
    ampere = calls.Setting(Path("/out"), "8.0")
    others = {Path(command[0]).name for command in calls.native(ampere).commands}
    assert not others & set(calls.HOPPER)
    assert not {f"build-{name}" for name in calls.HOPPER} & set(names(calls.builds(ampere)))
