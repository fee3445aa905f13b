"""Imports go one way, and the heavy libraries stay in the layers that are made for them."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PACKAGE = PROJECT / "recipe" / "prepo"

# Rooms of recipe.prepo and the ones that each may import, besides itself. The core needs neither supervision nor tools.
PURE = "candidates controller errors maths metrics reward_scale rules types"
ALLOWED = {
    room: set(allowed.split())
    for room, allowed in {
        "errors": "",
        "maths": "",
        "cpu": "",
        "types": "maths",
        "rows": "errors",
        "rules": "errors maths types",
        "metrics": "maths types",
        "candidates": "maths rules types",
        "reward_scale": "errors maths rules types",
        "controller": "candidates errors maths metrics reward_scale rules types",
        "config": "errors rules",
        "warm_start": "errors maths types",
        "preflight": "config cpu errors rows rules warm_start",
        "run": "errors types",
        "reward": "errors",
        "trainer": f"{PURE} config cpu preflight reward rows run warm_start",
        "supervise": "errors run trainer",
        "modes": "trainer supervise",
        "tools": "cpu errors maths preflight reward rows rules run trainer types",
        "__main__": "",  # it imports the command that it runs, by name
        "report": "errors tools",
        "evaluate": "tools",
        "analyze": "tools",
        "plugin": "cpu modes trainer",
        "main": "config controller cpu doctor preflight verl_checks errors modes run supervise tools trainer",
        "verl_checks": "config errors preflight reward rows",
        "doctor": "config cpu preflight errors verl_checks",
    }.items()
}
STACK = {"verl", "ray", "transfer_queue", "tensordict", "torch", "transformers", "vllm"}
CONFIGURATION = {"hydra", "omegaconf"}
# Who may import what of these, at the top of the file and inside of functions.
AT_THE_TOP = {
    **dict.fromkeys(("trainer", "supervise", "modes"), STACK | {"omegaconf"}),
    **{"cpu": STACK, "main": CONFIGURATION, "doctor": CONFIGURATION, "verl_checks": {"omegaconf"}},
}
IN_FUNCTIONS = {
    **AT_THE_TOP,
    "main": CONFIGURATION | {"verl", "ray"},
    "verl_checks": {"verl"},
    "tools": {"verl", "vllm"},
}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Absolute names of imported modules (and of the names taken from them), and whether inside of a function."""

    def visit(node: ast.AST, inside: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, inside) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: relative import"
                yield from ((f"{child.module}.{alias.name}", inside) for alias in child.names)
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from visit(child, inside or function)

    return visit(ast.parse(path.read_text(encoding="utf-8")), False)


def test_every_module_has_its_layer_and_layers_have_no_cycle() -> None:
    assert {layer_of(path) for path in sources()} - {"__init__"} == set(ALLOWED)
    tuple(graphlib.TopologicalSorter(ALLOWED).static_order())


def test_imports_go_one_way_and_checkpoints_need_no_pickle() -> None:
    for layer, name, inside in ((layer_of(path), *each) for path in sources() for each in imports(path)):
        parts = name.split(".")
        if parts[:2] == ["recipe", "prepo"] and len(parts) > 2:
            own = parts[2] == layer
            assert own or parts[2] in ALLOWED.get(layer, set()), f"{layer} imports {name}"
        elif parts[0] in ("data_prep", "benchmarks", "tests", "conf"):
            pytest.fail(f"{layer} imports {name}")
        elif parts[0] in STACK | CONFIGURATION:
            allowed = (IN_FUNCTIONS if inside else AT_THE_TOP).get(layer, set())
            assert parts[0] in allowed, f"{layer} imports {name} {'in a function' if inside else 'at the top'}"
        assert parts[0] not in ("pickle", "dill", "cloudpickle", "shelve"), f"{layer} imports {name}"
