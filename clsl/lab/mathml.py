"""The formulas of the notebooks as MathML, which browsers draw without a script."""

import html
import re

_TOKEN = re.compile(r"\\(?:text|mathrm|mathbb)\{[^}]*\}|\\[A-Za-z]+|\\.|[0-9]+(?:\.[0-9]+)?|\S")
_SIGNS = dict(neq="≠", cdot="·", sum="∑", le="≤", ge="≥", times="×", dots="…", infty="∞", to="→") | {"in": "∈", "|": "‖"}
_LETTERS = dict(alpha="α", beta="β", tau="τ", pi="π", sigma="σ")
_SPACES = {",": 0.17, ";": 0.28, " ": 0.25, "quad": 1, "qquad": 2}


def in_markdown(text: str) -> str:
    """Markdown with its formulas, $…$ and $$…$$, as MathML; what is code stays."""

    def replaced(found: re.Match) -> str:
        shown, inline = found.groups()
        return formula(shown, True) if shown else formula(inline) if inline else found[0]

    return re.sub(r"```.*?```|`[^`]*`|\$\$(.+?)\$\$|\$([^$]+?)\$", replaced, text, flags=re.S)


def formula(tex: str, display: bool = False) -> str:
    """A formula in the part of TeX that the notebooks use, as one <math> element; an unknown command stands there by its name."""
    kind = ' display="block" tabindex="0"' if display else ""
    return f"<math{kind}>{_row(_TOKEN.findall(tex))}</math>"


def _row(tokens: list[str]) -> str:
    """What stands in a row, up to a closing brace or the end."""
    parts = []
    while tokens and tokens[0] != "}":
        parts.append(_with_scripts(tokens))
    del tokens[:1]
    return f"<mrow>{''.join(parts)}</mrow>"


def _with_scripts(tokens: list[str]) -> str:
    large = tokens[0] == r"\sum"
    base, scripts = _one(tokens), {}
    while tokens and tokens[0] in "_^":
        kind = tokens.pop(0)
        scripts[kind] = _one(tokens)
    names = {"_": "under" if large else "sub", "^": "over" if large else "sup"}
    kind = "m" + "".join(names[each] for each in "_^" if each in scripts)
    return f"<{kind}>{base}{scripts.get('_', '')}{scripts.get('^', '')}</{kind}>" if scripts else base


def _one(tokens: list[str]) -> str:
    """A brace, a fraction, a sign, a letter or a number, with what belongs to it."""
    token = tokens.pop(0)
    name = token.removeprefix("\\")
    if token == "{":
        return _row(tokens)
    if token == r"\frac":
        return f"<mfrac>{_one(tokens)}{_one(tokens)}</mfrac>"
    if token in (r"\big", r"\Big"):
        size = 1.2 if name == "big" else 1.8
        return f'<mo stretchy="true" minsize="{size}em" maxsize="{size}em">{tokens.pop(0)}</mo>'
    if name != token and "{" in token:
        kind, _, words = name[:-1].partition("{")
        letters = {"E": "𝔼", "R": "ℝ", "P": "ℙ"}
        return f"<mi>{letters.get(words, words)}</mi>" if kind == "mathbb" else f"<mtext>{html.escape(words)}</mtext>"
    if name != token and name in _SPACES:
        return f'<mspace width="{_SPACES[name]}em"></mspace>'
    if name != token and name in _SIGNS:
        return f"<mo>{_SIGNS[name]}</mo>"
    if name == "log":
        return '<mo lspace="0.17em" rspace="0.17em">log</mo>'
    if name[0].isalpha():
        return f"<mi>{_LETTERS.get(name, name)}</mi>"
    if name[0].isdigit():
        return f"<mn>{name}</mn>"
    return f'<mo stretchy="false">{html.escape(name.replace("-", "−"))}</mo>'
