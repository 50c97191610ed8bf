"""Both calls of scripts/gpu_check without a GPU: order, files, sizes, what may be missing there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

import fusedml
from benchmarks.results import read_rows
from scripts.gpu_check import calls, rehearsal, summary
from tests import golden

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.skipif(rehearsal.why_not() is not None, reason=str(rehearsal.why_not())),
    pytest.mark.timeout(900),
]


def rehearse(folder, *arguments):
    """Runs a call; its results by part, its folder, what it printed, and the seconds it took."""
    out = folder / "out"
    environment = {**os.environ, "OUT": str(out), "PYTHONUNBUFFERED": "1"}
    environment.pop("FUSEDML_COMMIT", None)
    command = [sys.executable, "-m", "scripts.gpu_check", *arguments, "--rehearse"]
    start = time.monotonic()
    done = subprocess.run(
        [*command, "--output", str(folder / "kept")],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - start
    assert (folder / "kept" / "summary.json").exists(), done.stdout + done.stderr
    results = json.loads((folder / "kept" / "summary.json").read_text())
    return results, folder / "kept", done.stdout, seconds


def assert_all_ok(results):
    # the extension itself is there only where nvcc is
    allowed = set() if fusedml.HAS_NATIVE else {"machine"}
    wrong = [r for r in results if r["outcome"] != "ok" and r["name"] not in allowed]
    assert wrong == []


def test_first_call(tmp_path):
    results, kept, printed, seconds = rehearse(tmp_path, "first")
    assert_all_ok(results)
    # every part, in the order of the call
    parts = calls.first_call(calls.Setting(kept, "rehearsal"))
    assert [result["name"] for result in results] == [part.name for part in parts]
    # what the check itself takes beside its parts goes off their time on a GPU, too
    assert seconds - sum(result["seconds"] for result in results) < 10

    # what comes back: one file here, and the end of what was printed
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["gpu_check.zip"]
    assert (tmp_path / "out" / "gpu_check.zip").stat().st_size < 16e6
    with zipfile.ZipFile(tmp_path / "out" / "gpu_check.zip") as archive:
        packed = set(archive.namelist())
    wanted = {f"{part.name}.log" for part in parts} | {
        *("summary.txt", "summary.json", "failed.txt", "tests.xml", "goals.csv", "golden.npz"),
        "primitives.txt",
        *(f"profile-{d}-{kind}.ncu-rep" for d in (768, 128) for kind in ("forward", "backward")),
    }
    assert packed == wanted
    text = (kept / "summary.txt").read_text()
    assert printed.endswith(text) and len(text) <= summary.MOST_CHARACTERS
    for section in ("parts", "machine", "tests", "smoke", "goals", "timer", "profile"):
        assert f"== {section}\n" in text
    assert "other failures" not in text

    # the parts have done their work, not only ended
    assert "commit rehearsed" in text
    assert "losses right: True" in (kept / "smoke.log").read_text()
    timed = (kept / "timer.log").read_text()
    assert timed.count(",as planned,") >= 12
    assert re.search(r"^5,rows,256,128,4\.5,[0-9.]+,[0-9.]+,3,yes,", timed, re.M)
    assert "nothing_waits" not in (kept / "failed.txt").read_text()
    assert " passed" in text and " failed" not in text.partition("== tests")[2].split("\n")[1]
    rows = read_rows(kept / "goals.csv")
    assert {row.provider for row in rows} == {"fusedml", "dense", "dense, compiled"}
    assert {row.commit for row in rows} == {"rehearsed"}
    assert (kept / "golden.npz").stat().st_size < 8e6
    with np.load(kept / "golden.npz") as file:
        keys = {name.rpartition(".")[0] for name in file.files if name != "about"}
    assert keys == {case.key for case in golden.cases()}
    assert (kept / "primitives.txt").read_text().count("\n") > 10
    profiled = text.partition("== profile")[2]
    assert all(profiled.count(f"\n{name} ") == 2 for name in ("pair_sweep", "pair_weights"))
    assert (kept / "memcheck.log").read_text().count("ERROR SUMMARY: 0") == len(calls.NATIVE)
    assert (kept / "racecheck.log").read_text().count("ERROR SUMMARY: 0") == 2


def test_nothing_is_there_that_a_machine_with_a_gpu_may_lack(tmp_path):
    code = """
import os, shutil, subprocess, sys
from pathlib import Path
from scripts.gpu_check import rehearsal

setting = rehearsal.prepare(Path(sys.argv[1]))
assert not any(map(shutil.which, ("git", "nvcc", "cmake", "c++", "make")))
for statement in ("import pytorch_metric_learning",
                  "import socket; socket.create_connection(('127.0.0.1', 9), 1)"):
    done = subprocess.run(
        [sys.executable, "-c", statement],
        env={**os.environ, **setting.environment},
        capture_output=True,
    )
    print(done.stderr.decode().splitlines()[-1])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == [
        "ImportError: not there",
        "OSError: the rehearsal has no network",
    ], done.stderr


def test_second_call(tmp_path):
    failed = tmp_path / "failed.txt"
    test = "tests/gpu/test_gpu_losses.py::test_learnable_hyperparameter[cpu]"
    failed.write_text(f"{test}\n")
    before = tmp_path / "before" / "fusedml"
    shutil.copytree(ROOT / "fusedml", before, ignore=shutil.ignore_patterns("__pycache__", "_C*"))
    with (before / "__init__.py").open("a") as file:
        file.write("\nprint('the package as it was')\n")
    results, kept, printed, _ = rehearse(
        tmp_path,
        *("second", "--failed", str(failed), "--before", str(before.parent)),
        *("--races", "gpu_positive_pairs"),
    )
    outcomes = {result["name"]: result["outcome"] for result in results}
    # on this machine any of both may come out slower
    outcomes.pop("goals-compared")
    assert_all_ok([r for r in results if r["name"] in outcomes])
    parts = calls.second_call(calls.Setting(kept, "rehearsal"), [test], ["gpu_gradient"], before)
    assert [result["name"] for result in results] == [part.name for part in parts]
    assert "1 passed" in (kept / "tests.log").read_text()
    assert "the package as it was" in (kept / "goals-before.log").read_text()
    assert "the package as it was" not in (kept / "goals.log").read_text()
    assert "time, 10% of memory" in (kept / "goals-compared.log").read_text()
    assert "gpu_positive_pairs" in (kept / "racecheck.log").read_text()
    assert {row.loss for row in read_rows(kept / "bench.csv")} >= {"NPairsLoss", "NTXentLoss"}
    assert "[goals-before]" in printed and "[goals]" in printed
