"""How the parts of scripts/gpu_check run, with parts that stand for the real ones."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import zipfile
from functools import partial
from pathlib import Path

import pytest

from scripts.gpu_check import running
from scripts.gpu_check.__main__ import keep
from scripts.gpu_check.running import Part, run_part, run_parts
from scripts.gpu_check.summary import all_failed_tests


def python(code):
    return (sys.executable, "-c", code)


def summary(output):
    return {result["name"]: result for result in json.loads((output / "summary.json").read_text())}


def test_every_part_is_kept_whatever_becomes_of_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "_LEAST_S", 0.5)
    results = run_parts(
        [
            Part("good", (python("print('fine')"),), 20),
            Part("bad", (python("print('why'); raise SystemExit(3)"),), 20),
            Part("slow", (python("import time; print('half', flush=True); time.sleep(60)"),), 1.5),
            Part("dependent", (python("1"),), 20, needs=("bad",)),
            Part("last", (python("print('still here')"),), 20, needs=("good",)),
        ],
        tmp_path,
        60,
        partial(keep, tmp_path, None),
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


def test_summary_is_there_after_each_part(tmp_path):
    # the second part looks at what the first one left
    look = f"import json; print(len(json.load(open({str(tmp_path / 'summary.json')!r}))))"
    parts = [
        Part("first", (python("1"),), 20),
        Part("look", (python(look),), 20),
    ]
    run_parts(parts, tmp_path, 60, partial(keep, tmp_path, None))
    assert (tmp_path / "look.log").read_text().endswith("1\n")


def test_archive_is_complete_after_each_part(tmp_path):
    archive = tmp_path / "there" / "all.zip"
    output = tmp_path / "output"
    output.mkdir()
    look = f"import zipfile; print(zipfile.ZipFile({str(archive)!r}).namelist())"
    parts = [
        Part("first", (python("print('fine')"),), 20),
        Part("look", (python(look),), 20),
    ]
    (output / "a folder").mkdir()  # of no interest
    run_parts(parts, output, 60, partial(keep, output, archive))
    kept = ["failed.txt", "first.log", "summary.json", "summary.txt"]
    assert (output / "look.log").read_text().endswith(f"{kept}\n")
    with zipfile.ZipFile(archive) as packed:
        assert packed.namelist() == sorted([*kept, "look.log"])
        assert b"fine" in packed.read("first.log")
    assert [path.name for path in archive.parent.iterdir()] == ["all.zip"]


def test_commands_after_a_failed_one(tmp_path):
    commands = (python("raise SystemExit(2)"), python("print('second')"))
    for keeps_going in (False, True):
        part = Part("part", commands, 20, keeps_going=keeps_going)
        assert run_part(part, tmp_path / "part.log", 20).outcome == "failed"
        assert ("second" in (tmp_path / "part.log").read_text().split("\n")) == keeps_going


def test_commands_at_once(tmp_path):
    # the first one waits for what the third one writes
    wait = f"""
import pathlib, time
while not pathlib.Path({str(tmp_path / "flag")!r}).exists():
    time.sleep(0.05)
print("waited")
"""
    raise_flag = f"open({str(tmp_path / 'flag')!r}, 'w'); print('raised')"
    commands = (python(wait), python("raise SystemExit(4)"), python(raise_flag))
    part = Part("part", commands, 20, at_once=True)
    result = run_part(part, tmp_path / "part.log", 20)
    assert result.outcome == "failed"
    assert result.note.count("ended with") == 1
    assert "ended with 4" in result.note
    lines = (tmp_path / "part.log").read_text().splitlines()
    assert lines.index("waited") < lines.index("raised")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flag", "part.log"]


def test_a_missing_program_is_a_failure_of_its_part(tmp_path):
    part = Part("part", (("no-such-program",),), 20)
    result = run_part(part, tmp_path / "part.log", 20)
    assert (result.outcome, result.note) == ("failed", "no-such-program ended with 127")


def test_a_stopped_part_may_write_what_it_has(tmp_path):
    code = """
import time
print("begun", flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("partial result", flush=True)
"""
    part = Part("part", (python(code),), 2)
    assert run_part(part, tmp_path / "part.log", 2).outcome == "timed out"
    assert "partial result" in (tmp_path / "part.log").read_text()


def test_a_part_that_does_not_listen_is_ended_with_its_children(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "_GRACE_S", 0.5)
    code = """
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("child", child.pid, flush=True)
time.sleep(60)
"""
    start = time.monotonic()
    part = Part("part", (python(code),), 2)
    assert run_part(part, tmp_path / "part.log", 2).outcome == "timed out"
    assert time.monotonic() - start < 20
    assert_ended(int((tmp_path / "part.log").read_text().split("child ")[-1]))


def assert_ended(process):
    for _ in range(50):
        state = Path(f"/proc/{process}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    os.kill(process, 9)
    pytest.fail("what a part has started is still running")


def test_what_a_part_leaves_running_is_ended(tmp_path):
    # a worker that outlives pytest would run beside the timing
    code = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("child", child.pid, flush=True)
"""
    part = Part("part", (python(code),), 20)
    assert run_part(part, tmp_path / "part.log", 20).outcome == "ok"
    assert_ended(int((tmp_path / "part.log").read_text().split("child ")[-1]))


def test_no_time_left(tmp_path):
    results = run_parts([Part("part", (python("1"),), 20)], tmp_path, 1)
    assert (results[0].outcome, results[0].note) == ("skipped", "no time left")


@pytest.fixture(params=["heeded", "ignored"])
def _interrupts(request):
    """SIGINT as it is, or ignored, as a shell has its background commands do."""
    before = signal.getsignal(signal.SIGINT)
    if request.param == "ignored":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    running.heed_interrupts()
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interrupts")
def test_a_stopped_command_is_told_first(tmp_path):
    code = "import time\ntry: time.sleep(100)\nexcept KeyboardInterrupt: print('told')\n"
    log = tmp_path / "log"
    assert running.run_command((sys.executable, "-c", code), log, 3, {}) is None
    assert log.read_text().endswith("told\n")


@pytest.mark.usefixtures("_interrupts")
def test_a_stopped_test_run_keeps_what_it_has_found(tmp_path, monkeypatch):
    """pytest under xdist is told to stop as from a keyboard, and still writes its file."""
    monkeypatch.setattr(running, "_GRACE_S", 60)  # other tests load the machine
    # and importing all that is installed may take longer than the run is given
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    (tmp_path / "test_slow.py").write_text(
        "import pytest, time\n"
        "@pytest.mark.parametrize('k', range(20))\n"
        "def test_one(k):\n"
        "    assert k != 1, 'error 0.5 > 0.1'\n"
        "    time.sleep(0.5 if k < 4 else 120)\n"
    )
    command = (
        *(sys.executable, "-m", "pytest", str(tmp_path / "test_slow.py"), "-q", "-rf"),
        *(
            "-p",
            "xdist",
            "-n",
            "2",
            "--maxschedchunk=1",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            str(tmp_path),
        ),
        f"--junitxml={tmp_path / 'tests.xml'}",
    )
    for limit_s in (10, 40, 100):  # a loaded machine may have begun no test before the first ones
        part = Part("tests", (command,), limit_s)
        assert run_part(part, tmp_path / "tests.log", limit_s).outcome != "ok"
        found = all_failed_tests(tmp_path)
        if found:
            break
    assert len(found) == 1, (tmp_path / "tests.log").read_text()
    (failed,) = found.items()
    assert failed[0].endswith("test_one[1]") and "error 0.5 > 0.1" in failed[1]
