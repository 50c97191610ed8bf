"""Wheels: pure Python without nvcc; one for all Pythons, with the kernels, beside it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import fusedml

ROOT = Path(__file__).resolve().parents[2]


def build_wheel(folder, source=ROOT, **environment):
    """Builds a wheel without isolation, so that nothing is downloaded."""
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps"]
    scripts = str(Path(sys.executable).parent)
    result = subprocess.run(
        [*command, "--no-index", "--wheel-dir", str(folder), str(source)],
        env={**os.environ, "PATH": scripts + os.pathsep + os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def copy_of_the_sources(folder):
    """The tracked files only, as in a clean clone."""
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    for name in files:
        if name.split("/")[0] in ("tests", "examples", "benchmarks"):
            continue
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    return folder


def test_pure_python_wheel(tmp_path):
    source = copy_of_the_sources(tmp_path / "source")
    wheel = build_wheel(tmp_path / "wheel", source, FUSEDML_NO_CUDA="1")
    assert wheel.name.endswith("-py3-none-any.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        names = archive.namelist()
    assert "fusedml/_build_info.py" in names
    assert not [name for name in names if name.endswith(".so") or name.startswith("tests")]
    code = (
        "import fusedml; print(fusedml.__file__); print(fusedml.HAS_NATIVE, fusedml.NATIVE_ERROR)"
    )
    output = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert output == [
        str(site / "fusedml" / "__init__.py"),
        "False FUSEDML_NO_CUDA was set when fusedml was installed",
    ]


@pytest.mark.skipif(not fusedml.HAS_NATIVE, reason=f"no kernels here: {fusedml.NATIVE_ERROR}")
def test_wheel_with_kernels(tmp_path):
    # nothing is compiled again: build/native holds it already, perhaps with one machine code alone
    cache = (ROOT / "build" / "native" / "CMakeCache.txt").read_text()
    set_to = re.findall(r"^FUSEDML_ONE_MACHINE_CODE:BOOL=\w+$", cache, re.MULTILINE)
    options = " ".join(f"-D{option}" for option in set_to)
    wheel = build_wheel(tmp_path, FUSEDML_FORCE_CUDA="1", FUSEDML_CMAKE_ARGS=options)
    assert "-cp310-abi3-linux_" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        assert "fusedml/_C.abi3.so" in archive.namelist()
        assert archive.getinfo("fusedml/_C.abi3.so").file_size < 64 << 20
        info = archive.read("fusedml/_build_info.py").decode()
    assert "native = True" in info
    assert str(ROOT) not in info


def test_sdist_builds_without_nvcc_and_holds_no_tests(tmp_path):
    source = copy_of_the_sources(tmp_path / "source")
    (source / "tests").mkdir()
    (source / "tests" / "test_something.py").write_text("")  # which setuptools takes unasked
    command = [sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", str(tmp_path)]
    subprocess.run(command, cwd=source, capture_output=True, check=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as content:
        names = [name.partition("/")[2] for name in content.getnames()]
        if hasattr(tarfile, "data_filter"):  # Python 3.11.4, 3.10.12
            content.extraction_filter = tarfile.data_filter
        content.extractall(tmp_path / "unpacked")
    assert {"CMakeLists.txt", "setup.py", "fusedml/functional.pyi"} <= set(names)
    assert any(name.startswith("csrc/core/") for name in names)
    assert [name for name in names if name.startswith("tests")] == []
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    wheel = build_wheel(tmp_path / "wheel", unpacked, FUSEDML_NO_CUDA="1")
    assert wheel.name.endswith("-py3-none-any.whl")
