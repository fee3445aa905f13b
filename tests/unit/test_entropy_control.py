"""E3's temperature control (arXiv 2505.18573): the published vectors, its bounds, and what a resumed run does."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_run import make_rule, run_facts

from recipe.prepo.rules.temperature.entropy_target import TARGET
from recipe.prepo.types import RolloutBatch, StepOutcome

VOCAB = 151936  # DeepSeek-R1-Distill-Qwen-1.5B
DEPTH = 14.4104  # ln V + ln ln V


def controlled(*, total_steps: int = 480, base: float = 1.0, start: bool = True, **options: Any) -> Any:
    facts = {"vocab_size": VOCAB, "total_steps": total_steps}
    rule = make_rule("temperature", "entropy_target", ["p"], facts=facts, **options)
    if start:
        rule.temperature(base)
    return rule


def outcome(step: int, entropies: list[float], lengths: list[int] | None = None) -> StepOutcome:
    size = len(entropies)
    batch = RolloutBatch(
        prompt_ids=["p"] * size,
        group_R=np.zeros(size, dtype=np.int64),
        reward_R=np.zeros(size),
        num_tokens_R=np.array([5] * size if lengths is None else lengths, dtype=np.int64),
        entropy_nats_R=np.array(entropies, dtype=np.float64),
    )
    return StepOutcome(trained=batch, discarded=(), step=step)


def temperatures(rule: Any, entropies: list[float], *, first_step: int = 1) -> list[float]:
    """The temperature of the step after each."""
    found = []
    for step, entropy in enumerate(entropies, start=first_step):
        rule.observe(outcome(step, [entropy]))
        found.append(rule.temperature(1.0))
    return found


def after(tau: float, *, entropy: float, target: float, vocab_size: int = VOCAB) -> float:
    """The temperature after a step at ``tau``."""
    rule = controlled(start=False, target_nats=target)
    rule.bind(run_facts(["p"], vocab_size=vocab_size, total_steps=480))
    rule.temperature(tau)
    return temperatures(rule, [entropy])[0]


def test_published_vectors() -> None:
    found = temperatures(controlled(), [0.4, 0.38, 0.36, 0.42, 0.30])
    assert found == pytest.approx([1.0, 1.003559, 1.010923, 1.007463, 1.027726], abs=1e-6)
    assert found[0] == 1.0


def test_depth_follows_the_vocabulary() -> None:
    for vocab_size, depth in ((151936, 14.4104), (152064, 14.4113)):
        found = after(1.0, entropy=0.4 / math.e, target=0.4, vocab_size=vocab_size)
        assert 1.0 / (found - 1.0) == pytest.approx(depth, abs=5e-5)


def test_change_is_quadratic_in_the_temperature() -> None:
    """tau * (1 + tau * ln(alpha) / D): at tau = 2 the change is four times that at tau = 1."""
    changes = [after(tau, entropy=0.38, target=0.4) - tau for tau in (0.5, 1.0, 2.0)]
    assert changes == pytest.approx([0.003559 / 4, 0.003559, 0.003559 * 4], abs=2e-6)


def test_target_is_the_mean_of_the_first_steps() -> None:
    rule = controlled(init_steps=3)
    assert temperatures(rule, [0.2, 0.4, 0.6]) == [1.0, 1.0, 1.0]
    assert rule.metrics()[TARGET] == pytest.approx(0.4)
    assert temperatures(rule, [0.38], first_step=4) == pytest.approx([1.003559], abs=1e-6)


def annealed(initial: float, *, steps: tuple[int, ...], total_steps: int, **options: float) -> list[float]:
    """The rule's target after each of these steps."""
    found = []
    for step in steps:
        rule = controlled(total_steps=total_steps, target_nats=initial, **options)
        rule.observe(outcome(step, [initial]))
        found.append(rule.metrics()[TARGET])
    return found


def test_annealing_factors() -> None:
    steps = (1, 287, 288, 336, 384, 432, 480, 500)
    found = annealed(1.0, steps=steps, total_steps=480, annealing_share=0.4, annealing_factor=0.9)
    assert found == pytest.approx([1.0, 1.0, 1.0, 0.98536, 0.95, 0.91464, 0.9, 0.9], abs=5e-6)
    # A third of 10 steps is cut to 3: from step 7.
    found = annealed(2.0, steps=(6, 7, 8, 9, 10), total_steps=10, annealing_share=1 / 3, annealing_factor=0.5)
    assert found == pytest.approx([2.0, 2.0, 1.75, 1.25, 1.0])


def test_new_target_acts_one_step_later() -> None:
    # Of 4 steps the last 2 are annealed: targets 0.4 after step 2, 0.38 after step 3, 0.36 after step 4.
    found = temperatures(controlled(total_steps=4, annealing_share=0.5), [0.4, 0.4, 0.4, 0.4])
    assert found[:3] == [1.0, 1.0, 1.0]
    assert found[3] == pytest.approx(1.0 + math.log(0.95) / DEPTH, abs=1e-6)


def test_entropy_is_the_mean_over_tokens() -> None:
    rule = controlled()
    rule.observe(outcome(1, [0.1, 0.7, 0.0], [3, 1, 0]))  # unweighted: 0.267, or 0.4 without the empty response
    assert rule.metrics()[TARGET] == pytest.approx(0.25)
    rule.observe(outcome(2, [0.1, 0.7], [1, 3]))  # 0.55
    assert rule.temperature(1.0) == pytest.approx(1.0 + math.log(0.25 / 0.55) / DEPTH, abs=1e-6)


@pytest.mark.parametrize(("entropies", "lengths"), [([], []), ([0.0, 0.0], [0, 0])])
def test_empty_step_changes_nothing(entropies: list[float], lengths: list[int]) -> None:
    rule = controlled()
    rule.observe(outcome(1, entropies, lengths))  # the target is still to be measured
    assert rule.temperature(1.0) == 1.0
    assert TARGET not in rule.metrics()
    assert temperatures(rule, [0.4, 0.38], first_step=2) == pytest.approx([1.0, 1.003559], abs=1e-6)
    rule.observe(outcome(4, entropies, lengths))
    assert rule.temperature(1.0) == pytest.approx(1.003559, abs=1e-6)
    assert rule.metrics()[TARGET] == 0.4
    assert temperatures(rule, [0.36], first_step=5) == pytest.approx([1.010923], abs=1e-6)


def test_bounds_hold_the_temperature_and_let_it_go_again() -> None:
    rule = controlled(max_temperature=1.005, min_temperature=0.999)
    found = temperatures(rule, [0.4, 0.38, 0.36, 0.42, 0.9, 0.38])
    from_above = 1.005 * (1.0 + 1.005 * math.log(0.4 / 0.42) / DEPTH)
    from_below = 0.999 * (1.0 + 0.999 * math.log(0.4 / 0.38) / DEPTH)
    assert found == pytest.approx([1.0, 1.003559, 1.005, from_above, 0.999, from_below], abs=1e-6)
    assert found[2] == 1.005 and found[4] == 0.999


def test_base_temperature_outside_the_bounds_is_cut() -> None:
    assert controlled(start=False, min_temperature=1.2).temperature(1.0) == 1.2
    assert controlled(start=False, max_temperature=0.8).temperature(1.0) == 0.8


def test_one_step_changes_the_temperature_by_a_factor_of_two_at_most() -> None:
    assert temperatures(controlled(), [0.4, 1e-300, 0.0, 1e300, 1e300]) == [1.0, 2.0, 4.0, 2.0, 1.0]
    assert temperatures(controlled(), [0.4] + [0.0] * 30)[-1] == 100.0  # what a sampler can use
    assert temperatures(controlled(), [0.4] + [1e300] * 30)[-1] == 0.01


def test_target_that_was_measured_on_a_deterministic_policy_holds_nothing() -> None:
    assert temperatures(controlled(), [0.0, 0.4, 0.0, 2.0]) == [1.0, 1.0, 1.0, 1.0]


def assert_usable(found: list[float]) -> None:
    assert all(math.isfinite(tau) and 0.01 <= tau <= 100.0 for tau in found)
    assert all(0.5 - 1e-12 <= after / before <= 2.0 + 1e-12 for before, after in itertools.pairwise([1.0, *found]))


@pytest.mark.parametrize("initial", [0.4, 0.0, 1e-300, 1e300])
def test_ten_thousand_adversarial_entropies(initial: float) -> None:
    rng = np.random.default_rng(2)
    hostile = rng.choice([0.0, 5e-324, 1e-300, 1e-12, 0.4, 12.0, 1e12, 1e300], size=2_500)
    hostile[::3] = 10.0 ** rng.uniform(-300, 300, size=len(hostile[::3]))
    assert_usable(temperatures(controlled(total_steps=2_000), [initial, *hostile.tolist()]))


@given(st.floats(0.05, 20.0), st.floats(1e-6, 12.0), st.floats(1e-6, 12.0))
@settings(max_examples=100, deadline=None)
def test_too_little_entropy_heats_and_too_much_cools(tau: float, entropy: float, target: float) -> None:
    found = after(tau, entropy=entropy, target=target)
    slack = tau * 1e-12  # rounding of the mean entropy
    assert found >= tau - slack if entropy <= target else found <= tau + slack
    assert after(tau, entropy=target, target=target) == pytest.approx(tau)


def test_state_saved_before_the_first_step_takes_the_configured_temperature() -> None:
    resumed = controlled(start=False)
    resumed.load_state_dict(controlled(start=False).state_dict())
    assert resumed.temperature(0.7) == 0.7
