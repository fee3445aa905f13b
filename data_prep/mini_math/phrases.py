"""Wording of the mini-math problems; each list is ordered from frequent to rare."""

from __future__ import annotations

# fmt: off
NAMES = (
    "Tom", "Ana", "Bob", "Eva", "Sam", "Lily", "Max", "Zoe", "Leo", "Mia", "Ian", "Amy", "Ben", "Ivy", "Raj", "Kim",
    "Omar", "Tara", "Hugo", "Nora",
)
ITEMS = (
    "apples", "books", "coins", "cards", "pens", "eggs", "cakes", "stamps", "balls", "shells", "rocks", "toys",
    "cups", "keys", "hats", "plums", "beads", "nuts", "figs", "kites",
)
# fmt: on
VARIABLES = tuple("xyznmabcdkpqrstuvw")
"""Names of the running value in the expressions task."""
OPENINGS = (
    "{name} has {start} {item}.",
    "At dawn {name} counts {start} {item}.",
    "The box of {name} holds {start} {item}.",
)
QUESTIONS = ("How many {item} now?", "What is the total?")
OPERATIONS: dict[str, tuple[str, ...]] = {
    "add": (
        "{name} buys {amount} more.",
        "{other} brings {amount}.",
        "{name} finds {amount} {item}.",
        "{other} hands over {amount}.",
        "An old uncle mails {amount} {item}.",
    ),
    "subtract": (
        "{name} loses {amount}.",
        "{other} takes {amount}.",
        "{name} sells {amount} {item}.",
        "A dog runs off with {amount}.",
        "{other} borrows {amount} {item}.",
    ),
    "double": ("The pile doubles.", "A lucky bet doubles the {item}."),
    "triple": ("A magic jar triples the {item}.",),
    "friends": ("{friends} friends bring {amount} each.",),
}
