"""E3's temperature control (arXiv 2505.18573): the published vectors, its bounds, and what a resumed run does."""

import math

import pytest
from simulated_run import batch_of, make_rule

from recipe.prepo.rules.temperature.entropy_target import TARGET
from recipe.prepo.types import StepOutcome

VOCAB = 151936  # DeepSeek-R1-Distill-Qwen-1.5B
DEPTH = 14.4104  # ln V + ln ln V


def controlled(*, vocab_size=VOCAB, total_steps=480, base=1.0, **options):
    facts = {"vocab_size": vocab_size, "total_steps": total_steps}
    rule = make_rule("temperature", "entropy_target", ["p"], facts=facts, **options)
    rule.temperature(base)
    return rule


def observe(rule, step, entropies, lengths=5):
    batch = batch_of(["p"] * len(entropies), [0.0] * len(entropies), tokens=lengths, entropy=entropies)
    rule.observe(StepOutcome(trained=batch, discarded=(), step=step))


def temperatures(rule, entropies, *, first_step=1):
    """The temperature of the step after each."""
    found = []
    for step, entropy in enumerate(entropies, start=first_step):
        observe(rule, step, [entropy])
        found.append(rule.temperature(1.0))
    return found


def after(tau, *, entropy, target, vocab_size=VOCAB):
    """The temperature after a step at ``tau``."""
    return temperatures(controlled(base=tau, target_nats=target, vocab_size=vocab_size), [entropy])[0]


def test_published_vectors():
    found = temperatures(controlled(), [0.4, 0.38, 0.36, 0.42, 0.30])
    assert found == pytest.approx([1.0, 1.003559, 1.010923, 1.007463, 1.027726], abs=1e-6)


def test_change_is_quadratic_in_the_temperature_and_its_depth_follows_the_vocabulary():
    """tau * (1 + tau * ln(alpha) / D): at tau = 2 the change is four times that at tau = 1."""
    changes = [after(tau, entropy=0.38, target=0.4) - tau for tau in (0.5, 1.0, 2.0)]
    assert changes == pytest.approx([0.003559 / 4, 0.003559, 0.003559 * 4], abs=2e-6)
    found = after(1.0, entropy=0.4 / math.e, target=0.4, vocab_size=152064)
    assert 1.0 / (found - 1.0) == pytest.approx(14.4113, abs=5e-5)


def test_target_is_the_mean_of_the_first_steps():
    rule = controlled(init_steps=3)
    assert temperatures(rule, [0.2, 0.4, 0.6]) == [1.0, 1.0, 1.0]
    assert rule.metrics()[TARGET] == pytest.approx(0.4)
    assert temperatures(rule, [0.38], first_step=4) == pytest.approx([1.003559], abs=1e-6)


def annealed(initial, *, steps, total_steps, **options):
    """The rule's target after each of these steps."""
    found = []
    for step in steps:
        rule = controlled(total_steps=total_steps, target_nats=initial, **options)
        observe(rule, step, [initial])
        found.append(rule.metrics()[TARGET])
    return found


def test_annealing_factors():
    steps = (1, 287, 288, 336, 384, 432, 480, 500)
    found = annealed(1.0, steps=steps, total_steps=480, annealing_share=0.4, annealing_factor=0.9)
    assert found == pytest.approx([1.0, 1.0, 1.0, 0.98536, 0.95, 0.91464, 0.9, 0.9], abs=5e-6)
    # A third of 10 steps is cut to 3: from step 7.
    found = annealed(2.0, steps=(6, 7, 8, 9, 10), total_steps=10, annealing_share=1 / 3, annealing_factor=0.5)
    assert found == pytest.approx([2.0, 2.0, 1.75, 1.25, 1.0])
    # A new target acts one step later. Of 4 steps the last 2 are annealed: 0.4 after step 2, 0.38 after step 3.
    found = temperatures(controlled(total_steps=4, annealing_share=0.5), [0.4] * 4)
    assert found == pytest.approx([1.0, 1.0, 1.0, 1.0 + math.log(0.95) / DEPTH], abs=1e-6)


def test_entropy_is_the_mean_over_tokens():
    rule = controlled()
    observe(rule, 1, [0.1, 0.7, 0.0], [3, 1, 0])  # unweighted: 0.267, or 0.4 without the empty response
    assert rule.metrics()[TARGET] == pytest.approx(0.25)
    observe(rule, 2, [0.1, 0.7], [1, 3])  # 0.55
    assert rule.temperature(1.0) == pytest.approx(1.0 + math.log(0.25 / 0.55) / DEPTH, abs=1e-6)


@pytest.mark.parametrize(("entropies", "lengths"), [([], []), ([0.0, 0.0], [0, 0])])
def test_empty_step_changes_nothing(entropies, lengths):
    rule = controlled()
    observe(rule, 1, entropies, lengths)  # the target is still to be measured
    assert rule.temperature(1.0) == 1.0 and TARGET not in rule.metrics()
    assert temperatures(rule, [0.4, 0.38], first_step=2) == pytest.approx([1.0, 1.003559], abs=1e-6)
    observe(rule, 4, entropies, lengths)
    assert rule.temperature(1.0) == pytest.approx(1.003559, abs=1e-6)
    assert temperatures(rule, [0.36], first_step=5) == pytest.approx([1.010923], abs=1e-6)


def test_bounds_hold_the_temperature_and_let_it_go_again():
    rule = controlled(max_temperature=1.005, min_temperature=0.999)
    found = temperatures(rule, [0.4, 0.38, 0.36, 0.42, 0.9, 0.38])
    from_above = 1.005 * (1.0 + 1.005 * math.log(0.4 / 0.42) / DEPTH)
    from_below = 0.999 * (1.0 + 0.999 * math.log(0.4 / 0.38) / DEPTH)
    assert found == pytest.approx([1.0, 1.003559, 1.005, from_above, 0.999, from_below], abs=1e-6)
    # A base temperature outside of them is cut.
    assert controlled(base=1.0, min_temperature=1.2).temperature(1.0) == 1.2
    assert controlled(base=1.0, max_temperature=0.8).temperature(1.0) == 0.8


def test_one_step_changes_the_temperature_by_a_factor_of_two_at_most():
    assert temperatures(controlled(), [0.4, 1e-300, 0.0, 1e300, 1e300]) == [1.0, 2.0, 4.0, 2.0, 1.0]
    assert temperatures(controlled(), [0.4] + [0.0] * 30)[-1] == 100.0  # what a sampler can use
    assert temperatures(controlled(), [0.4] + [1e300] * 30)[-1] == 0.01
    # A target that was measured on a deterministic policy holds nothing.
    assert temperatures(controlled(), [0.0, 0.4, 0.0, 2.0]) == [1.0] * 4


def test_state_saved_before_the_first_step_takes_the_configured_temperature():
    fresh, resumed = (make_rule("temperature", "entropy_target", ["p"]) for _ in range(2))
    resumed.load_state_dict(fresh.state_dict())
    assert resumed.temperature(0.7) == 0.7
