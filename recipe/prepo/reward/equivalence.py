r"""Is an answer equal to the gold answer? ``docs/grader.md`` has the rules, with examples.

Text rules come first: lists, tuples, intervals, names, units and exact numbers. Only expressions that are left over go
to math-verify (https://github.com/huggingface/Math-Verify). There is no time limit here, so training code calls this
module only through :mod:`recipe.prepo.reward.grading_process`.

math-verify always gets expressions between dollar signs. Bare LaTeX parses to nothing or to one of its numbers
(``3\sqrt{13}`` to 3), and inside ``\boxed{}``, ``8\%`` parses to text.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import sympy
from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify

from recipe.prepo.reward.notation import WRAPPER, brackets, one_line, split_commas, split_list, tidy, unwrap, unwrapped
from recipe.prepo.reward.quantity import Quantity, plain_number, quantity, same_quantity, unit_name

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its own time limit is off

_LATEX = LatexExtractionConfig(
    normalization_config=NormalizationConfig(basic_latex=True, malformed_operators=True, nits=True, boxed="all")
)
_NAME = re.compile(
    r"(?!.*\\(?:frac|sqrt|pm|mp|cdot|times|cup|cap|sum|log|ln|sin|cos|tan|binom|begin|infty|\{))"
    r"[A-Za-z\\][A-Za-z0-9\\_{}' ]*(?:\(\s*[A-Za-z]+(?:\s*,\s*[A-Za-z]+)*\s*\)\s*)?"
)
_RELATION = re.compile(r"(<=|>=|<|>|\\(?:leqslant|geqslant|leq|geq|le|ge|lt|gt)(?![A-Za-z]))")
_RELATION_SIGNS = {"lt": "<", "gt": ">"} | dict.fromkeys(("le", "leq", "leqslant"), "<=")
_RELATION_SIGNS |= dict.fromkeys(("ge", "geq", "geqslant"), ">=")
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
_CUP = re.compile(r"\\cup(?![A-Za-z])")
_MATRIX = re.compile(r"\\begin\s*\{([pbB]?)matrix\}(.*)\\end\s*\{\1matrix\}", re.DOTALL)
_NUMERAL = re.compile(r"([0-9][0-9A-Za-z]*)\s*(?:_\s*\{?\s*([0-9]+)\s*\}?)?")
_SHORT_WORDS = {"yes", "no", "odd", "all", "one", "two", "six", "ten", "sun", "mon", "tue", "wed", "thu", "fri", "sat"}
_E_NOTATION = re.compile(r"(?<![A-Za-z0-9_.])([0-9]+\.?[0-9]*|\.[0-9]+)[eE]([+-]?[0-9]+)(?![A-Za-z0-9_.])")
_QUALIFIER = re.compile(  # "for all x", "where k is an integer": not part of the value
    r"[,\s]*(?:\\(?:text|mbox|textrm)\s*\{[,\s]*(?:for (?:all|any|each|every|some)|where)\b|\\forall\b).*$"
    r"|,\s*[A-Za-z]\s*\\in\s*\\mathbb.*$"
)
_TEXT_LEFT = re.compile(r"\\(?:text|mbox|textrm|textbf|textit)\s*\{[^}]*[A-Za-z]")
_LABEL = r"\s*(?:\(\s*[A-Z]\s*\)|[A-Z]\s*[.:)])\s*[.:]?\s*"
_CHOICE = re.compile(rf"({WRAPPER}\s*\{{{_LABEL}\}}|(?:\([A-E]\)|[A-E][.)])(?=\s))\s*(?=[^\s_^,'])")
MAX_SIGNS = 3
MAX_SENTENCE_CHARS = 200
FLOAT_DIGITS = 12  # decimals of irrational values must agree to as many places
GoldKind = Literal["math", "text", "none"]


def is_equal(gold: str, answer: str, *, is_list: bool | None = None, unit: str | None = None) -> bool:
    r"""Whether ``answer`` means the same as ``gold``.

    Args:
        gold: LaTeX or text, with or without ``$``.
        answer: the final answer alone.
        is_list: True if the gold is known to be a list of answers, so that ``58,500`` is two numbers. The parts of a
            list are compared in any order, and repeats count.
        unit: the unit that the problem asks for, if the gold has none.

    >>> is_equal(r"\frac{1}{2}", "0.5"), is_equal("16,3,1,1", "1,3,16"), is_equal("1,-2", r"x=-2 \text{ or } x=1")
    (True, False, True)
    """
    gold, answer = (_QUALIFIER.sub("", one_line(text)) for text in (gold, answer))
    if not gold or not answer:
        return False
    if _literal(unwrapped(gold)) == _literal(unwrapped(answer)):
        return True
    unit = unit_name(unit or "")
    if (opened := brackets(answer)) and opened[0] == "\\{" and len(split_list(answer)) == 1:
        answer = opened[1]
    gold_parts = _parts(gold, is_list)
    if len(gold_parts) > 1 or "\\pm" in gold:
        gold_parts, answer_parts = _all_signs(gold_parts), _all_signs(split_list(answer))
        if (opened := brackets(gold)) and opened[0] == "\\{":
            gold_parts, answer_parts = list(dict.fromkeys(gold_parts)), list(dict.fromkeys(answer_parts))
        return _is_same_multiset(gold_parts, answer_parts, unit)
    return _is_same(gold_parts[0] if gold_parts else gold, answer, unit)


def is_answered(gold: str, text: str) -> bool:
    """Whether a sentence, or the end of a response, gives an answer equal to ``gold``."""
    if len(text) <= MAX_SENTENCE_CHARS and (
        _are_same_words(one_line(gold), one_line(text)) or same_quantity(quantity(gold), quantity(text))
    ):
        return True
    found = parse(text, parsing_timeout=None)
    return bool(found) and isinstance(found[-1], str) and is_equal(gold, found[-1])


def kind_of_gold(gold: str, *, is_list: bool | None = None) -> GoldKind:
    """How a gold can be compared: as mathematics, as literal text, or not at all.

    "none" means that math-verify finds nothing in the gold, or does not find it equal to itself.
    """
    kinds = [_kind_of_part(part) for part in _parts(tidy(gold), is_list)]
    if not kinds or "none" in kinds:
        return "none"
    return "text" if "text" in kinds else "math"


def _kind_of_part(part: str) -> GoldKind:
    parsed = _parse(part)
    if verify(parsed, parsed, timeout_seconds=None):
        return "math"
    with_text = parse(f"${part}$", parsing_timeout=None)
    return "text" if verify(with_text, with_text, timeout_seconds=None) else "none"


@lru_cache(maxsize=4096)
def _parse(expression: str) -> list[Any]:
    r"""Without math-verify's fallback to a string and its units, by which ``6m`` would equal ``6t``."""
    expression = _E_NOTATION.sub(r"(\1 \\times 10^{\2})", expression)
    return parse(f"${expression}$", [_LATEX], parsing_timeout=None, fallback_mode="no_fallback")


def _literal(text: str) -> str:
    """Without spaces, except between two numbers (``1 1/2``)."""
    return re.sub(r"(?<![0-9])\s+|\s+(?![0-9])", "", text)


def _parts(gold: str, is_list: bool | None) -> list[str]:
    r"""A gold's answers: of ``\{…\}`` and of a comma list each one; a number, tuple or interval is one."""
    opened = brackets(gold)
    if opened and opened[0] == "\\{":
        return split_list(gold)
    if opened or (not is_list and quantity(gold).value is not None):
        return [gold]
    return split_list(f"({gold})")


def _all_signs(parts: list[str]) -> list[str]:
    r"""Each ``\pm`` written out both ways (``\mp`` opposite to it, else independently)."""
    expanded: list[str] = []
    for part in parts:
        num_signs = 1 if "\\mp" in part else part.count("\\pm")
        if not 0 < num_signs <= MAX_SIGNS:
            expanded.append(part)
            continue
        if "\\mp" in part:
            expanded += [part.replace("\\pm", a).replace("\\mp", b) for a, b in ("+-", "-+")]
            continue
        for signs in itertools.product("+-", repeat=num_signs):
            expanded.append("".join(a + b for a, b in zip(part.split("\\pm"), (*signs, ""), strict=True)))
    return expanded


def _is_same(gold: str, answer: str, unit: str = "") -> bool:
    """Compare two single answers by the first rule that can decide."""
    if _literal(gold) == _literal(answer) or _are_same_words(gold, answer):
        return True
    if letter := choice_letter(gold):
        return letter == (choice_letter(answer, with_content=True) or choice_letter(split_name(answer)[1]))
    named = (split_name(gold), split_name(split_choice(answer)[1]))
    if not all(name or "=" not in value for name, value in named):  # an equation, as 2x + y = 3
        return _is_same_expression(gold, answer)
    (gold_name, gold), (answer_name, answer) = named
    if gold_name and answer_name:
        if not (renamed := _renamed(gold_name, answer_name, answer)):
            return False
        answer = renamed
    of_gold, of_answer = quantity(gold), quantity(answer)
    verdict = same_quantity(Quantity(of_gold.body, of_gold.value, of_gold.unit or unit), of_answer)
    if verdict is not None:
        return verdict
    gold, answer = of_gold.body, of_answer.body
    if _literal(gold) == _literal(answer):
        return True
    if words_of(gold)[1]:
        return False
    verdict = _is_same_structure(gold, answer)
    return _is_same_expression(gold, answer) if verdict is None else verdict


def _is_same_structure(gold: str, answer: str) -> bool | None:
    """Compare intervals, unions, tuples, matrices and numerals with a base; None if none of these rules applies."""
    if "\\cup" in gold and (sides := split_list(answer)) and all(map(as_interval, sides)):
        answer = "\\cup".join(sides)
    gold_sets, answer_sets = ([as_interval(s) or s.strip() for s in _CUP.split(text)] for text in (gold, answer))
    if len(gold_sets) > 1:
        return len(gold_sets) == len(answer_sets) and _is_same_multiset(gold_sets, answer_sets)
    if as_interval(gold) is None or as_interval(answer) is None:
        gold, answer = (gold_sets[0], answer_sets[0]) if len(answer_sets) == 1 else (gold, answer)
    rows = (_rows(gold), _rows(answer))
    if rows[0]:
        return _same_sequences(rows[0], rows[1] or [[cell] for cell in _items(answer)])
    numerals = (_NUMERAL.fullmatch(gold), _NUMERAL.fullmatch(answer))
    if (
        numerals[0] and numerals[1] and (numerals[0][2] or numerals[1][2])
    ):  # the base is named in the problem, so it may be left out
        bases = {found[2] for found in numerals if found and found[2]}
        return len(bases) == 1 and numerals[0][1] == numerals[1][1]
    opened = (brackets(gold), brackets(answer))
    items = (_items(gold), _items(answer))
    if opened[0] and len(items[0]) > 1:
        kinds = [pair[0] + pair[2] if pair else "()" for pair in opened]
        is_number = not opened[1] and plain_number(answer) is not None
        return kinds[0] == kinds[1] and not is_number and _same_sequences([items[0]], [items[1]])
    if len(items[1]) > 1:
        joined = re.sub(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))", "", answer)
        return False if opened[1] or len(split_commas(joined)) > 1 else _is_same_expression(gold, joined)
    return None


def _items(text: str) -> list[str]:
    r"""The members of a tuple, with or without its brackets."""
    opened = brackets(text)
    return split_commas(opened[1] if opened else text)


def _rows(text: str) -> list[list[str]]:
    found = _MATRIX.fullmatch(text)
    rows = found[2].split("\\\\") if found else []
    return [[cell.strip() for cell in row.split("&")] for row in rows if row.strip()]


def _same_sequences(gold: list[list[str]], answer: list[list[str]]) -> bool:
    if [len(row) for row in gold] != [len(row) for row in answer]:
        return False
    return all(_is_same(g, a) for gs, os in zip(gold, answer, strict=True) for g, a in zip(gs, os, strict=True))


def _is_same_multiset(gold_parts: list[str], answer_parts: list[str], unit: str = "") -> bool:
    left = list(answer_parts)
    for gold in gold_parts:
        match = next((answer for answer in left if _is_same(gold, answer, unit)), None)
        if match is None:
            return False
        left.remove(match)
    return not left


def _is_same_expression(gold: str, answer: str) -> bool:
    """math-verify's verdict. Words in the answer alone are more than units, so they make it incorrect."""
    if _TEXT_LEFT.search(answer) and not _TEXT_LEFT.search(gold):
        return False
    parsed = (_parse(gold), _parse(answer))
    is_verified = verify(*parsed, float_rounding=FLOAT_DIGITS, timeout_seconds=None)
    if len(parsed[0]) != 1 or len(parsed[1]) != 1:
        return is_verified
    sides = (parsed[0][0], parsed[1][0])
    if not all(isinstance(side, sympy.Expr) for side in sides):
        return is_verified
    if is_verified:
        return _agree(*sides) is not False
    if any(side.has(sympy.floor, sympy.ceiling) for side in sides) or not any(side.free_symbols for side in sides):
        return False
    has_roots = any(power.exp.is_Rational and power.exp.q > 1 for side in sides for power in side.atoms(sympy.Pow))
    return has_roots and _agree(*sides, scales=(1, 9, 100)) is True


def _agree(gold: sympy.Expr, answer: sympy.Expr, *, scales: Sequence[int] = (1,)) -> bool | None:
    r"""Whether two expressions have the same values at points where all roots are real; None if there is no such point.

    math-verify's closeness is absolute, so that every tiny number would equal 0; and to sympy, ``\sqrt{1/n}`` is not
    ``\frac{1}{\sqrt n}``, because it thinks of negative numbers, too.
    """
    symbols = sorted(gold.free_symbols | answer.free_symbols, key=str)
    is_decimal = gold.has(sympy.Float) or answer.has(sympy.Float)
    roots = [power for side in (gold, answer) for power in side.atoms(sympy.Pow) if not power.exp.is_Integer]
    num_agreed = 0
    for scale, *signs in itertools.product(scales, (1, -1), (1, -1)) if symbols else ((1, 1, 1),):
        point = {name: signs[i % 2] * sympy.Rational(scale * (2 * i + 11), 7) for i, name in enumerate(symbols)}
        if symbols and any(power.base.subs(point).evalf().is_negative for power in roots):
            continue
        values = [side.subs(point).evalf(15 if is_decimal else 60) for side in (gold, answer)]
        if not all(value.is_number and value.is_finite for value in values):
            continue
        size = max(abs(value) for value in values)
        if abs(values[0] - values[1]) > (1e-8 if is_decimal else sympy.Rational(1, 10**50)) * size and size._prec > 1:
            return False
        num_agreed += 1
    return True if num_agreed else None


def words_of(text: str) -> tuple[str, bool]:
    r"""Words in lower case without article and punctuation ("" for mathematics), and whether they can only be words.

    >>> words_of(r"\text{No solution.}"), words_of("the Ellipse"), words_of("Yes"), words_of("abc"), words_of("2x")
    (('no solution', True), ('ellipse', True), ('yes', True), ('abc', False), ('', False))
    """
    plain = re.sub("[{}]", "", unwrapped(text)).strip(" .,!\"'`")
    if not re.fullmatch(r"""[A-Za-z][A-Za-z\s.,:;!?'"`-]*""", plain):
        return "", False
    words = re.findall("[a-z]+", re.sub(r"^(?:an?|the)\s+", "", plain.lower()).replace("'", ""))
    is_wordy = re.search("[A-Za-z]{4}", plain) or re.match("[A-Z][a-z]+$", plain) or not _SHORT_WORDS.isdisjoint(words)
    is_wrapped = unwrap(text) != text.strip()
    return " ".join(words).replace("solutions", "solution"), is_wrapped or bool(is_wordy and min(map(len, words)) > 1)


def _are_same_words(gold: str, answer: str) -> bool:
    (gold_words, is_wordy), (answer_words, is_answer_wordy) = words_of(gold), words_of(answer)
    return (is_wordy or (is_answer_wordy and len(gold_words) > 2)) and gold_words == answer_words


def choice_letter(text: str, *, with_content: bool = False) -> str | None:
    r"""The capital of a multiple choice: ``C``, ``(C)``, ``\text{C.}``; else None.

    ``with_content`` also takes what the choice says: ``\textbf{(C)}\ 12``, ``(C) Plane``.
    """
    label, _ = split_choice(text)
    text = unwrapped(label if label and with_content else text)
    text = re.sub(r"^\s*(?:option|choice|answer)\b[\s:]*", "", text, flags=re.IGNORECASE).strip()
    found = re.match(r"\(\s*([A-Z])\s*\)|([A-Z])\s*[.:)](?!\S)|([A-Z])(?!.)", text)
    if not found or (text[found.end() :].strip(" .:") and not (with_content and not label)):
        return None
    return found[1] or found[2] or found[3]


def split_choice(text: str) -> tuple[str, str]:
    r"""A choice's label, "" for none, and the rest: ``\textbf{(C)}\ 12`` is ``\textbf{(C)}`` and ``12``."""
    found = _CHOICE.match(text)
    return (found[1], text[found.end() :]) if found else ("", text)


def split_name(text: str) -> tuple[str, str]:
    r"""The name and the value of ``x = 5``, ``f(x)=2x``, ``x \in S`` or ``x = 2+3 = 5``; ("", text) for others.

    >>> split_name(r"m_{\max } = n-1"), split_name(r"x \in [1,2]"), split_name("2x = 5")
    (('m_max', 'n-1'), ('x', '[1,2]'), ('', '2x = 5'))
    """
    first, *others = re.split(r"(?<![<>!:])=|\\in(?![a-z])", text)
    is_name = len(first) <= 60 and _NAME.fullmatch(first.strip()) is not None
    if not others or not is_name or others[-1].count("{") != others[-1].count("}"):
        return "", text
    return re.sub(r"[\\{} ]", "", re.sub(WRAPPER, "", first)), others[-1].strip() or text


def as_interval(text: str) -> str | None:
    r"""An inequality in one name as an interval.

    >>> as_interval(r"-2 \le x < 7"), as_interval("x > 2"), as_interval("x + y > 2")
    ('[-2,7)', '(2,\\infty)', None)
    """
    parts = _RELATION.split(text)
    values = [part.strip() for part in parts[::2]]
    signs = [sign if sign in _FLIPPED else _RELATION_SIGNS[sign.strip("\\")] for sign in parts[1::2]]
    if len(values) == 2 and _NAME.fullmatch(values[0]) and not _NAME.fullmatch(values[1]):
        values, signs = [values[1], values[0]], [_FLIPPED[signs[0]]]
    if not 2 <= len(values) <= 3 or not _NAME.fullmatch(values[1]) or not values[0] or not values[-1]:
        return None
    if len(values) == 2:
        values, signs = [*values, r"\infty" if signs[0][0] == "<" else r"-\infty"], [signs[0], signs[0][0]]
    if {sign[0] for sign in signs} == {">"}:
        values, signs = values[::-1], [_FLIPPED[sign] for sign in signs[::-1]]
    if {sign[0] for sign in signs} != {"<"}:
        return None
    return f"{'[' if signs[0] == '<=' else '('}{values[0]},{values[2]}{']' if signs[1] == '<=' else ')'}"


def _renamed(gold_name: str, answer_name: str, answer: str) -> str | None:
    r"""``answer`` with the gold's variable (``f(n)`` for ``f(x)``); None when the names are of different things."""
    if gold_name == answer_name:
        return answer
    functions = [re.fullmatch(r"(.+)\((\w)\)", name) for name in (gold_name, answer_name)]
    if functions[0] and functions[1] and functions[0][1] == functions[1][1]:
        new, old = functions[0][2], functions[1][2]
        tokens = re.findall(r"\\[A-Za-z]+|.", answer)
        return None if new in tokens else "".join(new if token == old else token for token in tokens)
    heads = {re.split(r"[_(]", name)[0] for name in (gold_name, answer_name)}
    return answer if len(heads) == 1 and min(gold_name, answer_name, key=len) in heads else None
