"""The documentation stays true where a machine can tell: links, commands, length, and plain quotes."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from recipe.prepo import doctor
from recipe.prepo.__main__ import COMMANDS
from recipe.prepo.preflight import set_paths

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
def test_links_lead_somewhere_quotes_are_straight_and_cells_short(page: Path) -> None:
    for target, anchor in LINK.findall(prose(page)):
        if not target.startswith(("http:", "https:")):
            file = (page.parent / target).resolve() if target else page
            assert file.exists(), f"{target} does not exist"
            assert not anchor or anchor in anchors(file), f"{name_of(file)} has no section #{anchor}"
    assert not re.findall("[«»“”]", page.read_text(encoding="utf-8"))
    lines = [line for line in prose(page).splitlines() if line.startswith("|") and page in SHORT]
    cells = [cell.strip() for line in lines for cell in re.split(r"(?<!\\)\|", line)]
    assert [cell for cell in cells if len(cell) > 120] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_paths_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for module in re.findall(r"python -m ((?:recipe|benchmarks|data_prep)[\w.]*)", text):
        assert importlib.util.find_spec(module.rstrip(".")), f"python -m {module}"
    for command in re.findall(r"^prepo (\w+)", text, flags=re.M):
        assert command in COMMANDS, f"prepo {command}"
    for script in re.findall(r"\bscripts/\w+\.(?:py|sh)", text):
        assert (ROOT / script).exists(), script
    made = re.findall(r"cp \S+ conf/experiment/([\w-]+)\.yaml", text)
    for name in re.findall(r"\bexperiment=([\w.-]*\w)", text):
        is_old = page.name == "CHANGELOG.md" and name == "greso"
        assert is_old or name in made or (ROOT / "conf" / "experiment" / f"{name}.yaml").exists(), f"experiment={name}"
    for name in {n for names in re.findall(r"\bmethod=(\w[\w,]*)", text) for n in names.split(",")}:
        assert (ROOT / "conf" / "method" / f"{name}.yaml").exists(), f"method={name}"


def test_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 1_000
    running = " ".join(line for line in prose(ROOT / "README.md").splitlines() if not line.startswith(("|", "#", "!")))
    sentences = [part.split() for part in re.split(r"[.!?:]\**(?:\s|$)", running) if part.split()]
    assert sum(map(len, sentences)) / len(sentences) <= 16


def commands_of(page: Path) -> list[str]:
    """The lines of a page's shell blocks, continued ones joined."""
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line]


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that let `experiment=mine` be the template with its four lines changed."""
    set_paths()
    assets = os.environ["PREPO_ASSETS"]
    values = [f"{assets}/mini-math/mini_math_train.parquet", f"{assets}/mini-math/mini_math_test.parquet",
              f"{assets}/mini-math-qwen2", "mine${prepo.run_suffix}"]  # fmt: skip
    text = (ROOT / "conf/experiment/template.yaml").read_text(encoding="utf-8")
    for number, value in enumerate(values, start=1):
        text, changed = re.subn(rf": .*  # {number}$", lambda _, value=value: f": {value}", text, flags=re.M)
        assert changed == 1
    folder = tmp_path_factory.mktemp("conf")
    (folder / "experiment").mkdir()
    (folder / "experiment" / "mine.yaml").write_text(text, encoding="utf-8")
    return [f"hydra.searchpath=[{os.environ['PREPO_VERL_CONFIG']},file://{folder}]", "data.max_response_length=64"]


COMMANDS_OF_MINE = [line for line in commands_of(ROOT / "docs/your_model.md") if "experiment=mine" in line]


@pytest.mark.parametrize("command", COMMANDS_OF_MINE)
def test_each_command_for_your_model_would_start(command: str, mine: list[str]) -> None:
    words = shlex.split(command)
    overrides = [word for word in words if "=" in word and not word.startswith("--")]
    if "--multirun" in words:
        overrides = [override.split(",")[0] for override in overrides]
    small = [] if "data.train_batch_size=32" in overrides else ["data.train_max_samples=640"]
    assert doctor.diagnose([*mine, *overrides, *small])[-1].startswith("ok: ")


def test_each_command_helps_in_one_screen_without_the_stack() -> None:
    code = "import sys, recipe.prepo.__main__ as prepo; sys.argv[0] = 'prepo'; status = 0\n"
    code += "try: status = prepo.main()\nexcept SystemExit as end: status = end.code\n"
    code += "print(status, sorted({'torch', 'ray', 'verl', 'vllm'} & set(sys.modules)), file=sys.stderr)"
    for command in ([], *([name] for name in COMMANDS)):
        arguments = [sys.executable, "-c", code, *command, "--help"]
        found = subprocess.run(arguments, capture_output=True, text=True, check=True)
        assert found.stderr.splitlines()[-1] in ("0 []", "None []"), command
        assert found.stdout.startswith("usage: ") and found.stdout.count("\n") <= 50, command
