"""setuptools as the build backend, after a look at what the build needs.

pip installs that by itself, but not with ``--no-build-isolation``: there setuptools that is missing
or too old ended in a traceback, from which nobody reads what to install.
"""

from __future__ import annotations

from importlib import metadata

# the first that reads the license in pyproject.toml
OLDEST_SETUPTOOLS = 77


def check_setuptools() -> None:
    """Ends the build with a message unless setuptools is there and new enough."""
    try:
        found = metadata.version("setuptools")
    except metadata.PackageNotFoundError:
        found = "none"
    major = found.partition(".")[0]
    if not (major.isdigit() and int(major) >= OLDEST_SETUPTOOLS):
        raise SystemExit(
            f"fusedml: the build needs setuptools >= {OLDEST_SETUPTOOLS}, found {found}.  With "
            f"--no-build-isolation pip installs nothing for it: first pip install "
            f"'setuptools>={OLDEST_SETUPTOOLS}' cmake ninja, or leave --no-build-isolation out"
        )


check_setuptools()

from setuptools.build_meta import *  # noqa: E402, F403  the hooks that pip calls
