"""What went wrong, in a line each: failed tests, and the telling lines of a log."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

_LONGEST = 230
# what the native programs, the compilers, the sanitizer and Python say of a mistake
_TELLING = re.compile(
    r"error|Error|failed|FAILED|not found|No such|allowed|Invalid|hazard|LOST|is lost|cannot"
)
_HARMLESS = re.compile(r"\b0 failed|ERROR SUMMARY: 0|^\$ |\b0 errors")


def failed_tests(junit: Path) -> dict[str, str]:
    """{id of a test that failed: its first failing assertion}, in the order in which they ran.

    Empty if there is no file, or only half of one.
    """
    try:
        cases = ET.parse(junit).getroot().iter("testcase")
    except (OSError, ET.ParseError):
        return {}
    found: dict[str, str] = {}
    for case in cases:
        for trouble in (*case.iter("failure"), *case.iter("error")):
            name = _id_of(case)
            # the first thing said of it: what comes later is what became of its process
            found.setdefault(name, _shorten(trouble.get("message") or trouble.text or ""))
    return found


def _id_of(case: ET.Element) -> str:
    """The id as pytest takes it; a worker that ended names its test in one word."""
    name, module = case.get("name", ""), case.get("classname", "")
    if "::" in name:
        return name
    return f"{module.replace('.', '/')}.py::{name}" if module else name


def failed_in_log(log: Path) -> dict[str, str]:
    """The same from what pytest printed, where it could not write its file."""
    if not log.exists():
        return {}
    pattern = re.compile(r"^(?:FAILED|ERROR) (\S+::.+?)(?: - (.*))?$")
    matches = map(pattern.match, log.read_text(errors="replace").splitlines())
    return {match[1]: _shorten(match[2] or "") for match in matches if match}


def _shorten(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return " | ".join(lines[:2])[:_LONGEST]


def telling_lines(log: Path, most: int = 6) -> list[str]:
    """The first lines that speak of a mistake, and the last line."""
    if not log.exists():
        return []
    lines = [line.rstrip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    chosen = [line for line in lines if _TELLING.search(line) and not _HARMLESS.search(line)][
        : most - 1
    ]
    if lines and lines[-1] not in chosen and not lines[-1].startswith("$ "):
        chosen.append(lines[-1])
    return [line.strip()[:_LONGEST] for line in chosen]
