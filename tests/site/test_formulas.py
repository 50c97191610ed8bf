from __future__ import annotations

import inspect
import re
from xml.dom import minidom

import pytest

from benchmarks.cases import MEASURED
from scripts.site.formulas import mathml

pytest.importorskip("griffe", reason="griffe is not installed, which reads the docstrings")

from scripts.site.docstrings import loss_text, verbatim


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s_ij", "<msub><mi>s</mi><mrow><mi>i</mi><mi>j</mi></mrow></msub>"),
        ("theta_iy", "<msub><mi>θ</mi><mrow><mi>i</mi><mi>y</mi></mrow></msub>"),
        ("x_i^2", "<msubsup><mi>x</mi><mrow><mi>i</mi></mrow><mn>2</mn></msubsup>"),
        ("tan^2 alpha", "<msup><mi>tan</mi><mn>2</mn></msup>"),
        ("c_{y_i}", "<mrow><msub><mi>y</mi><mrow><mi>i</mi></mrow></msub></mrow>"),
        ("sum_P", '<munder><mo movablelimits="false">∑</mo><mrow><mi>P</mi></mrow></munder>'),
        ("P u N", "<mi>P</mi><mo>\N{UNION}</mo><mi>N</mi>"),
        ("sum_{p in P(i)}", "<mi>p</mi><mo>∈</mo><mi>P</mi>"),
        ("d_in", "<msub><mi>d</mi><mrow><mi>i</mi><mi>n</mi></mrow></msub>"),
        ("<a, w>", '<mo stretchy="false">⟨</mo><mi>a</mi>'),
        ("a < w", '<mi>a</mi><mo stretchy="false">&lt;</mo><mi>w</mi>'),
        ("R+_i", '<msubsup><mi>R</mi><mrow><mi>i</mi></mrow><mo stretchy="false">+</mo></msubsup>'),
        ("[s + m]+ (", '<msub><mo stretchy="false">]</mo><mo>+</mo></msub>'),
        ("neg_margin - d", "<mi>neg_margin</mi>"),
    ],
)
def test_notation(text: str, expected: str) -> None:
    assert expected in mathml(text, ["neg_margin"])


def test_words_are_prose_between_formulas() -> None:
    first, prose, second, rest = re.split(
        r"</?math>", mathml("L = 1, T the temperature, s the similarity")
    )[1::1][:4]
    assert "<mi>T</mi>" in first and prose == " the temperature, "
    assert second == "<mi>s</mi>" and rest == " the similarity"


def test_lines_stay_lines_unless_a_group_spans_them() -> None:
    assert mathml("L = a\n   + b").count("<br>") == 1
    assert mathml("L = e^{a\n   + b}").count("<br>") == 0


@pytest.mark.parametrize("name", MEASURED)
def test_the_formula_of_a_loss_is_drawn_whole(name: str) -> None:
    text = loss_text(MEASURED[name], inspect.getdoc(MEASURED[name]) or "")
    drawn = text[: text.index("</div>") + 6]
    document = minidom.parseString(drawn.replace("<br>", "<br/>"))
    formulas = document.getElementsByTagName("math")
    assert formulas
    arguments = set(inspect.signature(MEASURED[name]).parameters)
    for kind in ("mi", "mo", "mn"):
        for element in document.getElementsByTagName(kind):
            symbol = element.firstChild.data
            assert symbol in arguments or not set("_^{}") & set(symbol), symbol
    for element in document.getElementsByTagName("msub"):
        assert len(element.childNodes) == 2


def test_docstrings_mean_what_they_say() -> None:
    text = "The sum over a_i * b_j < 1.\n\nArgs:\n    some_name: > 0, as `x_i`, see :class:`X`.\n"
    assert verbatim(text).splitlines() == [
        r"The sum over a\_i \* b\_j &lt; 1.",
        "",
        "Args:",
        r"    some_name: \> 0, as `x_i`, see ``X``.",
    ]


def test_indented_formulas_are_code() -> None:
    assert verbatim("One:\n\n    z_ij = a_i * b\n\nTwo a_b.") != ""
    assert "    z_ij = a_i * b" in verbatim("It is\n\n    z_ij = a_i * b\n")
