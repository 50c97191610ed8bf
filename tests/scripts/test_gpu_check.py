"""The logic of scripts/gpu_check.py, with parts that stand for the real ones."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

PATH = Path(__file__).parents[2] / "scripts" / "gpu_check.py"


@pytest.fixture(scope="module")
def gpu_check():
    specification = importlib.util.spec_from_file_location("gpu_check", PATH)
    module = importlib.util.module_from_spec(specification)
    sys.modules["gpu_check"] = module
    specification.loader.exec_module(module)
    yield module
    del sys.modules["gpu_check"]


def python(code):
    return (sys.executable, "-c", code)


def summary(output):
    return {result["name"]: result for result in json.loads((output / "summary.json").read_text())}


def test_every_part_is_kept_whatever_becomes_of_the_others(gpu_check, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "_LEAST_S", 0.5)
    part = gpu_check.Part
    results = gpu_check.run_parts(
        [
            part("good", (python("print('fine')"),), 20),
            part("bad", (python("print('why'); raise SystemExit(3)"),), 20),
            part("slow", (python("import time; print('half', flush=True); time.sleep(60)"),), 1.5),
            part("dependent", (python("1"),), 20, needs=("bad",)),
            part("last", (python("print('still here')"),), 20, needs=("good",)),
        ],
        tmp_path,
        60,
    )
    outcomes = {result.name: result.outcome for result in results}
    assert outcomes == {
        "good": "ok",
        "bad": "failed",
        "slow": "timed out",
        "dependent": "skipped",
        "last": "ok",
    }
    assert {name: result["outcome"] for name, result in summary(tmp_path).items()} == outcomes
    assert "ended with 3" in summary(tmp_path)["bad"]["note"]
    assert "needs bad" in summary(tmp_path)["dependent"]["note"]
    for name, text in {"good": "fine", "bad": "why", "slow": "half", "last": "still here"}.items():
        assert text in (tmp_path / f"{name}.log").read_text()


def test_summary_is_there_after_each_part(gpu_check, tmp_path):
    # the second part looks at what the first one left
    look = f"import json; print(len(json.load(open({str(tmp_path / 'summary.json')!r}))))"
    parts = [
        gpu_check.Part("first", (python("1"),), 20),
        gpu_check.Part("look", (python(look),), 20),
    ]
    gpu_check.run_parts(parts, tmp_path, 60)
    assert (tmp_path / "look.log").read_text().endswith("1\n")


def test_archive_is_complete_after_each_part(gpu_check, tmp_path):
    archive = tmp_path / "there" / "all.zip"
    output = tmp_path / "output"
    output.mkdir()
    look = f"import zipfile; print(zipfile.ZipFile({str(archive)!r}).namelist())"
    parts = [
        gpu_check.Part("first", (python("print('fine')"),), 20),
        gpu_check.Part("look", (python(look),), 20),
    ]
    gpu_check.run_parts(parts, output, 60, archive)
    assert (output / "look.log").read_text().endswith("['first.log', 'summary.json']\n")
    with zipfile.ZipFile(archive) as packed:
        assert packed.namelist() == ["first.log", "look.log", "summary.json"]
        assert b"fine" in packed.read("first.log")
    assert [path.name for path in archive.parent.iterdir()] == ["all.zip"]


def test_programs_of_the_toolkit_are_found_beside_the_path(gpu_check, tmp_path, monkeypatch):
    program = tmp_path / "bin" / "compute-sanitizer"
    program.parent.mkdir()
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert gpu_check.tool("compute-sanitizer") == str(program)
    assert gpu_check.tool("no-such-program") == "no-such-program"


@pytest.mark.parametrize("is_installed", [False, True])
def test_tests_run_without_the_timeout_plugin(gpu_check, tmp_path, monkeypatch, is_installed):
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: object() if is_installed else None
    )
    (tests,) = (part for part in gpu_check.make_parts("9.0a", tmp_path) if part.name == "tests")
    assert ("--timeout=100" in tests.commands[0]) == is_installed


def test_commands_after_a_failed_one(gpu_check, tmp_path):
    commands = (python("raise SystemExit(2)"), python("print('second')"))
    for keeps_going in (False, True):
        part = gpu_check.Part("part", commands, 20, keeps_going=keeps_going)
        assert gpu_check.run_part(part, tmp_path / "part.log", 20).outcome == "failed"
        assert ("second" in (tmp_path / "part.log").read_text().split("\n")) == keeps_going


def test_commands_at_once(gpu_check, tmp_path):
    # the first one waits for what the third one writes
    wait = f"""
import pathlib, time
while not pathlib.Path({str(tmp_path / "flag")!r}).exists():
    time.sleep(0.05)
print("waited")
"""
    raise_flag = f"open({str(tmp_path / 'flag')!r}, 'w'); print('raised')"
    commands = (python(wait), python("raise SystemExit(4)"), python(raise_flag))
    part = gpu_check.Part("part", commands, 20, at_once=True)
    result = gpu_check.run_part(part, tmp_path / "part.log", 20)
    assert result.outcome == "failed"
    assert result.note.count("ended with") == 1
    assert "ended with 4" in result.note
    lines = (tmp_path / "part.log").read_text().splitlines()
    assert lines.index("waited") < lines.index("raised")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flag", "part.log"]


def test_a_missing_program_is_a_failure_of_its_part(gpu_check, tmp_path):
    part = gpu_check.Part("part", (("no-such-program",),), 20)
    result = gpu_check.run_part(part, tmp_path / "part.log", 20)
    assert (result.outcome, result.note) == ("failed", "no-such-program ended with 127")


def test_a_stopped_part_may_write_what_it_has(gpu_check, tmp_path):
    code = """
import time
print("begun", flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("partial result", flush=True)
"""
    part = gpu_check.Part("part", (python(code),), 2)
    assert gpu_check.run_part(part, tmp_path / "part.log", 2).outcome == "timed out"
    assert "partial result" in (tmp_path / "part.log").read_text()


def test_a_part_that_does_not_listen_is_ended_with_its_children(gpu_check, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "_GRACE_S", 0.5)
    code = """
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("child", child.pid, flush=True)
time.sleep(60)
"""
    start = time.monotonic()
    part = gpu_check.Part("part", (python(code),), 2)
    assert gpu_check.run_part(part, tmp_path / "part.log", 2).outcome == "timed out"
    assert time.monotonic() - start < 20
    child = int((tmp_path / "part.log").read_text().split("child ")[-1])
    for _ in range(50):
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    os.kill(child, 9)
    pytest.fail("the child of a stopped part is still running")


def test_no_time_left(gpu_check, tmp_path):
    results = gpu_check.run_parts([gpu_check.Part("part", (python("1"),), 20)], tmp_path, 1)
    assert (results[0].outcome, results[0].note) == ("skipped", "no time left")


def test_real_parts_fit_into_ten_minutes(gpu_check, tmp_path):
    parts = gpu_check.make_parts("9.0a", tmp_path)
    names = [part.name for part in parts]
    for index, part in enumerate(parts):
        assert set(part.needs) <= set(names[:index])
    # a build of a minute and a half leaves every other part its whole limit; the benchmark comes
    # last, is under four minutes and takes what is left
    timed = [part for part in parts if part.name not in ("build", "bench")]
    assert sum(part.limit_s for part in timed) + 90 <= 9.5 * 60
    assert parts[-1].name == "bench" and parts[-1].limit_s < 240
    build = next(part for part in parts if part.name == "build")
    assert build.environment["TORCH_CUDA_ARCH_LIST"] == "9.0a"


def test_says_so_without_a_gpu(gpu_check, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_check.main(["--output", str(tmp_path)]) == 2
    assert "no CUDA device" in capsys.readouterr().out


@pytest.mark.parametrize(("capability", "architecture"), [((8, 9), "8.9"), ((9, 0), "9.0a")])
def test_builds_for_the_gpu_that_is_there(gpu_check, monkeypatch, capability, architecture):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert gpu_check.gpu_architecture() == architecture
