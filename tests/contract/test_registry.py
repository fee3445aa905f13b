"""What every registered rule must do. A new rule is tested here without a change to this file."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from audited_run import check_of_audit
from composed import CONF, rule_yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_run import SimulatedRun, all_options, rollout_batch, run_facts
from verl.trainer.ppo.v1.utils import MetricsAggregator

from recipe.prepo.rules.base import (
    BudgetRule,
    Rule,
    SelectionRule,
    ShapingRule,
    Stateful,
    TemperatureRule,
    WeightingRule,
)
from recipe.prepo.rules.registry import BUDGET, REGISTRIES, SELECTION, SHAPING, TEMPERATURE, WEIGHTING, build_rule
from recipe.prepo.types import Candidates, RolloutBatch, StepOutcome

ALL = [(group, name) for group, registry in REGISTRIES.items() for name in registry]
YAMLS = sorted((path.parent.name, path.stem) for path in CONF.glob("prepo/*/*.yaml"))
BASES = dict(zip(REGISTRIES, (SelectionRule, WeightingRule, BudgetRule, TemperatureRule, ShapingRule), strict=True))
REDUCTIONS = {"mean": "weighted_avg", "min": "min", "max": "max", "sum": "sum"}
IDS = [f"p{i}" for i in range(40)]


def make(group: str, name: str, seed: int = 0, **facts: Any) -> Any:
    rule = build_rule(group, rule_yaml(group, name), seed=seed)
    rule.bind(run_facts(IDS, **facts))
    return rule


def seasoned(group: str, name: str, **facts: Any) -> Any:
    """The rule after an epoch of prompts of every difficulty, which it may have ranked by now."""
    rule = make(group, name, **facts)
    if group == "selection":
        select(rule, pool(0, 40), 6, 0.5)
    groups = [(prompt_id, [float(j >= i % 4) for j in range(4)]) for i, prompt_id in enumerate(IDS)]
    for step in range(1, 4):
        rule.observe(StepOutcome(trained=rollout_batch(groups, step), discarded=(), step=step))
    return rule


def pool(seed: int, size: int) -> Candidates:
    rng = np.random.default_rng(seed)
    # A coarse grid, so that perplexities tie.
    return Candidates(
        tuple(f"p{i}" for i in rng.permutation(size)), rng.integers(0, 5, size) / 4.0, np.full(size, 5, dtype=np.int64)
    )


def rollouts(entropy: list[float]) -> RolloutBatch:
    return RolloutBatch(
        prompt_ids=[f"p{i // 3}" for i in range(len(entropy))],
        group_R=np.arange(len(entropy)) // 3,
        reward_R=np.arange(len(entropy)) % 2.0,
        num_tokens_R=np.arange(len(entropy)),
        entropy_nats_R=np.array(entropy, dtype=np.float64),
    )


@pytest.mark.parametrize(("group", "name"), YAMLS)
def test_yaml_names_a_rule_and_sets_every_field_of_it(group: str, name: str) -> None:
    rule_class = REGISTRIES[group][rule_yaml(group, name)["name"]]
    fields = dataclasses.fields(cast(Any, rule_class.Config))
    assert set(rule_yaml(group, name)) == {"name", *(field.name for field in fields)}
    assert all(field.default is field.default_factory is dataclasses.MISSING for field in fields)
    assert issubclass(rule_class, BASES[group]) and len((rule_class.__doc__ or "").strip()) > 20


def select(rule: SelectionRule, candidates: Candidates, num_selected: int, progress: float) -> list[int]:
    if not rule.needs_scores:
        candidates = Candidates(candidates.prompt_ids)
    if not rule.uses_candidates:
        num_selected = len(candidates)
    return rule.select(candidates, num_selected=num_selected, progress=progress).indices_P.tolist()


@pytest.mark.parametrize("name", SELECTION)
def test_choices_repeat_with_the_seed_and_depend_on_the_progress_in_the_schedule_only(name: str) -> None:
    first, second = make("selection", name, seed=3), make("selection", name, seed=3)
    for call in range(5):
        candidates = pool(call, 30)
        assert select(first, candidates, 6, call / 5) == select(second, candidates, 6, call / 5)
    chosen = [select(make("selection", name), pool(1, 30), 6, progress) for progress in (0.0, 1.0)]
    assert (chosen[0] != chosen[1]) == name.startswith("ppl_schedule")


@pytest.mark.parametrize("name", SELECTION)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_choices_are_unique_and_in_the_pool_and_the_rest_has_a_reason(name: str, data: st.DataObject) -> None:
    rule = make("selection", name)
    size = data.draw(st.integers(1, 40))
    num_selected = data.draw(st.integers(1, size)) if rule.uses_candidates else size
    candidates = pool(data.draw(st.integers(0, 1000)), size)
    if not rule.needs_scores:
        candidates = Candidates(candidates.prompt_ids)
    found = rule.select(candidates, num_selected=num_selected, progress=data.draw(st.floats(0.0, 1.0)))
    chosen = found.indices_P.tolist()
    assert found.indices_P.dtype == np.int64
    assert len(chosen) == len(set(chosen)) == num_selected
    assert set(chosen) | set(found.skip_reasons) == set(range(size))
    assert not set(chosen) & set(found.skip_reasons)
    assert all(isinstance(reason, str) and reason for reason in found.skip_reasons.values())
    assert all(np.shape(detail) in ((), (size,)) for detail in found.details.values())


@pytest.mark.parametrize("name", WEIGHTING)
@settings(max_examples=30, deadline=None)
@given(entropy=st.lists(st.floats(0.0, 12.0), min_size=1, max_size=30))
def test_weights_are_finite_and_not_negative_with_mean_one(name: str, entropy: list[float]) -> None:
    rule = make("weighting", name)
    weight_R = rule.weigh(rollouts(entropy))
    assert weight_R.shape == (len(entropy),)
    assert np.isfinite(weight_R).all() and (weight_R >= 0.0).all()
    assert weight_R.mean() == pytest.approx(1.0)
    assert rule.is_identity == (rule.weigh(rollouts([1.0, 2.0, 4.0])).tolist() == [1.0, 1.0, 1.0])


# Seasoned budgets ranked the prompts, so M must lie within the bounds that their yamls set.
@pytest.mark.parametrize(("begin", "sizes"), [(make, (1, 16)), (seasoned, (4, 12))], ids=["fresh", "seasoned"])
@pytest.mark.parametrize("name", BUDGET)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_budgets_sum_to_the_total_and_leave_no_prompt_out(
    begin: Callable[..., Any], sizes: tuple[int, int], name: str, data: st.DataObject
) -> None:
    num_prompts, per_prompt = data.draw(st.integers(1, 40)), data.draw(st.integers(*sizes))
    ids = tuple(f"p{i}" for i in range(num_prompts))
    rule = begin("budget", name, rollouts_per_prompt=per_prompt)
    rollout_n_P = rule.allocate(ids, rollouts_per_prompt=per_prompt)
    assert rollout_n_P.shape == (num_prompts,) and rollout_n_P.dtype == np.int64
    assert rollout_n_P.sum() == num_prompts * per_prompt and (rollout_n_P >= 1).all()


@pytest.mark.parametrize("name", TEMPERATURE)
@pytest.mark.parametrize("base", [0.6, 1.0])
def test_temperature_is_positive_and_starts_at_the_configured_one(name: str, base: float) -> None:
    assert make("temperature", name).temperature(base) == base


@pytest.mark.parametrize("begin", [make, seasoned], ids=["fresh", "seasoned"])
@pytest.mark.parametrize("name", SHAPING)
def test_shaping_keeps_zeros_and_signs(begin: Callable[..., Any], name: str) -> None:
    batch = rollouts([1.0] * 9)
    shaped_R = begin("shaping", name).shape(batch)
    assert shaped_R.shape == (9,)
    assert ((shaped_R > 0.0) == (batch.reward_R > 0.0)).all()
    assert batch.reward_R.tolist() == rollouts([1.0] * 9).reward_R.tolist()  # the raw ones stay


@pytest.mark.parametrize(("group", "name"), ALL)
def test_metrics_reduce_in_verl_as_they_are_named_and_are_those_that_the_rule_draws(group: str, name: str) -> None:
    run = SimulatedRun(all_options(**{group: name}))
    steps = [run.step(step)["metrics"] for step in range(1, 5)]
    aggregator = MetricsAggregator()
    for step in steps:
        assert all(math.isfinite(value) for value in step.values())
        aggregator.add_step_metrics(step, sample_count=16)
    reduced = aggregator.get_aggregated_metrics()
    for metric in set(steps[0]) & set(steps[1]):
        ending = metric.rsplit("/", 1)[-1]
        assert aggregator._get_aggregation_type(metric) == REDUCTIONS[ending], metric
        values = [step[metric] for step in steps]
        expected = {"mean": np.mean(values), "min": min(values), "max": max(values), "sum": sum(values)}[ending]
        assert reduced[metric] == pytest.approx(expected), metric
    for panel in REGISTRIES[group][name].panels:
        assert panel.title and panel.caption.endswith(".") and panel.y_label
        assert set(panel.series) <= {metric for step in steps for metric in step}


@pytest.mark.parametrize(
    ("group", "name", "pooled"),
    [(*each, False) for each in ALL]
    + [("selection", name, True) for name in SELECTION if REGISTRIES["selection"][name].uses_candidates],
)
def test_outside_check_agrees_with_every_rule(group: str, name: str, pooled: bool, tmp_path: Path) -> None:
    assert check_of_audit(tmp_path, all_options(**{group: name}), num_steps=12, pooled=pooled).startswith("ok: ")


@pytest.mark.parametrize(("group", "name"), ALL)
def test_state_with_other_keys_is_refused(group: str, name: str) -> None:
    rule: Rule = make(group, name)
    mine = rule.state_dict()
    others = [{**mine, "foreign": 1}, None, ["foreign"], *([{}] if mine else [])]
    for state in others:
        with pytest.raises(ValueError, match=rf"{type(rule).__name__} saves"):
            rule.load_state_dict(cast(Any, state))


def generator_states(rule: Stateful) -> dict[str, Any]:
    """State of every generator that the rule, or a part of it, draws from."""
    found: dict[str, Any] = {}
    for name, value in vars(rule).items():
        if isinstance(value, np.random.Generator):
            found[name] = value.bit_generator.state
        elif isinstance(value, Stateful):
            found |= {f"{name}.{key}": state for key, state in generator_states(value).items()}
    return found


@pytest.mark.parametrize(("group", "name"), ALL)
def test_a_resumed_rule_draws_on_from_where_it_was(group: str, name: str) -> None:
    straight = SimulatedRun(all_options(**{group: name}))
    for step in (1, 2, 3):
        straight.step(step)
    resumed = SimulatedRun(all_options(**{group: name}))
    resumed.controller.load_state_dict(straight.controller.state_dict())
    states = [generator_states(getattr(run.controller, group)) for run in (straight, resumed)]
    assert states[0] == states[1]
