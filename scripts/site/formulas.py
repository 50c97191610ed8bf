"""Formulas as docstrings write them, e.g. ``sum_P e^{-alpha (s - base)} / alpha``, as MathML.

Browsers draw MathML themselves: no script, no font and no network.  An identifier of one letter is
a variable; ``_`` and ``^`` take what follows, a whole group in braces, and of letters without them
each is an index (``s_ij``).  Greek letters and functions go by their names; ``<x, w>`` is an inner
product, ``u`` between sets their union, ``in`` of a sum membership.  Other words are
prose, up to the next thing that is no word.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from html import escape

_GREEK = {
    **{"alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "theta": "θ"},  # noqa: RUF001
    **{"lambda": "λ", "mu": "μ", "pi": "π", "sigma": "σ", "tau": "τ", "phi": "φ", "psi": "ψ"},  # noqa: RUF001
}
_FUNCTIONS = {
    *("log", "exp", "cos", "sin", "tan", "acos", "max", "min", "mean", "sum"),
    *("relu", "softplus", "sigmoid", "softmax", "logaddexp", "LSE"),
}
_SIGNS = {"-": "\N{MINUS SIGN}", "*": "·", "!=": "≠", "<=": "≤", ">=": "≥", "~": "≈", "->": "→"}
_OF_SETS = {"u": "\N{UNION}", "in": "\N{ELEMENT OF}"}
_BIG = {"sum": "∑"}
_SPACE = '<mspace width="0.2em"/>'
_TOKEN = re.compile(
    r"(?P<space>\s+)|(?P<number>\d+(\.\d+)?)|(?P<name>[A-Za-z]+)"
    r"|(?P<sign>\.\.\.|\.\.|!=|<=|>=|->|[^\sA-Za-z0-9])"
)


def mathml(formula: str, names: Collection[str] = ()) -> str:
    """The lines of a formula, each ``<math>`` and prose.

    names: words that are variables, such as the arguments of a constructor.
    """
    text = formula.strip().rstrip(".")
    lines = [line.strip() for line in text.splitlines()]
    if any(line.count("{") != line.count("}") for line in lines):
        lines = [" ".join(lines)]
    return "<br>".join(_Line(line, names).html() for line in lines)


class _Line:
    """One line, read from left to right."""

    def __init__(self, text: str, names: Collection[str]) -> None:
        self.names = names
        long = sorted((name for name in names if "_" in name), key=len, reverse=True)
        whole = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in long)) if long else None
        self.tokens: list[str] = []
        at = 0
        while at < len(text):
            found = whole.match(text, at) if whole else None
            found = found or _TOKEN.match(text, at)
            assert found is not None  # the last kind of token is any character
            self.tokens.append(found[0])
            at = found.end()
        self.at = 0

    def html(self) -> str:
        parts: list[str] = []
        while self.at < len(self.tokens):
            math = self.sequence(stop=None)
            if math:
                parts.append(f"<math>{math}</math>")
            parts.append(self.prose())
        return "".join(parts)

    def sequence(self, stop: str | None) -> str:
        """Up to the closing brace, or, outside of braces, up to the first word."""
        parts: list[str] = []
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            if token == stop:
                self.at += 1
                break
            if stop is None and self.is_word(token):
                break
            if token.isspace():
                self.at += 1
                continue
            parts.append(self.scripted())
        return "".join(parts)

    def is_word(self, token: str) -> bool:
        is_known = token in self.names or token in _GREEK or token in _FUNCTIONS
        is_article = token == "a" and self.neighbour(1).isspace() and self.neighbour(2).isalpha()
        return token.isalpha() and not is_known and (len(token) > 1 or is_article)

    def neighbour(self, offset: int) -> str:
        at = self.at + offset
        return self.tokens[at] if 0 <= at < len(self.tokens) else ""

    def scripted(self) -> str:
        """The next thing with its index and exponent."""
        token = self.tokens[self.at]
        base, scripts = self.atom(), {}
        if token == "]" and self.neighbour(0) == "+" and self.neighbour(1) in (" ", "", ")", "^"):
            self.at += 1  # [x]+, the positive part
            scripts["_"] = "<mo>+</mo>"
        if token.isalpha() and self.neighbour(0) in ("+", "-") and self.neighbour(1) == "_":
            scripts["^"] = self.atom()  # R+_i, of the positives
        while self.neighbour(0) in ("_", "^") and self.neighbour(0) not in scripts:
            kind = self.tokens[self.at]
            self.at += 1
            scripts[kind] = self.script()
        below, above = scripts.get("_"), scripts.get("^")
        tag = "under" if token in (*_BIG, "max", "min", "mean") else "sub"
        if below and above:
            base = f"<msubsup>{base}{below}{above}</msubsup>"
        elif below:
            base = f"<m{tag}>{base}{below}</m{tag}>"
        elif above:
            base = f"<msup>{base}{above}</msup>"
        is_word = len(token) > 1 and token[0].isalpha()
        is_word = is_word and token not in (*_BIG, *_GREEK, *_OF_SETS)
        return base + _SPACE if is_word or token == "," else base

    def script(self) -> str:
        token = self.neighbour(0)
        if token == "{":
            self.at += 1
            return f"<mrow>{self.sequence(stop='}')}</mrow>"
        if token.isalpha() and token not in self.names and self.letters(token):
            self.at += 1
            return f"<mrow>{self.letters(token)}</mrow>"
        return self.atom()

    @staticmethod
    def letters(token: str) -> str:
        """An index of several letters, each of its own; "" where the whole is a name."""
        if token in _GREEK or token in _FUNCTIONS:
            return ""
        return "".join(f"<mi>{letter}</mi>" for letter in token)

    def atom(self) -> str:
        token = self.tokens[self.at]
        before, after = self.neighbour(-1), self.neighbour(1)
        self.at += 1
        if token in _BIG:
            return f'<mo movablelimits="false">{_BIG[token]}</mo>'
        if token in _OF_SETS and before.isspace() and after.isspace():
            return f"<mo>{_OF_SETS[token]}</mo>"
        if token[0].isalpha():
            return f"<mi>{_GREEK.get(token, escape(token))}</mi>"
        if token[0].isdigit():
            return f"<mn>{token}</mn>"
        return self.sign(token, is_opening=not after.isspace(), is_closing=not before.isspace())

    @staticmethod
    def sign(token: str, is_opening: bool, is_closing: bool) -> str:
        """An operator, a bracket, or a comparison where space is on both sides."""
        if token == "<" and is_opening:
            token = "⟨"
        if token == ">" and is_closing:
            token = "⟩"
        # a norm's bars stand close to what is between them
        bar = ' form="infix" lspace="0" rspace="0"' if token == "|" else ""
        return f'<mo stretchy="false"{bar}>{escape(_SIGNS.get(token, token))}</mo>'

    def prose(self) -> str:
        """Words and what stands between them, up to a variable."""
        parts = [" "] if self.neighbour(-1).isspace() else []
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            is_symbol = token.isalpha() and not self.is_word(token) and len(token) == 1
            if is_symbol or self.neighbour(1) == "_" or token in _GREEK:
                break
            parts.append(token)
            self.at += 1
        return escape("".join(parts))
