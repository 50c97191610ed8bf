"""What setup.py decides: architectures, and kernels or pure Python, with its reasons."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def setup(monkeypatch):
    """setup.py as a module, in an environment without any of its switches."""
    for name in ("FORCE_CUDA", "NO_CUDA", "TORCH_ROOT"):
        monkeypatch.delenv(f"FUSEDML_{name}", raising=False)
    specification = importlib.util.spec_from_file_location("fusedml_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "fusedml_setup", module)
    specification.loader.exec_module(module)
    return module


def torch_of(setup, folder, version):
    """A folder that looks like torch's."""
    header = folder / "include/torch/headeronly/version.h"
    header.parent.mkdir(parents=True)
    major, minor = version
    header.write_text(f"#define TORCH_VERSION_MAJOR {major}\n#define TORCH_VERSION_MINOR {minor}\n")
    return setup.Torch(folder, version)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", []),
        ("8.0", ["80-real"]),
        ("8.0+PTX", ["80"]),
        ("8.0;9.0a+PTX", ["80-real", "90a"]),
        (" 8.0, 8.6  12.0f ;", ["80-real", "86-real", "120f-real"]),
        ("8.0 8.0", ["80-real"]),
        ("Ampere;Hopper", ["80-real", "86", "90a"]),
        ("Ampere+PTX", ["80-real", "86"]),
    ],
)
def test_architectures(setup, text, expected):
    assert setup.read_architectures(text) == (expected, [])


@pytest.mark.parametrize("text", ["sm90", "9", "8.0;hopper", "8.0+ptx", "native", "8.0x"])
def test_unreadable_architectures(setup, text):
    with pytest.raises(
        SystemExit, match=r"TORCH_CUDA_ARCH_LIST has an entry '.*', expected .*8\.0"
    ):
        setup.read_architectures(text)


def test_architectures_that_are_too_old_are_left_out(setup):
    # as in the images that set one list for everything
    text = "7.0 7.5 8.0 8.6 9.0+PTX"
    assert setup.read_architectures(text) == (["80-real", "86-real", "90"], ["7.0", "7.5"])


def test_only_architectures_that_are_too_old(setup):
    with pytest.raises(
        SystemExit, match=r"names only 7\.0, 7\.5\+PTX, but the kernels need .*8\.0"
    ):
        setup.read_architectures("7.0;7.5+PTX")


def test_torch_is_found_without_importing_it(setup, tmp_path, monkeypatch):
    expected = torch_of(setup, tmp_path, (2, 11))
    monkeypatch.setenv("FUSEDML_TORCH_ROOT", str(tmp_path))
    assert setup.find_torch() == expected


def test_torch_of_this_environment_is_found(setup):
    torch = setup.find_torch()
    assert torch is not None
    assert (torch.folder / "lib").is_dir()
    assert torch.version >= setup.OLDEST_TORCH


@pytest.fixture
def machine(setup, monkeypatch, tmp_path):
    """Pretends that nvcc and torch are, or are not, on this machine."""

    def pretend(nvcc="nvcc", torch=(2, 13), platform="linux"):
        monkeypatch.setattr(setup, "find_nvcc", lambda: (nvcc, ["here", "there"]))
        found = torch and torch_of(setup, tmp_path / "torch", torch)
        monkeypatch.setattr(setup, "find_torch", lambda: found)
        monkeypatch.setattr(setup.sys, "platform", platform)

    return pretend


def test_kernels_are_built_where_nvcc_and_torch_are(setup, machine):
    machine()
    assert setup.make_plan().reason is None


@pytest.mark.parametrize(
    "lack, reason",
    [
        ({"nvcc": None}, r"nvcc was not found .* \(tried here, there\)"),
        ({"torch": (2, 9)}, r"need torch 2\.10 or later, found 2\.9"),
        ({"platform": "darwin"}, "built on Linux only, not on darwin"),
    ],
)
def test_pure_python_otherwise_and_an_error_if_forced(setup, machine, monkeypatch, lack, reason):
    machine(**lack)
    assert re.search(reason, setup.make_plan().reason)
    monkeypatch.setenv("FUSEDML_FORCE_CUDA", "1")
    with pytest.raises(SystemExit, match=f"FUSEDML_FORCE_CUDA is set, but .*{reason}"):
        setup.make_plan()


def test_nvcc_without_torch_is_an_error(setup, machine, monkeypatch):
    machine(torch=None)
    with pytest.raises(SystemExit, match=r"install torch first.*FUSEDML_NO_CUDA=1 goes without"):
        setup.make_plan()
    monkeypatch.setenv("FUSEDML_NO_CUDA", "1")
    assert setup.make_plan().reason == "FUSEDML_NO_CUDA was set when fusedml was installed"


def test_contradictory_switches(setup, monkeypatch):
    monkeypatch.setenv("FUSEDML_NO_CUDA", "1")
    monkeypatch.setenv("FUSEDML_FORCE_CUDA", "1")
    with pytest.raises(SystemExit, match="FUSEDML_FORCE_CUDA and FUSEDML_NO_CUDA are both set"):
        setup.make_plan()


def test_build_without_cmake(setup, machine, monkeypatch, tmp_path):
    machine()
    monkeypatch.setattr(setup.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="cmake or ninja was not found: pip install cmake ninja"):
        setup.run_cmake(setup.make_plan(), tmp_path, [])


def test_failed_build_says_what_failed_and_what_to_do(setup, machine, monkeypatch, tmp_path):
    machine()
    monkeypatch.setattr(setup.shutil, "which", lambda name: "false")
    with pytest.raises(SystemExit, match=r"could not be compiled.*FUSEDML_NO_CUDA=1.*command was"):
        setup.run_cmake(setup.make_plan(), tmp_path, [])


def test_build_info_can_be_imported(setup, machine, tmp_path):
    machine(nvcc=None)
    setup.write_build_info(tmp_path, setup.make_plan(), [])
    namespace = {}
    exec((tmp_path / "_build_info.py").read_text(), namespace)
    assert namespace["native"] is False
    assert namespace["reason"].startswith("nvcc was not found")


def load_backend():
    """build_backend.py as pip imports it."""
    specification = importlib.util.spec_from_file_location("backend", ROOT / "build_backend.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_backend_has_the_hooks_of_setuptools():
    assert {"build_wheel", "build_sdist", "build_editable"} <= set(vars(load_backend()))
    oldest = f"setuptools>={load_backend().OLDEST_SETUPTOOLS}"
    assert f'requires = ["{oldest}"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("found", ["65.5.0", None, "unknown"])
def test_a_build_without_setuptools_says_what_to_install(monkeypatch, found):
    def version(name):
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(importlib.metadata, "version", version)
    message = rf"setuptools >= 77, found {found or 'none'}\..*pip install 'setuptools>=77' cmake"
    with pytest.raises(SystemExit, match=message):
        load_backend()
