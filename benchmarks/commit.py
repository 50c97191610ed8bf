"""Which commit the files here are of, also where they came without git."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def current_commit() -> str:
    """The short commit, with a + if tracked files were changed.

    Outside of git: what the environment variable FUSEDML_COMMIT says, or nothing.
    """
    git = ["git", "-C", str(ROOT)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        # the results themselves do not change what was measured
        changed = subprocess.run(
            [*git, "status", "--porcelain", "-uno", "--", ".", ":!benchmarks/results"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("FUSEDML_COMMIT", "")
    return commit + ("+" if changed else "")
