"""The documentation stays true where a machine can tell: links, commands, length, and plain quotes."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SHORT = [ROOT / "README.md", *ROOT.glob("docs/results/*.md")]
LINK = re.compile(r"\]\(([^)#\s]+)?(?:#([^)\s]+))?\)")


def prose(page: Path) -> str:
    """The page without code and diagrams."""
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(prose(page)):
        if target.startswith(("http:", "https:")):
            continue
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{target} does not exist"
        assert not anchor or anchor in anchors(file), f"{name_of(file)} has no section #{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_paths_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for module in re.findall(r"python -m ((?:recipe|benchmarks|data_prep)[\w.]*)", text):
        assert importlib.util.find_spec(module.rstrip(".")), f"python -m {module}"
    for script in re.findall(r"\bscripts/\w+\.(?:py|sh)", text):
        assert (ROOT / script).exists(), script
    for name in re.findall(r"\bexperiment=([\w.-]*\w)", text):
        is_old = page.name == "CHANGELOG.md" and name == "greso"
        assert is_old or (ROOT / "conf" / "experiment" / f"{name}.yaml").exists(), f"experiment={name}"
    for name in {n for names in re.findall(r"\bmethod=(\w[\w,]*)", text) for n in names.split(",")}:
        assert (ROOT / "conf" / "method" / f"{name}.yaml").exists(), f"method={name}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_quotes_are_straight(page: Path) -> None:
    assert not re.findall("[«»“”]", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", SHORT, ids=name_of)
def test_cells_are_short(page: Path) -> None:
    lines = [line for line in prose(page).splitlines() if line.startswith("|")]
    cells = [cell.strip() for line in lines for cell in re.split(r"(?<!\\)\|", line)]
    assert [cell for cell in cells if len(cell) > 120] == []


def test_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 1_000
    running = " ".join(line for line in prose(ROOT / "README.md").splitlines() if not line.startswith(("|", "#", "!")))
    sentences = [part.split() for part in re.split(r"[.!?:]\**(?:\s|$)", running) if part.split()]
    assert sum(map(len, sentences)) / len(sentences) <= 16
