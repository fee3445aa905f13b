r"""Text work on answers: finding the final answer in a response, plain numbers, lists. No parsing of mathematics here.

Responses are written by a model and may be hostile: every function is linear in the length of the text, and nothing of
it is ever evaluated.
"""

from __future__ import annotations

import re
from fractions import Fraction

_BRACES = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{|\\.|[{}]", re.DOTALL)
_UNBRACED_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s+(?=[^\s{])((?:(?!\\(?:boxed|fbox|framebox))[^$\n])*)")
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|[+-]?\.[0-9]+")
_LATEX_THOUSANDS = re.compile(r"(?<=[0-9])(?:,\\!|\{,\})\s*(?=[0-9]{3}(?![0-9]))")
_INVISIBLE = re.compile(r"\\[!,;: ]|\\q?quad\b|~")
_DOLLAR = re.compile(r"(?<!\\)\$")
_CONJUNCTION = re.compile(r"\\(?:text|mbox|mathrm)\s*\{\s*,?\s*(?:and|or)\s*\}|\b(?:and|or)\b|;")
_NOT_WORDS = re.compile(r"\\(?:text|mbox|textbf|textit|mathrm|operatorname|begin|end)\s*\{[^}]*\}|\\[A-Za-z]+")
MAX_NUMBER_CHARS = 400


def last_boxed(text: str) -> str | None:
    r"""Content of the last balanced ``\boxed{…}``, ``\fbox{…}`` or ``\framebox{…}``; else of a last ``\boxed 3``.

    >>> last_boxed(r"so \boxed{1} or rather \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    >>> last_boxed(r"the answer is $\boxed 3$."), last_boxed(r"cut off: \boxed{12")
    ('3', None)
    """
    last_start, content = -1, None
    open_braces: list[tuple[bool, int, int]] = []  # (is a box, where it starts, where its content starts)
    for token in _BRACES.finditer(text):
        if token[0] == "}":
            is_box, start, content_start = open_braces.pop() if open_braces else (False, 0, 0)
            if is_box and start > last_start:
                last_start, content = start, text[content_start : token.start()]
        elif token[0][-1] == "{" and token[0] != "\\{":
            open_braces.append((token[0] != "{", token.start(), token.end()))
    for unbraced in _UNBRACED_BOX.finditer(text):
        if unbraced.start() > last_start:
            last_start, content = unbraced.start(), unbraced[1]
    return content.strip() if content is not None else None


def after_hashes(text: str) -> str | None:
    """What follows the last ``####``, stripped; None when there is no ``####``.

    >>> after_hashes("3 + 4 = 7 #### 7")
    '7'
    """
    _, hashes, after = text.rpartition("####")
    return after.strip() if hashes else None


def plain_number(text: str) -> Fraction | None:
    r"""Exact value of a number written in digits, with optional sign, decimals and thousands commas; else None.

    >>> [plain_number(t) for t in ("025", "27.0", "1,000", r"10,\!080", "$-3$", "1,00", "2x")]
    [Fraction(25, 1), Fraction(27, 1), Fraction(1000, 1), Fraction(10080, 1), Fraction(-3, 1), None, None]
    """
    if len(text) > MAX_NUMBER_CHARS:
        return None
    text = _INVISIBLE.sub("", text.replace("{,}", ",").replace("\u2212", "-")).strip(" \t\n$").replace(", ", ",")
    if not _NUMBER.fullmatch(text):
        return None
    return Fraction(text.replace(",", "").removesuffix("."))


def tidy(text: str) -> str:
    r"""One line without ``$``, invisible spaces, a closing full stop or a closing percent sign.

    Percent is dropped because a gold of ``8\%`` means that 8 and ``8\%`` are right and 0.08 is not.

    >>> tidy("$8 \\%$."), tidy("$69$,$84$"), tidy(r"29,\!322,\!216")
    ('8', '69,84', '29322216')
    """
    text = _LATEX_THOUSANDS.sub("", _DOLLAR.sub("", text))
    text = _INVISIBLE.sub(" ", text.replace("{,}", ",").replace("\\!", ""))
    text = " ".join(text.split()).rstrip(". ")
    return re.sub(r"\s*\\?%$", "", text)


def compact(text: str) -> str:
    r"""For literal comparison: tidied, without spaces and sizing commands; ``\dfrac`` and ``\tfrac`` are ``\frac``."""
    return re.sub(r"\\[dt]frac", r"\\frac", re.sub(r"\\left(?![a-z])|\\right(?![a-z])|\s", "", tidy(text)))


def split_list(text: str, *, is_list: bool = False) -> list[str]:
    r"""The parts of a comma list, at commas outside all brackets; a single answer is a list of one.

    A number with thousands commas is one answer, unless ``is_list`` says that the text is known to be a list; then
    "and", "or" and ";" also separate, and brackets around the whole list are taken off.

    >>> split_list("58,500"), split_list("58,500", is_list=True), split_list("(1,2), (3,4]")
    (['58,500'], ['58', '500'], ['(1,2)', '(3,4]'])
    """
    if is_list:
        text = _CONJUNCTION.sub(",", _without_outer_brackets(text))
    elif plain_number(text) is not None:
        return [text]
    parts, depth, start = [], 0, 0
    for position, char in enumerate(text):
        if char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif char == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]


def _without_outer_brackets(text: str) -> str:
    r"""``\{1, 2\}`` and ``(1, 2)`` without the brackets, when they enclose the whole."""
    bare = re.sub(r"\\left(?![a-z])|\\right(?![a-z])", "", text).strip()
    inside = re.fullmatch(r"\\\{(.*)\\\}|\((.*)\)", bare, re.DOTALL)
    if not inside:
        return text
    depth, content = 0, inside[1] if inside[1] is not None else inside[2]
    for char in content:
        depth += (char in "([{") - (char in ")]}")
        if depth < 0:  # "(1,2), (3,4)": the first bracket closes before the end
            return text
    return content


def nesting_depth(text: str) -> int:
    """Deepest nesting of brackets of any kind.

    >>> nesting_depth("f(g[1])"), nesting_depth("((((")
    (2, 4)
    """
    depth = deepest = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    return deepest


def is_prose(text: str) -> bool:
    r"""True for an answer of several words outside ``\text{…}``, which no grader of mathematics can compare.

    >>> is_prose("$f(x)=ax$, where $a$ is an arbitrary integer with $g(a)=0$"), is_prose(r"\text{all of them}")
    (True, False)
    """
    return len(re.findall(r"[A-Za-z]{3,}", _NOT_WORDS.sub(" ", text))) >= 3
