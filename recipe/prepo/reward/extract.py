r"""Find the final answer in a response.

Responses may be hostile, so every function takes time linear in their length; the expensive patterns see only the end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_BRACES = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{|\\.|[{}]", re.DOTALL)
_UNBRACED_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s+(?=[^\s{])((?:(?!\\(?:boxed|fbox|framebox))[^$\n])*)")
_CUT_COMMAND = re.compile(r"\\(?:box(?:ed?)?|fbox|framebox)\s*\Z")
_NOT_WORDS = re.compile(r"\\(?:text|mbox|textbf|textit|mathrm|operatorname|begin|end)\s*\{[^}]*\}|\\[A-Za-z]+")
_THOUGHT = re.compile(r"<(/?)(?:think|thinking|thought|reasoning)\s*>", re.IGNORECASE)
_ANSWER_TAG = re.compile(r"<(/?)(?:final_)?answer\s*>", re.IGNORECASE)
_EMPHASIS = re.compile(r"(?<![\w)\]}*])(\*{1,3}|__)(?=[^\s*])(.+?)(?<=[^\s*])\1(?![\w(*])")
_BOLD_LABEL = re.compile(r"^\s*\*\*[^*\n]{1,80}:\*\*")
_HEADING = re.compile(r"^[ \t]*#{1,6}(?=[ \t])[ \t]*", re.MULTILINE)
_TITLE = re.compile(
    r"(?:step|part|case|section|method|approach|phase|problem|question|example|lemma|claim|note|stage|task)\b"
    r"|\(?\d{1,2}[.):]\s+[A-Za-z]|[IVX]+[.)]\s|.*:\s*$",
    re.IGNORECASE,
)
_VERB = r"\b(?:is|are|was|equals|becomes|(?:would|must|should|will) be)\b"
_ADVERB = r"(?:[ \t]+(?:therefore|thus|then|simply|just|exactly|indeed|equal to|given by)\b)?"
_PHRASE = re.compile(
    r"(?<!this )(?<!that )\b(?:answers?|(?:correct|right|best) (?:option|choice)|final (?:result|value|solution))\b"
    r"(?:[ \t]+(?:to|of|for)\b[^.:=\n]{0,80}?)?(?:[ \t]*\([^()\n]{0,40}\))?"
    rf"[ \t]*(?:{_VERB}{_ADVERB}[ \t,]*[:=]?|[:=—→⇒]|[-=]>)"
    r"(?!\s*(?:(?:indeed|clearly|also|thus) )?(?:(?:in)?correct|right|wrong|consistent|reasonable|valid|verified)\b)"
    r"|^[^\w\n]*(?:(?:the|my|your|our)[ \t]+)?(?:final[ \t]+)?answers?[^\w\n]*$|答案(?:是|为|為)?[ \t]*[:：]?",
    re.IGNORECASE | re.MULTILINE,
)
_DISPLAY = re.compile(r"(?:\$\$|\\\[)(.*?)(?:\$\$|\\\])", re.DOTALL)
_SENTENCE_END = re.compile(r"[.!?](?=\s+[^\s\w]|\s+[A-Z]|\s*$)|。|,?\s+(?:because|since|as required)\b")
TAIL_CHARS = 4096
RUNNING_TEXT_CHARS = 1024


@dataclass(frozen=True)
class FinalAnswer:
    """``text`` is the answer alone if ``is_marked``, else a sentence or the end of a response that contains it."""

    text: str
    is_marked: bool = True


def final_answer(response: str) -> FinalAnswer:
    r"""The final answer of a response; its text is empty when the response was cut off or leaves the answer empty.

    In this order: the last box or ``<answer>``; what follows the last ``####`` on its line, unless that is a heading;
    what follows "the answer is" or the like; bold text in the last paragraph; the end of the response.

    >>> final_answer("#### Step 2\nThus **Answer:** $42$."), final_answer(r"\boxed{41} or rather \boxed{42")
    (FinalAnswer(text='$42$', is_marked=True), FinalAnswer(text='', is_marked=True))
    """
    text = without_thoughts(response)
    box_start, _, cut_start = _last_box(text)
    tag_start, tagged = _last_tagged(text)
    is_tagged = tag_start > max(box_start, cut_start)
    if is_tagged:
        text = tagged
    answer = _marked(text)
    tail = text[-TAIL_CHARS:]
    if answer is None and is_tagged:
        answer = _of_sentence(_plain(tail).strip())
    if answer is None and (bold := _last_bold(tail)):
        answer = _of_sentence(bold)
    if answer is None:
        lines = [_plain(_BOLD_LABEL.sub("", line)) for line in tail.split("\n") if not _is_title_line(line)]
        answer = FinalAnswer(_ANSWER_TAG.sub(" ", "\n".join(lines))[-RUNNING_TEXT_CHARS:], is_marked=False)
    return answer


def _marked(text: str) -> FinalAnswer | None:
    """The answer of a box, a ``####`` or a sentence such as "the answer is 42"."""
    box_start, box, cut_start = _last_box(text)
    if cut_start > box_start:
        return FinalAnswer("")
    if box is not None:
        return FinalAnswer(box)
    if (line := _after_hashes_on_line(text)) is not None:
        return FinalAnswer(line)
    sentence = _after_phrase(text[-TAIL_CHARS:])
    return None if sentence is None else _of_sentence(sentence)


def marked_answer(response: str) -> str | None:
    """The final answer that a response marks; None if it marks none."""
    answer = final_answer(response)
    return answer.text if answer.is_marked else None


def without_thoughts(response: str) -> str:
    """The response without ``<think>`` blocks. One that is never closed goes on to the end; but see below.

    >>> without_thoughts("a <think>b</think> c"), without_thoughts("b</think> c"), without_thoughts("a <think>b")
    ('a  c', ' c', 'a ')
    """
    kept: list[str] = []
    is_open, start = False, 0
    for tag in _THOUGHT.finditer(response):
        if tag[1]:
            kept = kept if is_open else []  # without an opening tag, the block began in the prompt
            is_open, start = False, tag.end()
        elif not is_open:
            kept.append(response[start : tag.start()])
            is_open, start = True, tag.end()
    if not is_open or response.rstrip().lower().endswith("</answer>"):  # an answer ends a block, too
        kept.append(response[start:])
    return "".join(kept)


def last_boxed(text: str) -> str | None:
    r"""Content of the last balanced ``\boxed{…}``, ``\fbox{…}`` or ``\framebox{…}``; else of a last ``\boxed 3``.

    >>> last_boxed(r"so \boxed{1} or rather \boxed{\frac{1}{2}}."), last_boxed(r"the answer is $\boxed 3$.")
    ('\\frac{1}{2}', '3')
    >>> last_boxed(r"cut off: \boxed{12") is None
    True
    """
    return _last_box(text)[1]


def _last_box(text: str) -> tuple[int, str | None, int]:
    """Where the last complete box starts, its content, and where the last box starts that was cut off."""
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
    cut = [start for is_box, start, _ in open_braces if is_box]
    cut += [max(len(text) - 20, 0) + found.start() for found in _CUT_COMMAND.finditer(text[-20:])]
    return last_start, content.strip() if content is not None else None, cut[-1] if cut else -1


def _last_tagged(text: str) -> tuple[int, str]:
    """Where the last ``<answer>`` starts (-1: nowhere), and its content, which is "" if it was cut off."""
    start, content, opened = -1, "", None
    for tag in _ANSWER_TAG.finditer(text):
        if not tag[1]:
            opened = tag
        elif opened:
            start, content, opened = opened.start(), text[opened.end() : tag.start()].strip(), None
    return (opened.start(), "") if opened else (start, content)


def after_hashes(text: str) -> str | None:
    """What follows the last ``####``, stripped; None when there is no ``####``.

    >>> after_hashes("3 + 4 = 7 #### 7")
    '7'
    """
    _, hashes, after = text.rpartition("####")
    return after.strip() if hashes else None


def _after_hashes_on_line(text: str) -> str | None:
    """What follows the last ``####`` on its line; None if that line is a heading."""
    after = after_hashes(text)
    if after is None:
        return None
    line, _, rest = after.partition("\n")
    line = _plain(line[:TAIL_CHARS]).strip(" \t✅✔☑→⇒➡👉🎯📌")
    is_title = _TITLE.match(line) or _PHRASE.search(line) or (rest.strip() and re.match(r"[^\W\d_]{3,}", line))
    return None if is_title else line


def _after_phrase(text: str) -> str | None:
    """The rest of the last sentence, or the next lines, after "the answer is", "Answer:" or an "Answer" heading."""
    text = _plain(text)
    phrases = list(_PHRASE.finditer(text))
    if not phrases:
        return None
    content = re.sub(r"^\s*\n\s*[-•>]\s+", "", text[phrases[-1].end() :]).lstrip(" \t\n:_#")
    if content.startswith("**") and "**" not in content[2:]:
        return ""  # cut off
    content = content.lstrip("* ")
    if display := _DISPLAY.match(content):
        return display[1].strip()
    line = content.partition("\n")[0]
    for end in _SENTENCE_END.finditer(line):
        if line[: end.start()].count("$") % 2 == 0:
            return line[: end.start()].strip()
    return line.strip()


def _last_bold(text: str) -> str | None:
    """The last emphasised text of the last paragraph that is no title."""
    paragraph = re.split(r"\n\s*\n", text.rstrip())[-1]
    for bold in reversed(list(_EMPHASIS.finditer(paragraph))):
        rest = paragraph[bold.end() :].lstrip(" \t")
        is_line = rest.startswith("\n") and not paragraph[: bold.start()].rpartition("\n")[2].strip()
        if len(bold[1]) > 1 and not rest.startswith(":") and not is_line and not _TITLE.match(bold[2].strip()):
            return bold[2].strip()
    return None


def _of_sentence(text: str) -> FinalAnswer:
    is_sentence = is_prose(text) or re.search(r"\b(?:is|are|was|were|has|have|equals)\b|^[A-Za-z ]+:", text) is not None
    return FinalAnswer(text.rstrip(" ,;!"), is_marked=not is_sentence)


def _plain(text: str) -> str:
    """Without Markdown's emphasis, headings and code marks; the lines stay."""
    text = _EMPHASIS.sub(r"\2", _HEADING.sub("", text)) if "*" in text or "_" in text or "#" in text else text
    return text.replace("`", "")


def _is_title_line(line: str) -> bool:
    heading = _HEADING.match(line)
    bold = _EMPHASIS.fullmatch(line.strip())
    return bool((heading or bold) and _TITLE.match(_plain(line).strip()))


def is_prose(text: str) -> bool:
    r"""True for an answer of several words outside ``\text{…}``, which no grader of mathematics can compare.

    >>> is_prose("$f(x)=ax$, where $a$ is an arbitrary integer with $g(a)=0$"), is_prose(r"\text{all of them}")
    (True, False)
    """
    return len(re.findall(r"[A-Za-z]{3,}", _NOT_WORDS.sub(" ", text))) >= 3
