"""Programs and packages of the machine, looked for without importing any."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path


def tool(name: str) -> str:
    """A program of the CUDA toolkit: as the shell finds it, or where the toolkit usually lies."""
    toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    found = shutil.which(name) or shutil.which(name, path=str(toolkit / "bin"))
    return found or name


def query(fields: tuple[str, ...]) -> dict[str, str]:
    """What nvidia-smi says of the first GPU; empty without it."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [value.strip() for value in done.stdout.splitlines()[0].split(",")]
    return dict(zip(fields, values, strict=False))


def architecture() -> str | None:
    """The architecture to compile for, of the first GPU, as in "9.0a"; None without one."""
    capability = query(("compute_cap",)).get("compute_cap")
    if capability is None:
        return None
    # the instructions of one generation only, where there are such
    return f"{capability}{'a' if int(capability.split('.')[0]) >= 9 else ''}"


def has(package: str) -> bool:
    """Whether a package can be imported here."""
    return importlib.util.find_spec(package) is not None
