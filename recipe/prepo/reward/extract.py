r"""Text work on answers: finding the final answer in a response, exact numbers, units, lists; no algebra.

Responses are written by a model and may be hostile: every function is linear in the length of the text, and of it only
numbers are ever evaluated, of bounded size.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_BRACES = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{|\\.|[{}]", re.DOTALL)
_UNBRACED_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s+(?=[^\s{])((?:(?!\\(?:boxed|fbox|framebox))[^$\n])*)")
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|[+-]?\.[0-9]+")
_DIGITS = r"(?:[0-9][0-9,]*(?:\.[0-9]*)?|\.[0-9]+)"
_FRAC = re.compile(r"\\frac\s*(\{[^{}]*\}|[0-9])\s*(\{[^{}]*\}|[0-9])")
_EXACT = re.compile(
    rf"(?:(?P<whole>[0-9]+)\s+(?![+-]))?(?P<num>[+-]?{_DIGITS})\s*/\s*(?P<den>[+-]?{_DIGITS})"
    rf"|(?:(?P<factor>{_DIGITS})\s*(?:\\times|\\cdot|×|\*)\s*(?=10\s*\^))?(?P<base>[0-9]+)\s*\^\s*(?P<exponent>[+-]?[0-9]+)"
)
_LATEX_THOUSANDS = re.compile(r"(?<=[0-9])(?:,\\!|\{,\}|\\[,;: ]|~)\s*(?=[0-9]{3}(?![0-9]))")
_INVISIBLE = re.compile(r"(?<!\\)\\[!,;: ]|\\q?quad\b|~")
_DOLLAR = re.compile(r"(?<!\\)\$")
_SIZES = re.compile(r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])|\\displaystyle\b")
_LATEX_OF = {0x2212: "-", 0x2264: r"\le ", 0x2265: r"\ge ", 0x222A: r"\cup ", 0x221E: r"\infty ", 0x3C0: r"\pi "}
WRAPPER = r"\\(?:text|textbf|textit|textrm|textsf|mbox|mathrm|mathbf|mathsf|operatorname|boxed)"
_CONJUNCTION = re.compile(r"\\(?:text|mbox|mathrm)\s*\{\s*,?\s*(?:and|or)\s*\}|\b(?:and|or)\b|;")
_NOT_WORDS = re.compile(r"\\(?:text|mbox|textbf|textit|mathrm|operatorname|begin|end)\s*\{[^}]*\}|\\[A-Za-z]+")
_UNIT_JOIN = re.compile(r"\}\s*/\s*\\(?:text|mathrm|mbox)\s*\{")
_UNIT_TAIL = re.compile(
    rf"\s*(?:{WRAPPER}\s*\{{(?P<text>[^{{}}]*)\}}|(?P<sign>\^\s*\{{?\s*\\circ\s*\}}?|°|\\degree|\\?%|\\\$|¢)"
    r"|(?<![A-Za-z\\_^{])(?P<bare>[A-Za-z][A-Za-z /.-]{0,40}))(?:\s*\^\s*\{?\s*(?P<power>[23])\s*\}?)?$"
)
_NOT_IN_UNITS = re.compile(r"[0-9(]|\b(?:and|or|if|not?|mod|for|when|except|more|less|least|most|minus|negative)\b")
_NOT_BARE = "and|sqrt|sin|cos|tan|cot|log|exp|inf|infty|mod|max"  # words of mathematics, not units
_BARE_UNIT = re.compile(rf"(?:cm|mm|km|kg|ft|mi|in|hr|oz|lb|ml)\b.*|(?!(?:{_NOT_BARE})\b)[A-Za-z]{{3,}}(?:[ /.-]+\w+)*")
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_UNIT_SPELLINGS = r"""
deg degree degrees ^\circ ° \degree|% percent|$ \$ dollar dollars usd|¢ cent cents|in inch inches|ft foot feet
rad radian radians|yd yard yards|mi mile miles|mm millimeter millimeters millimetre millimetres
cm centimeter centimeters centimetre centimetres|m meter meters metre metres
km kilometer kilometers kilometre kilometres|s sec secs second seconds|min mins minute minutes|h hr hrs hour hours
day days|week weeks|month months|year years|g gram grams|kg kilogram kilograms|lb lbs pound pounds|oz ounce ounces
l liter liters litre litres|ml milliliter milliliters millilitre millilitres|gal gallon gallons|unit units"""
_UNITS = {word: line.split()[0] for line in re.split(r"[|\n]", _UNIT_SPELLINGS) if line for word in line.split()}
MAX_NUMBER_CHARS = 400
MAX_EXPONENT = 4096


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


def one_line(text: str) -> str:
    r"""One line without ``$``, invisible spaces, sizing commands or a closing full stop; ``\dfrac`` is ``\frac``.

    >>> one_line("$\\dfrac 8 9 \\%$."), one_line("$69$,$84$"), one_line(r"29,\!322"), one_line(r"\left( 1,2 \right]")
    ('\\frac 8 9 \\%', '69,84', '29322', '( 1,2 ]')
    """
    text = _LATEX_THOUSANDS.sub("", _DOLLAR.sub("", text))
    text = _INVISIBLE.sub(" ", text.replace("{,}", ",").replace("\\!", ""))
    text = _SIZES.sub("", re.sub(r"\\[dtc]frac", r"\\frac", text)).translate(_LATEX_OF).replace("±", r"\pm ")
    return " ".join(text.split()).rstrip(". ")


def tidy(text: str) -> str:
    r""":func:`one_line` without a closing percent sign.

    >>> tidy("$8 \\%$."), tidy("$221,$8$")
    ('8', '221,8')
    """
    return re.sub(r"\s*\\?%$", "", one_line(text))


def compact(text: str) -> str:
    r"""For literal comparison: tidied, without spaces."""
    return "".join(tidy(text).split())


def exact_number(text: str) -> Fraction | None:
    r"""Exact value of a plain number, fraction, mixed number, power of integers or scientific notation; else None.

    >>> [str(exact_number(t)) for t in (r"-\frac 59", r"1\frac{4}{5}", "2^{10}", r"6.72\times 10^{-5}", "(7)", "x")]
    ['-5/9', '9/5', '1024', '21/312500', '7', 'None']
    """
    if len(text) > MAX_NUMBER_CHARS:
        return None
    text = re.sub(r"^\(([^(),]*)\)$", r"\1", one_line(text)).strip()
    if (value := plain_number(text)) is not None:
        return value
    sign, unsigned = (-1 if text[:1] == "-" else 1), text[text[:1] in ("+", "-") :].strip()
    flat = re.sub(r"[{}]", " ", _FRAC.sub(r" \1/\2 ", unsigned))
    found = _EXACT.fullmatch(flat.strip()) if unsigned[:1] not in ("+", "-") else None
    if not found:
        return None
    numbers = {name: plain_number(part) for name, part in found.groupdict(default="0").items()}
    whole, num, den, factor, base, exponent = (
        numbers[k] for k in ("whole", "num", "den", "factor", "base", "exponent")
    )
    if whole is None or num is None or den is None or factor is None or base is None or exponent is None:
        return None
    if found["den"]:
        return sign * (whole + num / den) if den else None
    if abs(exponent) > MAX_EXPONENT or base > 10**20 or (base == 0 and exponent <= 0):
        return None
    return sign * (factor if found["factor"] else 1) * base ** int(exponent)


@dataclass(frozen=True)
class Quantity:
    """An answer taken apart: ``value`` is None when ``body`` is no exact number; ``unit`` is "" for none or unknown."""

    body: str
    value: Fraction | None
    unit: str = ""


def quantity(text: str) -> Quantity:
    r"""``text`` without its unit, money sign, degree or percent sign; "million" and its like belong to the value.

    >>> quantity(r"864 \mbox{ inches}^2"), quantity(r"\$5 \text{ million}").value, quantity("18 apples").unit
    (Quantity(body='864', value=Fraction(864, 1), unit='in^2'), Fraction(5000000, 1), '')
    """
    text, unit, scale = _UNIT_JOIN.sub("/", one_line(text)), "", 1
    if money := re.match(r"([+-]?\s*)(\\\$|£|€)\s*", text):
        text, unit = money[1] + text[money.end() :], "$" if money[2] == "\\$" else money[2]
    for _ in range(3):  # "5 \text{ million} \text{ dollars}"
        tail = _UNIT_TAIL.search(text)
        if not tail or not tail.start():
            break
        head, words = text[: tail.start()].strip(), (tail["text"] or tail["sign"] or tail["bare"] or "").strip()
        first, _, rest = words.partition(" ")
        is_scale = first.lower() in _SCALES
        if tail["bare"] and (exact_number(head) is None or not (is_scale or _BARE_UNIT.fullmatch(words))):
            break
        if _NOT_IN_UNITS.search(words):
            break
        if is_scale:
            scale, words = scale * _SCALES[first.lower()], rest
        text, unit = head, unit or unit_name(words + (f"^{tail['power']}" if tail["power"] else ""))
    value = exact_number(text)
    return Quantity(text, None if value is None else value * scale, unit)


def same_quantity(gold: Quantity, answer: Quantity, tolerance: Fraction = Fraction(0)) -> bool | None:
    r"""Whether two exact numbers are equal; None when one of them is no exact number and the units agree.

    A unit may be left out, but not be another one. A percent sign in the answer alone is read as hundredths or, when
    the gold is at least 1 in size, dropped: 50 is ``50\%``, 0.5 is ``50\%``, but 0.5 is not ``0.5\%``.
    """
    if gold.unit and answer.unit and gold.unit != answer.unit and "unit" not in answer.unit:
        return False
    if gold.value is None or answer.value is None:
        return None
    if abs(gold.value - answer.value) <= tolerance:
        return answer.unit != "%" or gold.unit == "%" or abs(gold.value) >= 1 or gold.value == 0
    return answer.unit == "%" and gold.unit != "%" and answer.value == 100 * gold.value


def unit_name(text: str) -> str:
    r"""One name for each spelling of a known unit, "" for others.

    >>> unit_name("square centimeters"), unit_name("$cm^2$"), unit_name("km per hour"), unit_name(r"^{\circ}")
    ('cm^2', 'cm^2', 'km/h', 'deg')
    """
    text = re.sub(r"\s*\bper\b\s*", "/", re.sub(r"[{}$.]|\\(?=[$%])", "", text).strip().lower() or text)
    names = []
    for part in text.split("/"):
        found = re.fullmatch(r"(sq(?:uare)?\s+|cubic\s+)?(\S+?)\s*(?:\^\s*([23]))?", part.strip())
        if not found or found[2] not in _UNITS:
            return ""
        power = found[3] or ("" if not found[1] else "3" if found[1].startswith("c") else "2")
        names.append(_UNITS[found[2]] + (f"^{power}" if power else ""))
    return "/".join(names)


def unwrap(text: str) -> str:
    r"""Without a ``\text{…}``, ``\mathbf{…}`` or the like around the whole.

    >>> unwrap(r"\textbf{ \text{(A)}}")
    '(A)'
    """
    while inside := re.fullmatch(rf"{WRAPPER}\s*\{{((?:[^{{}}]|\{{[^{{}}]*\}})*)\}}", text.strip()):
        text = inside[1]
    return text.strip()


def brackets(text: str) -> tuple[str, str, str] | None:
    r"""Opening bracket, content and closing bracket when one pair (of any kind) encloses the whole text.

    >>> brackets("(1, 2]"), brackets(r"\{1\}"), brackets("(1,2),(3,4)")
    (('(', '1, 2', ']'), ('\\{', '1', '\\}'), None)
    """
    inside = re.fullmatch(r"(\\\{|[(\[])(.*)(\\\}|[)\]])", text.strip(), re.DOTALL)
    if not inside or (inside[1] == "\\{") != (inside[3] == "\\}"):
        return None
    depth = 0
    for char in inside[2]:
        depth += (char in "([{") - (char in ")]}")
        if depth < 0:  # "(1,2), (3,4)": the first bracket closes before the end
            return None
    return inside[1], inside[2].strip(), inside[3]


def split_list(text: str, *, is_list: bool = False) -> list[str]:
    r"""The parts of a comma list, at commas outside all brackets; a single answer is a list of one.

    A number with thousands commas is one answer, unless ``is_list`` says that the text is known to be a list; then
    "and", "or" and ";" also separate, and brackets around the whole list are taken off.

    >>> split_list("58,500"), split_list("58,500", is_list=True), split_list("(1,2), (3,4]")
    (['58,500'], ['58', '500'], ['(1,2)', '(3,4]'])
    """
    if is_list:
        inside = brackets(re.sub(r"\\(?:left|right)(?![a-z])", "", text))
        text = inside[1] if inside and inside[0] + inside[2] in ("()", "\\{\\}") else text
        text = _CONJUNCTION.sub(",", text)
    elif plain_number(text) is not None:
        return [text]
    return split_commas(text)


def split_commas(text: str) -> list[str]:
    """The parts at commas outside all brackets, also of a number with thousands commas; empty parts are left out."""
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
