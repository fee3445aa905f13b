"""The cost model's pure parts: the fit finds planted constants, and the simulation agrees with what is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.scale_model import validate
from benchmarks.scale_model_fit import PHASES, StepRow, costs_of, fit_phases, nonnegative_least_squares, read_run
from benchmarks.scale_model_gpu import Driver, Hardware, Model, costs, layout
from benchmarks.scale_model_pool import COLOCATE, SEPARATE, SYNC, Costs, Plan
from benchmarks.scale_model_sim import simulate

MODES = (SYNC, COLOCATE, SEPARATE)


def plan(mode: str, **changes: object) -> Plan:
    sizes = {"num_selected": 8, "rollouts_per_prompt": 4, "candidate_ratio": 5.0, "prompt_tokens": 10.0}
    return Plan(mode=mode, **(sizes | {"scores_prompts": False} | changes))  # type: ignore[arg-type]


def constant(tokens: int):
    return lambda _rng, size: np.full(size, tokens, dtype=np.int64)


def long_tailed(rng: np.random.Generator, size: int) -> np.ndarray:
    return np.ceil(np.exp(rng.normal(3.0, 1.2, size))).astype(np.int64)


# ---- the simulation against what is known --------------------------------------------------------------------------


def test_a_synchronous_step_is_the_sum_of_its_parts() -> None:
    seconds = Costs(
        prefill_s_per_token=0.01,
        iteration_s=0.5,
        sequence_s=0.01,
        train_fixed_s=3.0,
        train_s_per_token=0.002,
        sync_s=1.5,
        score_fixed_s=0.25,
        driver_s_per_candidate=0.2,
    )
    result = simulate(plan(SYNC, scores_prompts=True), seconds, constant(20), num_steps=3)
    scoring = 0.25 + 40 * 0.2  # the driver's requests take longer than the prefill of 40 x 10 tokens
    rolling_out = 32 * 10 * 0.01 + 20 * (0.5 + 32 * 0.01)
    training = 3.0 + 32 * (10 + 20) * 0.002
    for step in result.steps:
        assert step.seconds == pytest.approx(scoring + rolling_out + training + 1.5)
        assert step.scoring_s == pytest.approx(scoring)
        assert set(step.staleness) == {0}


def test_the_longest_response_ends_a_synchronous_generation() -> None:
    def one_long(_rng: np.random.Generator, size: int) -> np.ndarray:
        return np.array([100] + [10] * (size - 1))

    seconds = Costs(iteration_s=1.0, sequence_s=0.5)
    result = simulate(plan(SYNC, num_selected=1), seconds, one_long, num_steps=1)
    assert result.steps[0].seconds == pytest.approx(100 * 1.0 + (100 + 3 * 10) * 0.5)


@pytest.mark.parametrize(("train_s", "token_s"), [(100.0, 0.01), (10.0, 0.1), (64.0, 0.1)])
def test_separate_pools_take_as_long_as_the_slower_of_the_two(train_s: float, token_s: float) -> None:
    """A server that shares its work has a fixed throughput: a step's 32 x 20 tokens take 640 token times.

    Equal lengths make the three batches in flight finish in turns of three steps, so whole turns are averaged.
    """
    seconds = Costs(sequence_s=token_s, train_fixed_s=train_s)
    result = simulate(plan(SEPARATE, warmup_batches=2), seconds, constant(20), num_steps=33)
    assert result.mean("seconds", skip=12) == pytest.approx(max(train_s, 640 * token_s), rel=1e-6)


def test_a_trainer_that_is_faster_than_its_servers_waits_for_the_difference() -> None:
    result = simulate(plan(SEPARATE), Costs(sequence_s=0.1, train_fixed_s=16.0), constant(20), num_steps=30)
    assert result.mean("waiting_s", skip=10) == pytest.approx(64.0 - 16.0)
    assert result.mean("rollout_idle_frac", skip=10) == pytest.approx(0.0, abs=1e-9)


def test_servers_that_are_faster_than_the_trainer_idle_for_the_difference() -> None:
    result = simulate(plan(SEPARATE), Costs(sequence_s=0.1, train_fixed_s=256.0), constant(20), num_steps=30)
    assert result.mean("waiting_s", skip=10) == 0
    assert result.mean("rollout_idle_frac", skip=10) == pytest.approx(1 - 64 / 256)


def test_colocated_generation_stands_still_while_the_trainer_works() -> None:
    """Half of the groups wait in flight, and yet no work is overlapped: the same throughput as one after the other."""
    result = simulate(plan(COLOCATE), Costs(sequence_s=0.1, train_fixed_s=16.0), constant(20), num_steps=40)
    assert result.mean("seconds", skip=10) == pytest.approx(64.0 + 16.0, rel=1e-6)


def test_more_replicas_share_the_work() -> None:
    seconds = Costs(sequence_s=0.1)
    one, four = (simulate(plan(SYNC, num_replicas=n), seconds, constant(20), num_steps=2).steps[0] for n in (1, 4))
    assert one.seconds == pytest.approx(4 * four.seconds)


def test_a_server_without_a_free_place_lets_sequences_wait() -> None:
    seconds = Costs(iteration_s=1.0)
    result = simulate(plan(SYNC, max_sequences=8), seconds, constant(20), num_steps=1)
    assert result.steps[0].seconds == pytest.approx(32 / 8 * 20)


# ---- what must hold for every run ----------------------------------------------------------------------------------

runs = {
    "mode": st.sampled_from(MODES),
    "num_replicas": st.integers(1, 4),
    "max_staleness": st.integers(1, 4),
    "waits": st.booleans(),
    "warmup": st.integers(0, 3),
    "updates": st.sampled_from([1, 2, 4]),
    "train_s": st.floats(0, 50),
    "seed": st.integers(0, 2**16),
}


@settings(max_examples=40, deadline=None)
@given(**runs)  # type: ignore[arg-type]
def test_no_group_is_lost_doubled_or_too_stale(
    mode: str, num_replicas: int, max_staleness: int, waits: bool, warmup: int, updates: int, train_s: float, seed: int
) -> None:
    sizes = plan(
        mode,
        scores_prompts=True,
        num_replicas=num_replicas,
        max_sequences=16,
        max_staleness=max_staleness,
        waits_for_stale=waits and warmup < max_staleness,
        warmup_batches=warmup,
        updates_per_sync=updates,
    )
    seconds = Costs(prefill_s_per_token=1e-3, iteration_s=0.02, sequence_s=0.01, train_fixed_s=train_s, sync_s=0.1)
    result = simulate(sizes, seconds, long_tailed, num_steps=8, seed=seed)
    assert result.trained == 8 * 8 == sum(len(step.staleness) for step in result.steps)
    assert result.dispatched == result.trained + result.evicted + result.in_flight
    assert all(step.seconds > 0 and -1e-9 <= step.rollout_idle_frac <= 1 + 1e-9 for step in result.steps)
    spans = [staleness + 1 for step in result.steps for staleness in step.staleness]
    if mode == SYNC:
        assert set(spans) == {1} and result.evicted == 0
    elif not sizes.waits_for_stale:
        assert max(spans) <= max_staleness
    else:
        assert result.evicted == 0


def test_the_same_seed_repeats_the_same_run() -> None:
    seconds = Costs(iteration_s=0.1, train_fixed_s=3.0)
    again = [simulate(plan(SEPARATE), seconds, long_tailed, num_steps=5, seed=seed).steps for seed in (3, 3, 4)]
    assert again[0] == again[1] != again[2]


def test_a_batch_that_grows_with_the_cluster_costs_the_same_without_a_driver() -> None:
    """Weak scaling is perfect when nothing is serial; one slow driver breaks it."""

    def step_s(num_gpus: int, s_per_candidate: float) -> float:
        sizes = layout(SYNC, num_gpus, prompts_per_gpu=2)
        driver = Driver(s_per_candidate, 0.0)
        seconds = costs(sizes, num_gpus, Hardware(), Model(), driver, context=500)
        return simulate(sizes, seconds, constant(500), num_steps=3).mean("seconds", skip=1)

    assert step_s(64, 0.0) == pytest.approx(step_s(8, 0.0), rel=1e-6)
    # 10 candidates a GPU: from 80 to 640 requests of 0.1 s, less the prefill that they hide.
    assert step_s(64, 0.1) - step_s(8, 0.1) == pytest.approx(56.0, rel=0.01)


# ---- the fit -------------------------------------------------------------------------------------------------------

PLANTED = {
    "prompt_scoring": {"one": 0.05, "candidates": 0.003},
    "gen": {"one": 0.4, "rollouts": 0.008, "longest": 0.01, "response_tokens": 2e-4},
    "old_log_prob": {"one": 0.1, "tokens": 9e-5},
    "update_actor": {"one": 0.2, "tokens": 2e-4},
    "adv": {"one": 0.04, "rollouts": 7e-4},
    "update_weights": {"one": 0.03},
    "rest": {"one": 0.0, "rollouts": 4e-4},
}


def planted_rows(rng: np.random.Generator, num_rows: int, noise: float) -> list[StepRow]:
    rows = []
    for _ in range(num_rows):
        rollouts = float(rng.choice([32, 64, 128, 256]))
        mean = float(rng.uniform(10, 30))
        counts = {
            "one": 1.0,
            "candidates": float(rng.choice([40, 80, 160])),
            "rollouts": rollouts,
            "longest": mean * float(rng.uniform(1.2, 3)),
            "response_tokens": rollouts * mean,
            "tokens": rollouts * (mean + 45),
        }
        seconds = {
            phase: sum(value * counts[name] for name, value in row.items()) * float(np.exp(noise * rng.normal()))
            for phase, row in PLANTED.items()
        }
        rows.append(StepRow(counts, seconds))
    return rows


def test_the_fit_recovers_planted_constants() -> None:
    fit = fit_phases(planted_rows(np.random.default_rng(0), 60, noise=0.0))
    for phase, row in PLANTED.items():
        assert fit[phase] == pytest.approx(row, rel=1e-6, abs=1e-12), phase


def test_the_fit_stands_noise() -> None:
    fit = fit_phases(planted_rows(np.random.default_rng(1), 400, noise=0.1))
    assert fit["update_actor"]["tokens"] == pytest.approx(2e-4, rel=0.05)
    assert fit["prompt_scoring"]["candidates"] == pytest.approx(0.003, rel=0.05)
    assert fit["gen"]["rollouts"] == pytest.approx(0.008, rel=0.2)


def test_constants_are_never_negative() -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        x, y = rng.normal(size=(12, 3)), rng.normal(size=12)
        solved = nonnegative_least_squares(x, y)
        assert (solved >= 0).all()
        # No neighbour that is still allowed is better: the conditions of Karush, Kuhn and Tucker.
        gradient = x.T @ (x @ solved - y)
        assert (gradient >= -1e-8).all()
        assert abs(gradient @ solved) < 1e-8


def test_a_phase_that_never_ran_gets_no_constants() -> None:
    rows = planted_rows(np.random.default_rng(3), 20, noise=0.0)
    for row in rows:
        row.seconds["prompt_scoring"] = 0.0
    fit = fit_phases(rows)
    assert "prompt_scoring" not in fit
    assert costs_of(fit).driver_s_per_candidate == 0.0


def write_run(folder: Path, num_selected: int, rollouts_per_prompt: int, *, mode: str = "prepo_sync") -> Path:
    """A run directory whose steps take exactly what the planted constants say."""
    (folder / "audit").mkdir(parents=True)
    config = {
        "data": {"train_batch_size": num_selected},
        "actor_rollout_ref": {"rollout": {"n": rollouts_per_prompt}},
        "prepo": {"candidate_ratio": 5},
        "trainer": {"v1": {"trainer_mode": mode}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rollouts = num_selected * rollouts_per_prompt
    lines = []
    for step in range(6):
        tokens = 20 + step
        counts = {
            "one": 1.0,
            "candidates": 5.0 * num_selected,
            "rollouts": rollouts,
            "longest": tokens,
            "response_tokens": rollouts * tokens,
            "tokens": rollouts * (tokens + 45),
        }
        seconds = {phase: sum(value * counts[name] for name, value in row.items()) for phase, row in PLANTED.items()}
        data = {f"timing_s/{phase}": value for phase, value in seconds.items() if phase != "rest"}
        data |= {"timing_s/step": sum(seconds.values()), "prepo/rollouts/sum": rollouts}
        data |= {"prepo/candidates/sum": 5 * num_selected, "response_length/max": tokens, "prompt_length/mean": 45}
        data |= {"response_length/mean": tokens, "perf/total_num_tokens": rollouts * (tokens + 45)}
        lines.append(json.dumps({"step": step + 1, "data": data}) + "\n")
    (folder / "metrics.jsonl").write_text("".join(lines))
    (folder / "audit" / "rollouts.jsonl").write_text(
        "".join(f'{{"num_tokens": {20 + step}}}\n' for step in range(2, 6))
    )
    return folder


def test_a_held_out_run_is_predicted_from_the_others(tmp_path: Path) -> None:
    fitted = [read_run(write_run(tmp_path / f"{k}x{m}", k, m)) for k, m in ((8, 4), (16, 8), (32, 8))]
    held_out = [read_run(write_run(tmp_path / "held", 24, 6))]
    assert held_out[0].plan.num_candidates == 120 and len(held_out[0].rows) == 4
    rows = {row["run"]: row for row in validate(fitted, held_out)}
    assert rows["held"]["held_out"] and not rows["8x4"]["held_out"]
    # Its responses have mixed lengths in the simulation, so that the longest is longer than the median step's.
    assert abs(rows["held"]["error_frac"]) < 0.03


def test_a_run_of_another_mode_or_without_steps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fitted to prepo_sync runs only"):
        read_run(write_run(tmp_path / "async", 8, 4, mode="prepo_separate_async"))
    short = write_run(tmp_path / "short", 8, 4)
    (short / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match="no step after the first 2"):
        read_run(short)


def test_every_phase_is_planted() -> None:
    assert {phase: set(row) for phase, row in PLANTED.items()} == {phase: set(row) for phase, row in PHASES.items()}
