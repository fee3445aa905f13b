r"""Exact numbers and their units. Only bounded rational arithmetic is evaluated."""

from __future__ import annotations

import ast
import math
import operator
import re
from dataclasses import dataclass
from fractions import Fraction

from recipe.prepo.reward.notation import WRAPPER, one_line, unwrap

_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|[+-]?\.[0-9]+")
_DIGITS = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)"
_ARITHMETIC = re.compile(rf"{_DIGITS}(?:[eE][+-]?[0-9]+)?|\\(?:frac|cdot|times|div)(?![A-Za-z])|[-+*/^!(){{}}]|\s+")
_PYTHON = {"\\frac": "F", "\\cdot": "*", "\\times": "*", "\\div": "/", "^": "**", "{": "(", "}": ")"}
_SHORT_FRAC = re.compile(r"(?<=\\frac)\s*(\{[^{}]*\}|[0-9])\s*(\{[^{}]*\}|[0-9])")
_MIXED = re.compile(r"([+-]?)\s*([0-9]+)(\s*\\frac.*|\s+[0-9]+\s*/\s*[0-9]+)")
_UNIT_JOIN = re.compile(r"\}\s*/\s*\\(?:text|mathrm|mbox)\s*\{")
_MONEY = re.compile(r"([+-]?\s*)((?:US|HK|[AC])?\\\$|[£€¥₹]|(?:USD?|RMB|Rs\.?)(?=\s*[0-9]))\s*")
_EAST_ASIAN = "[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
_BRACKETED_UNIT = re.compile(rf"(?<=[0-9])\s*\(\s*([A-Za-z]{{2,}}|{_EAST_ASIAN}+)\s*\)$")
_UNIT_TAIL = re.compile(
    rf"\s*(?:{WRAPPER}\s*\{{(?P<text>[^{{}}]*)\}}|(?P<sign>\^\s*\{{?\s*\\circ\s*\}}?|°\s*[CF]?|\\degree|\\?%|\\\$|[¢€£¥])"
    rf"|(?<![A-Za-z\\_^{{])(?P<bare>[A-Za-z][A-Za-z /.-]{{0,40}})|(?P<east_asian>{_EAST_ASIAN}(?:{_EAST_ASIAN}|/)*))"
    r"(?:\s*\^\s*\{?\s*(?P<power>[23])\s*\}?)?$"
)
_NOT_IN_UNITS = re.compile(
    r"[0-9(]|\b(?:and|or|if|not?|mod|for|when|except|more|less|least|most|minus|negative)\b"
    r"|[以上下多余餘不或和约約几半倍成折弱强未]|分之"  # "or more", "about", "times", "half" and the like
)
_NOT_BARE = "and|sqrt|sin|cos|tan|cot|log|exp|inf|infty|mod|max"  # words of mathematics, not units
_BARE_UNIT = re.compile(
    rf"(?i:cm|mm|km|kg|ft|mi|in|hr|oz|lb|ml|sq|m/s)\b.*|(?!(?:{_NOT_BARE})\b)[A-Za-z]{{3,}}(?:[ /.-]+\w+)*"
)
_SCALE = re.compile(r"(thousand|million|billion|trillion)\b\s*|[百千万萬亿億]", re.IGNORECASE)
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SCALES |= {"百": 10**2, "千": 10**3, "万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8}
_UNIT_SPELLINGS = r"""
deg degree degrees ^\circ ° \degree 度|% percent|$ \$ dollar dollars usd us 美元|¢ cent cents|in inch inches
¥ yuan rmb 元 人民币|€ euro euros eur|ft foot feet|rad radian radians|yd yard yards|mi mile miles
mm millimeter millimeters millimetre millimetres 毫米|cm centimeter centimeters centimetre centimetres 厘米
m meter meters metre metres 米|km kilometer kilometers kilometre kilometres 千米 公里|s sec secs second seconds 秒
min mins minute minutes 分钟|h hr hrs hour hours 小时|day days 天|week weeks|month months|year years 年
g gram grams 克|kg kilogram kilograms 千克 公斤|lb lbs pound pounds|oz ounce ounces|l liter liters litre litres 升
ml milliliter milliliters millilitre millilitres 毫升|gal gallon gallons|unit units"""
_UNITS = {word: line.split()[0] for line in re.split(r"[|\n]", _UNIT_SPELLINGS) if line for word in line.split()}
MAX_NUMBER_CHARS = 400
MAX_BITS = 1 << 15
_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def plain_number(text: str) -> Fraction | None:
    r"""Exact value of a number written in digits, with optional sign, decimals and thousands commas; else None.

    >>> [plain_number(t) for t in ("025", "27.0", "1,000", r"10,\!080", "$-3$", "1,00", "2x")]
    [Fraction(25, 1), Fraction(27, 1), Fraction(1000, 1), Fraction(10080, 1), Fraction(-3, 1), None, None]
    """
    if len(text) > MAX_NUMBER_CHARS:
        return None
    text = one_line(text).replace(", ", ",").replace("- ", "-")
    return Fraction(text.replace(",", "").removesuffix(".")) if _NUMBER.fullmatch(text) else None


def exact_number(text: str) -> Fraction | None:
    r"""Exact value of arithmetic with rational numbers, powers and factorials, or of a mixed number; else None.

    >>> [str(exact_number(t)) for t in (r"-\frac 59", r"1\frac{4}{5}", "2^{10}", r"6.72\times 10^{-5}", "(7)", "x")]
    ['-5/9', '9/5', '1024', '21/312500', '7', 'None']
    >>> [str(exact_number(t)) for t in ("1.2E-5", "4.5e2", "3!/2**2", r"\frac{1}{2^{70}}", "9^9^9")]
    ['3/250000', '450', '3/2', '1/1180591620717411303424', 'None']
    """
    if len(text) > MAX_NUMBER_CHARS:
        return None
    if (value := plain_number(text)) is not None:
        return value
    text = _SHORT_FRAC.sub(lambda m: "".join(f"{{{part.strip('{}')}}}" for part in m.groups()), one_line(text))
    if mixed := _MIXED.fullmatch(text):
        text = f"{mixed[1]}({mixed[2]}+{mixed[3]})"
    if re.sub(_ARITHMETIC, "", text) or ("(" in text and "," in text) or re.search(r"[0-9.]\s+[0-9.]", text):
        return None
    python = _ARITHMETIC.sub(lambda m: f"N('{m[0]}')" if re.search("[0-9]", m[0]) else _PYTHON.get(m[0], m[0]), text)
    python = re.sub(r"(N\('[^']*'\)|\([^()]*(?:\('[^']*'\)[^()]*)*\))\s*!", r"G(\1)", python)
    try:
        return _evaluate(ast.parse(python.strip(), mode="eval").body)
    except (ArithmeticError, MemoryError, RecursionError, SyntaxError, ValueError):
        return None


def _evaluate(node: ast.expr) -> Fraction:
    """Rational arithmetic of bounded size on a parsed expression. Raises ValueError or ArithmeticError for all else."""
    match node:
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            value = _evaluate(operand) * (-1 if isinstance(node.op, ast.USub) else 1)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            value, exponent = _evaluate(left), _evaluate(right)
            if exponent.denominator > 1 or _num_bits(value) * abs(exponent) > MAX_BITS or value == exponent == 0:
                raise ValueError("no small power of an integer")
            value = value ** int(exponent)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            value = _OPERATORS[type(op)](_evaluate(left), _evaluate(right))
        case ast.Call(func=ast.Call(func=ast.Name(id="F"), args=[numerator]), args=[denominator]):
            value = _evaluate(numerator) / _evaluate(denominator)
        case ast.Call(func=ast.Name(id="G"), args=[argument]):
            value = _evaluate(argument)
            if value.denominator > 1 or not 0 <= value <= MAX_BITS >> 3:
                raise ValueError("no small factorial")
            value = Fraction(math.factorial(int(value)))
        case ast.Call(func=ast.Name(id="N"), args=[ast.Constant(value=str(digits))]):
            mantissa, _, exponent_digits = digits.replace(",", "").lower().partition("e")
            if abs(power_of_10 := int(exponent_digits or 0)) > MAX_BITS >> 3:
                raise ValueError("no small exponent")
            value = Fraction(mantissa.removesuffix(".")) * Fraction(10) ** power_of_10
        case _:
            raise ValueError("no arithmetic")
    if _num_bits(value) > MAX_BITS:
        raise ValueError("too large")
    return value


def _num_bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


@dataclass(frozen=True)
class Quantity:
    """An answer without its unit. ``value`` is None if ``body`` is no exact number; ``unit`` is "" if none is known."""

    body: str
    value: Fraction | None
    unit: str = ""


def quantity(text: str) -> Quantity:
    r"""Separate ``text`` from its unit, currency, degree or percent sign; "million" and its like change the value.

    >>> quantity(r"864 \mbox{ inches}^2"), quantity(r"\$5 \text{ million}").value, quantity("18 apples").unit
    (Quantity(body='864', value=Fraction(864, 1), unit='in^2'), Fraction(5000000, 1), '')
    >>> quantity("42元"), quantity("3万元").value, quantity("42以上").value
    (Quantity(body='42', value=Fraction(42, 1), unit='¥'), Fraction(30000, 1), None)
    """
    text, unit, scale = one_line(text), "", 1
    text = _BRACKETED_UNIT.sub(r" \1", _UNIT_JOIN.sub("/", unwrap(text) if re.search("[0-9]", text) else text))
    if money := _MONEY.match(text):
        text, unit = money[1] + text[money.end() :], unit_name(money[2]) or money[2]
    for _ in range(3):  # "5 \text{ million} \text{ dollars}"
        tail = _UNIT_TAIL.search(text)
        if not tail or not tail.start():
            break
        head = text[: tail.start()].strip()
        words = (tail["text"] or tail["sign"] or tail["bare"] or tail["east_asian"] or "").strip()
        scaled = None if unit_name(words) else _SCALE.match(words)
        if tail["bare"] and (exact_number(head) is None or not (scaled or _BARE_UNIT.fullmatch(words))):
            break
        if _NOT_IN_UNITS.search(words):
            break
        if scaled:
            scale, words = scale * _SCALES[scaled[0].strip().lower()], words[scaled.end() :]
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
    r"""One name for all spellings of a known unit, "" for others.

    >>> unit_name("square centimeters"), unit_name("$cm^2$"), unit_name("km per hour"), unit_name(r"^{\circ}")
    ('cm^2', 'cm^2', 'km/h', 'deg')
    """
    text = re.sub(r"\s*\bper\b\s*", "/", re.sub(r"[{}$.]|\\(?=[$%])", "", text).strip().lower() or text)
    names = []
    for part in text.split("/"):
        found = re.fullmatch(r"(sq(?:uare)?\s+|cubic\s+|平方|立方)?(\S+?)\s*(?:\^\s*([23]))?", part.strip())
        if not found or found[2] not in _UNITS:
            return ""
        power = found[3] or ("" if not found[1] else "3" if found[1][0] in "c立" else "2")
        names.append(_UNITS[found[2]] + (f"^{power}" if power else ""))
    return "/".join(names)
