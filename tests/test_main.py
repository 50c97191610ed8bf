from __future__ import annotations

import contextlib
import importlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fusedml import __main__ as command

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def build(monkeypatch):
    """Replaces what the build left behind; returns a function that sets it."""

    def set_up(info: object = ImportError("none"), library: object = ImportError("none")) -> None:
        found = {"fusedml._build_info": info, "fusedml._C": library}

        def import_module(name: str) -> object:
            if isinstance(found[name], ImportError):
                raise found[name]
            return found[name]

        monkeypatch.setattr(command, "importlib", SimpleNamespace(import_module=import_module))

    return set_up


def test_prints_versions_threads_and_backends(capsys):
    assert command.main([]) == 0
    output = capsys.readouterr().out
    assert f"torch {torch.__version__}" in output
    assert f"threads: {torch.get_num_threads()}" in output
    assert "CUDA kernels: " in output
    assert "CPU tensors:  tiled PyTorch" in output
    assert "CUDA tensors: " in output


def test_an_unbuilt_source_tree_says_so(build):
    build()
    assert "this source tree has not been built" in command.kernels_missing_because()


def test_the_reason_of_the_build_is_shown(build):
    build(SimpleNamespace(native=False, reason="nvcc was not found"))
    assert command.kernels_missing_because() == "nvcc was not found"


def test_a_library_that_does_not_load_says_why(build):
    build(SimpleNamespace(native=True, reason=None), ImportError("undefined symbol"))
    reason = command.kernels_missing_because()
    assert reason == (
        f"the compiled kernels do not load with torch {torch.__version__}: undefined symbol"
    )


def test_kernels_count_only_if_they_are_registered(build, monkeypatch):
    build(SimpleNamespace(native=True, reason=None), SimpleNamespace())
    monkeypatch.setattr(torch._C, "_dispatch_has_kernel_for_dispatch_key", lambda name, key: True)
    assert command.kernels_missing_because() is None
    monkeypatch.setattr(torch._C, "_dispatch_has_kernel_for_dispatch_key", lambda name, key: False)
    assert "the compiled library has no kernels for pair_extrema" in (
        command.kernels_missing_because()
    )


@pytest.mark.parametrize(
    ("capability", "reason", "expected"),
    [
        (None, None, "CUDA tensors: none here, "),
        ((8, 0), None, "CUDA tensors: CUDA kernels"),
        ((7, 5), None, "CUDA tensors: this GPU is older than sm_80: choose backend='torch'"),
        ((9, 0), "nvcc was not found", "CUDA tensors: tiled PyTorch, as the CUDA kernels are not"),
        ((7, 5), "nvcc was not found", "CUDA tensors: tiled PyTorch, as the CUDA kernels are not"),
    ],
)
def test_active_backends(monkeypatch, capability, reason, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert command.active_backends(reason)[1].startswith(expected)


def test_without_the_source_tree_the_make_target_is_named(tmp_path, capsys):
    assert command.run_script("demo", [], root=tmp_path) == 1
    message = capsys.readouterr().err
    assert "not part of the installed package" in message and "`make demo`" in message


def test_a_missing_package_is_named(monkeypatch, capsys):
    monkeypatch.setattr(command, "_NEEDED", ("torch", "no_such_package"))
    assert command.run_script("bench", []) == 1
    assert "`bench` needs no_such_package" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_only_the_commands_that_are_there_are_listed(arguments, tmp_path, capsys):
    def listed(root: Path) -> set[str]:
        with contextlib.suppress(SystemExit):  # of --help
            command.main(arguments, root)
        output = capsys.readouterr().out
        return {name for name, script in command._SCRIPTS.items() if script.what in output}

    assert listed(ROOT) == {"demo", "limits", "bench"}
    assert listed(tmp_path) == set()
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "bench.py").touch()
    assert listed(tmp_path) == set()  # somebody else's, beside the installed package
    (tmp_path / "pyproject.toml").touch()
    assert listed(tmp_path) == {"bench"}


def require_their_modules():
    """Skips the test in an environment of little more than an older PyTorch."""
    for name in command._NEEDED:
        pytest.importorskip(name)


@pytest.mark.parametrize("name", command._SCRIPTS)
def test_sub_commands_pass_their_arguments_on(name, monkeypatch):
    require_their_modules()
    calls = []

    def run(arguments, **_):
        calls.append(arguments)
        return SimpleNamespace(returncode=3)

    monkeypatch.setattr(command.subprocess, "run", run)
    assert command.main([name, "--help"]) == 3
    ((python, script, argument),) = calls
    assert python == sys.executable and argument == "--help"
    assert Path(script).is_file()


def test_script_runs_in_a_process_of_its_own(tmp_path):
    require_their_modules()
    result = subprocess.run(
        [sys.executable, "-m", "fusedml", "limits", "--n", "-1"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert result.returncode == 2
    assert "n must be at least 1, got -1" in result.stderr


def test_unknown_commands_are_refused(capsys):
    with pytest.raises(SystemExit):
        command.main(["train"])
    assert "invalid choice: 'train'" in capsys.readouterr().err


def test_importlib_is_what_it_seems():
    # the fixture above replaces it by name
    assert command.importlib is importlib
