"""Which commit a row names, with git and without."""

from __future__ import annotations

import re

import pytest

from benchmarks import commit


def test_the_commit_of_this_tree(monkeypatch):
    monkeypatch.setenv("FUSEDML_COMMIT", "of another tree")
    if not (commit.ROOT / ".git").exists():
        pytest.skip("these files came without git")
    assert re.fullmatch(r"[0-9a-f]{7,}\+?", commit.current_commit())


@pytest.mark.parametrize("has_git", [False, True])
def test_without_git_the_environment_says_it(tmp_path, monkeypatch, has_git):
    monkeypatch.setattr(commit, "ROOT", tmp_path)  # no repository
    if not has_git:
        monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("FUSEDML_COMMIT", "abc1234")
    assert commit.current_commit() == "abc1234"
    monkeypatch.delenv("FUSEDML_COMMIT")
    assert commit.current_commit() == ""
