"""``prepo methods``: each method of ``conf/method``, what it does, and its rules."""

from __future__ import annotations

import argparse
import textwrap
from importlib.resources import files

import yaml

PLAIN = "random"  # its rules other than the selection are not named


def main() -> int:
    """Print the methods; returns the exit status."""
    parser = argparse.ArgumentParser(prog="prepo methods", description="List the methods with their rules.")
    parser.parse_args()
    folder = files("recipe.prepo.conf").joinpath("method")
    texts = {file.name.removesuffix(".yaml"): file.read_text("utf-8") for file in folder.iterdir()}
    plain = rules_of(texts[PLAIN])
    for name, text in sorted(texts.items()):
        rules = {group: rule for group, rule in rules_of(text).items() if group == "selection" or plain[group] != rule}
        lines = [*textwrap.wrap(about(text), 100), " ".join(f"{group}={rule}" for group, rule in rules.items())]
        print(*(f"{head:15}{line}" for head, line in zip([name, *[""] * len(lines)], lines, strict=False)), sep="\n")
    print("\nUse one with method=<name>. docs/methods explains them.")
    return 0


def about(text: str) -> str:
    """The comment that a method's file begins with."""
    head = text.split("\ndefaults:")[0].splitlines()
    return " ".join(line.removeprefix("#").strip() for line in head if not line.startswith("# @package"))


def rules_of(text: str) -> dict[str, str]:
    """Group -> rule, from the file's defaults list."""
    entries = [next(iter(entry.items())) for entry in yaml.safe_load(text)["defaults"]]
    return {key.rpartition("/")[2]: rule for key, rule in entries}
