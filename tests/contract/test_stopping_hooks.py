"""What stopping after a step and the watch rely on in verl 0.9.1, in every mode."""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import Any

import pytest
from transfer_queue import interface
from verl.trainer.main_ppo import run_ppo
from verl.trainer.ppo.v1 import PPOTrainer, get_trainer_cls
from verl.workers.rollout.replica import RolloutReplica

from recipe.prepo.supervise.messages import CallFirst
from recipe.prepo.supervise.stopping import StoppingMixin

MODES = ("prepo_sync", "prepo_colocate_async", "prepo_separate_async")
HOOKS = {
    "fit": ["agent_loop_manager"],
    "on_step_begin": [],
    "_compute_advantage": ["batch", "metrics"],
    "_save_checkpoint": [],
}
USED = ("_shutdown_dump_executor", "_rollout_server_managers")


def parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def calls(node: ast.AST) -> list[str]:
    """Names of the functions that are called, in the order of the source."""
    found = [each for each in ast.walk(node) if isinstance(each, ast.Call)]
    return [ast.unparse(each.func) for each in sorted(found, key=lambda each: (each.lineno, each.col_offset))]


@pytest.fixture(scope="module")
def loop() -> ast.While:
    """The training loop of verl's ``fit``."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(PPOTrainer.fit)))
    (found,) = (node for node in ast.walk(tree) if isinstance(node, ast.While))
    return found


@pytest.mark.parametrize("mode", MODES)
def test_stands_in_front_of_every_other_class(mode: str) -> None:
    assert get_trainer_cls(mode).__mro__[1] is StoppingMixin


@pytest.mark.parametrize("name", HOOKS)
def test_hook_is_verls(name: str) -> None:
    assert parameters(getattr(PPOTrainer, name)) == parameters(getattr(StoppingMixin, name)) == HOOKS[name]


@pytest.mark.parametrize("name", USED)
def test_method_that_is_called_is_there(name: str) -> None:
    assert parameters(getattr(PPOTrainer, name)) == []


def test_a_step_is_logged_once_after_its_checkpoint_and_before_it_is_counted(loop: ast.While) -> None:
    order = calls(loop)
    assert order.count("self.logger.log") == order.count("self._save_checkpoint") == order.count("self.step") == 1
    wanted = ["self.on_step_begin", "self.step", "self._save_checkpoint", "self.on_step_end", "tq.kv_clear"]
    positions = [order.index(name) for name in [*wanted, "self.logger.log"]]
    assert positions == sorted(positions)
    counted = next(node for node in ast.walk(loop) if isinstance(node, ast.AugAssign))
    logged = next(node for node in ast.walk(loop) if isinstance(node, ast.Call) and "logger.log" in ast.unparse(node))
    assert ast.unparse(counted) == "self.global_steps += 1" and logged.lineno < counted.lineno


def test_the_loop_ends_when_the_total_is_lowered_to_the_step_it_is_in(loop: ast.While) -> None:
    assert "self.global_steps <= self.total_training_steps" in ast.unparse(loop.test)


def test_run_ppo_makes_its_task_runner_after_ray_is_up() -> None:
    order = calls(ast.parse(textwrap.dedent(inspect.getsource(run_ppo))))
    assert order.index("ray.init") < order.index("task_runner_class.remote")
    assert {"task_runner_class.remote", "task_runner_class.options"} <= set(order)


def test_a_runner_is_made_after_the_first_call_with_the_options_given() -> None:
    order: list[Any] = []

    class Actor:
        def options(self, **options: Any) -> Actor:
            order.append(options)
            return self

        def remote(self, *args: Any) -> str:
            order.append(args)
            return "handle"

    assert CallFirst(Actor(), lambda: order.append("first")).options(num_cpus=0).remote(1) == "handle"
    assert order == [{"num_cpus": 0}, "first", (1,)]


def test_ray_and_transfer_queue_have_what_is_used_of_their_inner_parts() -> None:
    from ray.experimental import internal_kv

    for name in ("_internal_kv_put", "_internal_kv_get", "_internal_kv_del"):
        assert callable(getattr(internal_kv, name))
    assert hasattr(interface, "_TQ_STORAGE")
    assert "self.servers" in inspect.getsource(RolloutReplica.__init__)
