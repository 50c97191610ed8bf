"""Stubs and tables are what the losses' classes say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "scripts" / "derived.py"
_SPEC = importlib.util.spec_from_file_location("fusedml_derived", PATH)
derived = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(derived)


def test_everything_derived_is_up_to_date() -> None:
    stale = [path.name for path in derived.stale()]
    assert not stale, f"run `python scripts/derived.py`: {stale}"


def test_what_is_stale_is_named(tmp_path, monkeypatch, capsys) -> None:
    good, old = tmp_path / "good", tmp_path / "old"
    good.write_text("text")
    old.write_text("other")
    monkeypatch.setattr(derived, "ROOT", tmp_path)
    monkeypatch.setattr(derived, "files", lambda: {good: "text", old: "text"})
    assert derived.main(["--check"]) == 1
    assert capsys.readouterr().out == "old is out of date: python scripts/derived.py\n"
    assert derived.main([]) == 0
    assert old.read_text() == "text"
    assert derived.main(["--check"]) == 0


def test_a_docstring_needs_formula_and_source() -> None:
    class Nothing:
        """L_i = 0."""

    with pytest.raises(ValueError, match="Nothing's docstring must begin with its formula"):
        derived.described(Nothing)


def test_the_page_needs_its_marks() -> None:
    with pytest.raises(ValueError, match=r"index\.md must have <!-- losses -->"):
        derived.with_table("no marks")
