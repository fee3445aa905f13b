r"""One notation for answers: plain LaTeX, from any mixture of LaTeX, Unicode and ASCII mathematics.

Answers may be hostile, so every function takes time linear in the length of the text.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator

_WRAPPERS = (
    "text|textbf|textit|textrm|textsf|textnormal|textsc|texttt|emph|mbox|math(?:rm|bf|sf|it|tt)|operatorname|boxed"
)
WRAPPER = rf"\\(?:{_WRAPPERS})"
_WRAPPED = re.compile(WRAPPER + r"\s*\{([^{}]*)\}")
_GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho varsigma sigma tau"
_SYMBOLS = {
    "−‐‑–": "-", "·⋅∙": r"\cdot ", "×": r"\times ", "÷⁄": "/", "∗": "*", "±": r"\pm ", "√": "sqrt", "∛": "cbrt",
    "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∞": r"\infty ",
    "∅": r"\emptyset ", "℃": "°C", "℉": "°F", "￥": "¥", "。": ".", "、": ",", "\u3000": " ", "“”": '"', "‘’": "'",
    "\u00a0\u2009\u202f": r"\,", "\u200b\u200c\u200d\u2060\ufeff": "",
}  # fmt: skip
_CHARACTERS = str.maketrans(
    {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}  # full-width forms
    | {chr(0x3B1 + i): rf"\{name} " for i, name in enumerate(f"{_GREEK} upsilon phi chi psi omega".split())}
    | {
        chr(code): rf"\text{{ {unicodedata.normalize('NFKC', chr(code))}}}" for code in range(0x338E, 0x33A0)
    }  # as in ㎏
    | {"㎡": r"\text{ m}^2", "㎢": r"\text{ km}^2", "㎥": r"\text{ m}^3"}
    | {c: re.sub("(.+)⁄(.+)", r"\\frac{\1}{\2}", unicodedata.normalize("NFKC", c)) for c in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"}
    | {char: latex for chars, latex in _SYMBOLS.items() for char in chars}
)
_RAISED = re.compile(r"(?<![A-Za-z])([kcm]?m)([²³])|([⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+)|([₀₁₂₃₄₅₆₇₈₉]+)")
_THOUSANDS = re.compile(r"(?<=[0-9])(?:,\\!|\{,\}|\\[,;: ]|~)\s*(?=[0-9]{3}(?![0-9]))")
_INVISIBLE = re.compile(r"(?<!\\)\\[!,;: ]|\\q?quad\b|~")
_DELIMITER = re.compile(r"(?<!\\)(?:\$|\\[()\[\]])")
_SIZES = re.compile(r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])|\\displaystyle\b")
_ASCII = re.compile(r"[*^]|sqrt|cbrt|exp|abs|/-|!=|[)\]]\s*U|\{[eE]\}|(?<![A-Za-z\\])[A-Za-z]{2}")
_GROUPS = {"sqrt": r"\sqrt{%s}", "cbrt": r"\sqrt[3]{%s}", "exp": "e^{%s}", "abs": "|%s|", "^": "^{%s}"}
_GROUP = re.compile(r"(?<![A-Za-z\\])(sqrt|cbrt|exp|abs)\s*\(|\\(sqrt)\s*\(|(\^)\s*\(")
_ROOT = re.compile(r"(?<![A-Za-z\\])(sqrt|cbrt)\s*([0-9]+(?:\.[0-9]+)?|\\[a-z]+|[a-z](?![A-Za-z]))")
_NAMES = re.compile(
    rf"(?<![A-Za-z\\])({_GREEK.replace(' ', '|')}|phi|psi|omega|[Pp]i|infinity|infty|inf|oo)(?![A-Za-z])"
)
_FUNCTIONS = re.compile(
    r"(?<![A-Za-z\\])(arc(?:sin|cos|tan)|sin|cos|tan|cot|sec|csc|log|ln)(?=\s*[(^]|\s+(?:[a-z](?![a-z])|[0-9\\]))"
)
_CONJUNCTION = re.compile(r"\\(?:text|mbox|mathrm)\s*\{\s*,?\s*(?:and|or)\s*\}|\b(?:and|or)\b|;")


def one_line(text: str) -> str:
    r"""``text`` as LaTeX on one line, without ``$``, invisible spaces, sizing commands or a closing full stop.

    >>> one_line("$\\dfrac 8 9 \\%$."), one_line(r"29,\!322"), one_line(r"\left( 1,2 \right]"), one_line("４２。")
    ('\\frac 8 9 \\%', '29322', '( 1,2 ]', '42')
    >>> one_line("x**2 + sqrt(pi/2)"), one_line("2√3 × 10⁻⁵"), one_line("(-inf, ½]")
    ('x^2 + \\sqrt{\\pi /2}', '2\\sqrt{3} \\times 10^{-5}', '(-\\infty , \\frac{1}{2}]')
    """
    if not text.isascii():
        text = _RAISED.sub(_lowered, text).translate(_CHARACTERS)
    text = _THOUSANDS.sub("", _DELIMITER.sub("", text))
    text = _INVISIBLE.sub(" ", text.replace("{,}", ",").replace("\\!", ""))
    text = _SIZES.sub("", re.sub(r"\\[dtc]frac", r"\\frac", text))
    if _ASCII.search(text):
        text = _from_ascii(text)
    return " ".join(text.split()).rstrip(". ")


def _lowered(found: re.Match[str]) -> str:
    """Superscripts, subscripts, and square or cubic metres in ordinary characters."""
    if found[1]:
        return rf"\text{{ {found[1]}}}^{unicodedata.normalize('NFKC', found[2])}"
    digits = unicodedata.normalize("NFKC", found[0]).replace("\u2212", "-")
    return f"^{{{digits}}}" if found[3] else f"_{{{digits}}}"


def _from_ascii(text: str) -> str:
    text = text.replace("**", "^").replace("+/-", r"\pm ").replace("!=", r"\ne ")
    text = re.sub(r"(?<=[0-9])\s*[xX*]\s*(?=10\s*\^)", r"\\times ", text)
    text = re.sub(r"\s*\*\s*", r" \\cdot ", text)
    text = re.sub(r"(?<=[)\]])\s*U\s*(?=[(\[])", r" \\cup ", text)
    text = re.sub(r"(?<=[0-9])\\(?:text|mathrm)\{([eE])\}(?=[+-]?[0-9])", r"\1", text)
    text = _NAMES.sub(lambda m: rf"\{'infty' if m[1] in ('infinity', 'inf', 'oo') else m[1].lower()} ", text)
    for found in reversed(list(_GROUP.finditer(text))):
        end = _closing(text, found.end())
        if end is not None:
            form = _GROUPS[found[1] or found[2] or found[3]]
            text = text[: found.start()] + form % text[found.end() : end] + text[end + 1 :]
    text = _ROOT.sub(lambda m: _GROUPS[m[1]] % m[2], text)
    text = _FUNCTIONS.sub(r"\\\1", re.sub(r"(?<![A-Za-z\\])sqrt(?=\s*[\[{])", r"\\sqrt", text))
    return re.sub(r"\^\s*(-\s*[0-9]+|[0-9]{2,})", r"^{\1}", text)


def _closing(text: str, start: int) -> int | None:
    """Where the round bracket closes whose content starts at ``start``."""
    depth = 1
    for position in range(start, len(text)):
        depth += (text[position] == "(") - (text[position] == ")")
        if not depth:
            return position
    return None


def tidy(text: str) -> str:
    r""":func:`one_line` without a closing percent sign.

    >>> tidy("$8 \\%$."), tidy("$221,$8$")
    ('8', '221,8')
    """
    return re.sub(r"\s*\\?%$", "", one_line(text))


def compact(text: str) -> str:
    """For literal comparison: tidied, without spaces."""
    return "".join(tidy(text).split())


def unwrap(text: str) -> str:
    r"""Without a ``\text{…}``, ``\mathbf{…}`` or the like around the whole.

    >>> unwrap(r"\textbf{ \text{(A)}}")
    '(A)'
    """
    while inside := re.fullmatch(rf"{WRAPPER}\s*\{{((?:[^{{}}]|\{{[^{{}}]*\}})*)\}}", text.strip()):
        text = inside[1]
    return text.strip()


def unwrapped(text: str) -> str:
    r"""Without any ``\text{…}`` or the like, which leave their contents.

    >>> unwrapped(r"\text{June 5}"), unwrapped(r"\textbf{(C)}\ 12")
    ('June 5', '(C)\\ 12')
    """
    return _WRAPPED.sub(r"\1", text)


def brackets(text: str) -> tuple[str, str, str] | None:
    r"""Opening bracket, content and closing bracket when one pair (of any kind) encloses the whole text.

    >>> brackets("(1, 2]"), brackets(r"\{1\}"), brackets("(1,2),(3,4)")
    (('(', '1, 2', ']'), ('\\{', '1', '\\}'), None)
    """
    inside = re.fullmatch(r"(\\\{|[(\[])(.*)(\\\}|[)\]])", text.strip(), re.DOTALL)
    if not inside or (inside[1] == "\\{") != (inside[3] == "\\}"):
        return None
    if min(_depths(inside[2]), default=0) < 0:  # "(1,2), (3,4)": the first bracket closes before the end
        return None
    return inside[1], inside[2].strip(), inside[3]


def split_list(text: str) -> list[str]:
    r"""The parts of a list of answers: at commas, ";", "and" and "or", without brackets around the whole list.

    >>> split_list("58,500"), split_list("(1,2), (3,4]"), split_list(r"\{1, 2 \text{, and } 3\}")
    (['58', '500'], ['(1,2)', '(3,4]'], ['1', '2', '3'])
    """
    inside = brackets(text)
    text = inside[1] if inside and inside[0] + inside[2] in ("()", "\\{\\}") else text
    return split_commas(_CONJUNCTION.sub(",", text))


def split_commas(text: str) -> list[str]:
    """The parts at commas outside all brackets, also of a number with thousands commas; empty parts are left out."""
    commas = [at for at, (char, depth) in enumerate(zip(text, _depths(text), strict=True)) if char == "," and not depth]
    ends = zip([-1, *commas], [*commas, len(text)], strict=True)
    return [part for start, end in ends if (part := text[start + 1 : end].strip())]


def nesting_depth(text: str) -> int:
    """Deepest nesting of brackets of any kind.

    >>> nesting_depth("f(g[1])"), nesting_depth("((((")
    (2, 4)
    """
    return max(_depths(text), default=0)


def _depths(text: str) -> Iterator[int]:
    """Behind each character, how many more brackets have opened than closed."""
    return itertools.accumulate((char in "([{") - (char in ")]}") for char in text)
