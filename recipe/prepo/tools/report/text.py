"""Text out of a run's files, made fit for a page: cut, nothing invisible left in it, HTML-escaped."""

from __future__ import annotations

import unicodedata
from html import escape

MAX_CELL = 200
# Control, format (direction overrides, zero-width marks), surrogate, private and unassigned code points.
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
MAX_MARKS = 2


def visible(text: str) -> str:
    """The text with each code point that would not be seen, or would turn the text round, spelled out.

    More than `MAX_MARKS` combining marks in a row, which would be drawn over the lines around, are left out.

    >>> visible("a\\x00b\\u202ec")
    'a<U+0000>b<U+202E>c'
    >>> visible("two\\nlines, a\\ttab")
    'two\\nlines, a\\ttab'
    """
    if text.isascii() and text.isprintable():
        return text
    parts, marks = [], 0
    for char in text:
        category = unicodedata.category(char)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        if category in _INVISIBLE and char not in "\n\t":
            parts.append(f"<U+{ord(char):04X}>")
        elif marks <= MAX_MARKS:
            parts.append(char)
    return "".join(parts)


def cut(text: str, limit: int) -> str:
    """At most about `limit` characters: the beginning, two thirds of them, and the end.

    >>> cut("0123456789" * 10, 30)
    '01234567890123456789 […70 characters…] 0123456789'
    """
    if len(text) <= limit:
        return text
    head = 2 * limit // 3
    tail = limit - head
    return f"{text[:head]} […{len(text) - limit:,} characters…] {text[-tail:]}"


def safe(text: object, limit: int = MAX_CELL) -> str:
    """HTML for text of any origin: cut first (a text may have millions of characters), then made visible, escaped."""
    return escape(visible(cut(str(text), limit)))
