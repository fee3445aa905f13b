r"""Other ways to write a gold answer, and incorrect answers close to it. Text only, no grader.

Each near miss differs in meaning by construction; changes that may keep the meaning (``0 \cdot x``) are left out.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from fractions import Fraction

_INTEGER = re.compile(r"(?<![0-9.])[0-9]+(?![0-9]|\.[0-9])")
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]+)\}\{([^{}]+)\}")
_CIRCLE = re.compile(r"\^\s*\{?\s*\\circ\s*\}?")
_MAX_PLACES = 5
_LATEX = r"""\frac \frac{1}{0} \sqrt{ \sqrt[ \left( \right] \text{ \boxed{ \pm \cup \in \infty \begin{pmatrix} \\
\log \sum_{k=1}^{n} \int \binom \pi ^2 \le \times10^{ and or \text{or} 1,234 10^{-5} \% ^\circ cm million (A) ####"""
_FRAGMENTS = [*"{}()[]$\\^_&%#~,;=<>!|'\"\x00\n\t\u200b\ud800٣π∞≤−😀09-+/.eix", *_LATEX.split()]


def bare(gold: str) -> str:
    r"""Without its own dollar signs.

    >>> bare("$3$,$\\$4$")
    '3,\\$4'
    """
    return re.sub(r"(?<!\\)\$", "", gold).strip().rstrip(".")


def is_word(gold: str) -> bool:
    r"""Whether a gold is words or a choice, such as ``\text{(C)}`` or ``\text{east}``."""
    return re.fullmatch(r"\\text\{[^{}]*\}|[A-Z]", bare(gold)) is not None


def _top_commas(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for position, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth == 0:
            parts.append(text[start:position].strip())
            start = position + 1
    return [*parts, text[start:].strip()]


def _tuple_items(text: str) -> list[str]:
    """The members of one pair of round or square brackets around the whole; else none."""
    text = re.sub(r"\\left|\\right|\\quad", "", text).strip()
    depth = 0
    for position, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if depth == 0 and position < len(text) - 1:
            return []
    return _top_commas(text[1:-1]) if text[:1] in "([" and text[-1:] in ")]" and len(text) > 2 else []


def _number(text: str) -> Fraction | None:
    return Fraction(text) if re.fullmatch(r"-?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)", text) else None


def same_answers(gold: str, *, is_list: bool) -> Iterator[tuple[str, str]]:
    """Other ways to write ``gold``, each with the name of the rule that makes it equal."""
    text = bare(gold)
    value, items, listed = _number(text), _tuple_items(text), _top_commas(text)
    yield "itself", text
    yield "dollars", f"${text}$"
    if r"\frac" in text:
        yield "dfrac", re.sub(r"\\d?frac", r"\\dfrac", text)
    if value is not None and value.denominator == 1:
        digits = text.lstrip("-")
        sign = "-" * (text != digits)
        yield "leading zero", f"{sign}0{digits}"
        yield "decimals", f"{text}.0" if "." not in text else text
        if len(digits) > 3 and "." not in text:
            yield "thousands", f"{int(text):,}"
            yield "thousands", f"{int(text):,}".replace(",", "{,}")
    if value is not None:
        yield "name", f"x = {text}"
        yield "unit", rf"{text} \text{{ apples}}"
    if is_list and len(listed) > 1:
        yield "list in another order", ", ".join(reversed(listed))
        yield "list with and", r" \text{ and } ".join(listed)
    if items:
        yield "spaces", re.sub(r"\s*,\s*", " , ", text)
    if r"\cup" in text:
        yield "union in another order", r" \cup ".join(reversed(text.split(r"\cup")))
    if choice := re.fullmatch(r"\\text\{\(([A-Z])\)\}", text):
        yield from (("choice", form) for form in (choice[1], f"({choice[1]})", rf"\textbf{{({choice[1]})}}\ 12"))
    elif is_word(gold):
        yield "words", text.removeprefix(r"\text{").removesuffix("}")
    if text.endswith("%"):
        yield "percent left out", text.rstrip("%").rstrip("\\ ")
    if _CIRCLE.search(text):
        yield "degrees left out", _CIRCLE.sub("", text)


def near_misses(gold: str, *, is_list: bool = False, unit: str | None = None) -> list[tuple[str, str]]:
    """Incorrect answers close to ``gold``, each with the name of the change; no duplicates."""
    text = bare(gold)
    found = {miss: rule for rule, miss in _misses(text, is_list, unit) if miss not in ("", text)}
    return [(rule, miss) for miss, rule in found.items()]


def _misses(text: str, is_list: bool, unit: str | None) -> Iterator[tuple[str, str]]:
    if is_word(text):
        yield from _other_words(text)
        return
    yield from _other_numbers(text)
    value, items, listed = _number(text), _tuple_items(text), _top_commas(text)
    if value is None or value != 0:
        yield "sign flipped", text[1:].strip() if text[0] == "-" else _flipped(text)
    for fraction in _FRACTION.finditer(text):
        if fraction[1] != fraction[2]:
            start, end = fraction.span()
            yield "fraction upside down", rf"{text[:start]}\frac{{{fraction[2]}}}{{{fraction[1]}}}{text[end:]}"
    if items and items != items[::-1]:
        yield "order changed", f"{text[: text.index(items[0])]}{', '.join(reversed(items))}{text[-1]}"
    yield from _other_brackets(text)
    if is_list and len(listed) > 1:
        yield "one answer missing", ",".join(listed[1:])
        yield "one answer missing", ",".join(listed[:-1])
    if is_list or (value is not None and "," not in text):
        yield "one answer more", f"{text}, 98765"
    yield from _other_units(text, value, unit)
    if value is not None and value.denominator == 1 and 1000 <= value < 10**6 and "." not in text:
        yield "pair", f"({int(value) // 1000},{int(value) % 1000:03})"
    if root := re.search(r"\\sqrt\{([^{}]+)\}", text):
        yield "root dropped", text.replace(root[0], f"({root[1]})", 1)
    if r"\pi" in text:
        yield "pi dropped", re.sub(r"\\pi", "(1)", text, count=1)
    if rational := re.fullmatch(r"\\frac\{([0-9]+)\}\{([0-9]+)\}", text):
        exact = Fraction(int(rational[1]), int(rational[2]))
        if exact != Fraction(f"{float(exact):.6f}"):
            yield "rounded", f"{float(exact):.6f}"
    variables = set(re.findall(r"(?<![A-Za-z\\{])[a-z](?![A-Za-z])", re.sub(r"\\[A-Za-z]+(?:\{[^{}]*\})?", " ", text)))
    if len(variables) == 1 and "=" not in text and r"\in" not in text and (name := variables.pop()) not in "eit":
        yield "variable changed", re.sub(rf"\\[A-Za-z]+|{name}", lambda m: "t" if m[0] == name else m[0], text)


def _other_numbers(text: str) -> Iterator[tuple[str, str]]:
    places = list(_INTEGER.finditer(text))
    for place in places[:_MAX_PLACES]:
        before, after = text[: place.start()], text[place.end() :]
        if re.search(r"[A-Za-z}]_\{?$", before) or (
            re.search(r"1\^\{?$", before) and not re.search(r"[0-9]1\^", before)
        ):
            continue  # part of a name; a power of 1
        rule = "exponent changed" if re.search(r"\^\{?-?$", before) else "off by one"
        yield rule, f"{before}{int(place[0]) + 1}{after}"
        if len(place[0]) > 1 and int(place[0][:-1]) != int(place[0]):
            yield "digit dropped", f"{before}{place[0][:-1]}{after}"
    if decimal := re.search(r"\.[0-9]*([0-9])", text):
        yield "last decimal changed", f"{text[: decimal.start(1)]}{(int(decimal[1]) + 1) % 10}{text[decimal.end() :]}"


def _flipped(text: str) -> str:
    r"""With the first term's sign changed, inside of a bracket, after a name or after a currency sign.

    >>> _flipped("(1,2)"), _flipped("x=-3"), _flipped("(-\\infty, 0]")
    ('(-1,2)', 'x=3', '(\\infty, 0]')
    """
    start = re.match(r"(?:[^=]*[A-Za-z)}]\s*=|\\left|\\quad|\\\{|\\\$|[(\[\s]|x\s*\\in|\\begin\{[a-z]+\})*", text)
    at = start.end() if start else 0
    if re.match(r"(?:\\pm|0(?![0-9.])|\\geq?|\\leq?)", text[at:]):
        return text
    return text[:at] + (text[at + 1 :] if text[at] == "-" else f"-{text[at:]}")


def _other_brackets(text: str) -> Iterator[tuple[str, str]]:
    items = _tuple_items(text)
    if r"\cup" not in text and len(items) != 2:
        return
    for bracket in re.finditer(r"[(\[\])]", text):
        beside = text[bracket.end() :] if bracket[0] in "([" else text[: bracket.start()]
        if not re.match(r"\s*-?\\infty", beside) and not re.search(r"\\infty\s*(?:\\right)?$", beside):
            other = {"(": "[", "[": "(", ")": "]", "]": ")"}[bracket[0]]
            yield "bracket changed", text[: bracket.start()] + other + text[bracket.end() :]


def _other_units(text: str, value: Fraction | None, unit: str | None) -> Iterator[tuple[str, str]]:
    if percent := re.fullmatch(r"([0-9.]+)\s*\\?%", text):
        yield "percent as a fraction", str(float(Fraction(percent[1]) / 100))
    if value is not None and 0 < abs(value) < 1:
        yield "percent sign added", rf"{text}\%"
    for spelled in (r"\text{ cents}", r"\mbox{ cm}^2", r"\mbox{ inches}^2", r"\text{ degrees}", r"^\circ"):
        if text.endswith(spelled):
            yield "another unit", rf"{text.removesuffix(spelled).strip()} \text{{ kg}}"
    if text.startswith(r"\$"):
        yield "another unit", rf"{text[2:]} \text{{ cents}}"
    if unit and value is not None:
        yield "another unit", rf"{text} \text{{ kg}}"


def _other_words(text: str) -> Iterator[tuple[str, str]]:
    if choice := re.fullmatch(r"(\\text\{)?(\()?([A-Z])\)?\}?", text):
        other = "B" if choice[3] == "A" else "A"
        yield from (("another choice", form) for form in (other, rf"\text{{({other})}}", rf"\textbf{{({other})}}\ 12"))
        return
    word = text.removeprefix(r"\text{").removesuffix("}")
    yield "another word", rf"\text{{{word[1:]}}}"
    yield "letters in another order", rf"\text{{{word[::-1]}}}"
    yield "negated", rf"\text{{not {word}}}"


def mutate(answer: str, generator: random.Random) -> str:
    """``answer`` after one to six random insertions, deletions, repetitions, swaps or splices of LaTeX fragments."""
    for _ in range(generator.randint(1, 6)):
        i, j = sorted(generator.randrange(len(answer) + 1) for _ in range(2))
        match generator.randrange(6):
            case 0 | 1:
                answer = answer[:i] + generator.choice(_FRAGMENTS) + answer[i:]
            case 2:
                answer = answer[:i] + answer[j:]
            case 3:
                answer = answer[:j] + answer[i:j] * generator.randint(1, 3) + answer[j:]
            case 4:
                answer = answer[j:] + answer[:i]
            case _:
                answer = (
                    answer[:i]
                    + chr(generator.choice((generator.randrange(128), generator.randrange(0x3000))))
                    + answer[j:]
                )
    return answer[:600]
