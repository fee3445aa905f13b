"""Composes the rules of a run. Any trainer can drive it; it knows nothing of verl, Ray or torch.

A step calls ``select`` (once or more), generates the rollouts, then calls ``weigh``, ``shape`` and ``finish_step``.
State changes only in these calls, all of which happen before the step's checkpoint is written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recipe.prepo.candidates import Pool, ScoreStore
from recipe.prepo.errors import NumericsError, StateError
from recipe.prepo.maths.correctness import correctness
from recipe.prepo.maths.rng import make_generator
from recipe.prepo.metrics import rollout_metrics, selection_metrics
from recipe.prepo.reward_scale import RewardScale
from recipe.prepo.rules.base import BudgetRule, SelectionRule, ShapingRule, Stateful, TemperatureRule, WeightingRule
from recipe.prepo.rules.registry import build_rule
from recipe.prepo.types import (
    Candidates,
    Decision,
    FloatArray,
    IntArray,
    Refill,
    RolloutBatch,
    RunFacts,
    Selection,
    StepOutcome,
    concatenate_rollouts,
)

RECORDED_OTHERS = 4
"""The audit line of a choice from a pool records this many other candidates for each chosen one."""


def training_progress(step: int, total_steps: int) -> float:
    """Progress rho in [0, 1] of a 1-based step: ``(step - 1) / (total_steps - 1)``; 0 for a single-step run.

    >>> [training_progress(s, 5) for s in (1, 3, 5)], training_progress(1, 1)
    ([0.0, 0.5, 1.0], 0.0)
    """
    return 0.0 if total_steps == 1 else min(1.0, (step - 1) / (total_steps - 1))


@dataclass(frozen=True)
class RunIdentity:
    """What must be equal for a resumed run to make the same choices."""

    seed: int
    num_selected: int
    num_candidates: int | None  # None: all prompts of the data
    data_sha256: str
    correct_above: float | None = None
    reward_range: list[float] | None = None
    # Where scores are kept; else None.
    score_ratio: float | None = None
    rescore_after: int | None = None
    model: str | None = None


class Controller:
    """Chooses prompts, weighs rollouts, counts their cost, and reports all of it.

    Args:
        rules: options of each rule group, with the rule's ``name``.
        base_temperature: the configured sampling temperature.
        pool: the candidates of every choice, if they are not drawn from the data in turn.

    Attributes:
        scores: the scores of the candidates, where they are kept.
    """

    def __init__(
        self,
        rules: Mapping[str, Mapping[str, Any]],
        *,
        identity: RunIdentity,
        run: RunFacts,
        base_temperature: float,
        pool: Pool | None = None,
    ) -> None:
        self.identity = identity
        self.run = run = replace(run, grades_correctness=identity.reward_range is not None)
        self.base_temperature = base_temperature
        self.pool = pool
        self.scores = None
        if identity.rescore_after is not None:
            self.scores = ScoreStore(len(run.prompts), rescore_after=identity.rescore_after)
        self._options = {group: dict(options) for group, options in rules.items()}
        self._rules: dict[str, Any] = {
            group: build_rule(group, options, seed=identity.seed) for group, options in rules.items()
        }
        for rule in self._rules.values():
            rule.bind(run)
        self.selection: SelectionRule = self._rules["selection"]
        self.weighting: WeightingRule = self._rules["weighting"]
        self.budget: BudgetRule = self._rules["budget"]
        self.temperature: TemperatureRule = self._rules["temperature"]
        self.shaping: ShapingRule = self._rules["shaping"]
        self.rollouts_total = self.response_tokens_total = 0
        self.remark = ""
        """What the user should know about the rewards of the last step; most often empty."""
        self._reward_scale = RewardScale(
            correct_above=identity.correct_above,
            reward_range=identity.reward_range,
            is_learned=any(rule.reads_correctness for rule in self._rules.values()),
        )
        kept: dict[str, Stateful | None] = {"scores": self.scores, "pool": pool}
        self._kept = {name: part for name, part in kept.items() if part is not None}
        self._decisions: list[Decision] = []

    def num_candidates_for(self, num_selected: int) -> int:
        """Candidates to draw for a choice of ``num_selected`` prompts, in the ratio |B| / K of the whole batch."""
        if not self.selection.uses_candidates or self.identity.num_candidates is None:
            return num_selected
        return max(num_selected, round(num_selected * self.identity.num_candidates / self.identity.num_selected))

    @property
    def first_round(self) -> int:
        """Prompts that a step asks for first: K, or more if groups are discarded and refilled."""
        return self.selection.first_round(self.identity.num_selected)

    def next_round(self, num_missing: int, *, zero_variance_frac: float, refills: tuple[Refill, ...]) -> Refill | None:
        """The next round of a step that lacks ``num_missing`` groups; see ``SkippingRule.next_round``."""
        sizes = {"zero_variance_frac": zero_variance_frac, "num_selected": self.identity.num_selected}
        refill: Refill | None = self._rules["selection"].next_round(num_missing, refills=refills, **sizes)
        return refill

    def with_scores(
        self, prompt_ids: tuple[str, ...], *, num_selected: int, step: int, score: Callable[[IntArray], Candidates]
    ) -> tuple[Candidates, IntArray]:
        """The candidates of a choice with their scores, and their places in ``prompt_ids``.

        Where scores are kept, prompts without one are no candidates of a rule that needs them, unless the rule
        ``takes_unscored``. So the candidates grow by what each step scores. NumericsError: a score is not finite.
        """
        places_C = np.arange(len(prompt_ids))
        if self.scores is None:
            return score(places_C), places_C
        rows_C = self.run.prompts.rows(prompt_ids)
        budget = max(num_selected, round(num_selected * (self.identity.score_ratio or 1.0)))
        due = self.scores.due(rows_C, step=step, budget=budget)
        if due.size:
            scored = score(due)
            _require_finite(scored.ppl_C, scored.prompt_ids, "prompt perplexity", step)
            self.scores.update(rows_C[due], scored, step=step)
        view = self.scores.view(rows_C, step=step)
        candidates = Candidates(prompt_ids, **view)
        if self.selection.needs_scores and not self.selection.takes_unscored:
            places_C = np.flatnonzero(view["score_age_steps_C"] >= 0)
            candidates = candidates.take(places_C) if len(places_C) < len(prompt_ids) else candidates
        return candidates, places_C

    def select(self, candidates: Candidates, *, num_selected: int, step: int) -> Decision:
        """Choose prompts, their group sizes and the temperature. NumericsError: a perplexity is not finite."""
        if self.scores is None:
            _require_finite(candidates.ppl_C, candidates.prompt_ids, "prompt perplexity", step)
        progress = training_progress(step, self.run.total_steps)
        selection = self.selection.select(candidates, num_selected=num_selected, progress=progress)
        assert len(selection.indices_P) == num_selected
        return self._decide(candidates, selection, progress=progress, step=step)

    def select_from_stream(self, draw: Callable[[int], Sequence[str]], *, num_selected: int, step: int) -> Decision:
        """For rules that skip prompts: ``draw`` ids until ``num_selected`` different ones are kept."""
        progress = training_progress(step, self.run.total_steps)
        ids: list[str] = []
        chosen: dict[str, int] = {}
        reasons: dict[int, str] = {}
        parts: list[Mapping[str, Any]] = []
        while len(chosen) < num_selected:
            start = len(ids)
            ids.extend(draw(num_selected - len(chosen)))
            drawn = Candidates(tuple(ids[start:]))
            part = self.selection.select(drawn, num_selected=len(drawn), progress=progress)
            reasons |= {start + i: reason for i, reason in part.skip_reasons.items()}
            parts.append(part.details)
            for i in (part.indices_P + start).tolist():
                if chosen.setdefault(ids[i], i) != i:  # the data came to their end within this choice
                    reasons[i] = "chosen_already"
        details = {
            name: np.concatenate([part[name] for part in parts]) if isinstance(value, np.ndarray) else value
            for name, value in parts[-1].items()
        }
        selection = Selection(np.array(list(chosen.values()), dtype=np.int64), dict(sorted(reasons.items())), details)
        return self._decide(Candidates(tuple(ids)), selection, progress=progress, step=step)

    def _decide(self, candidates: Candidates, selection: Selection, *, progress: float, step: int) -> Decision:
        chosen = selection.indices_P.tolist()
        assert len(set(chosen)) == len(chosen), "a rule must choose different candidates"
        for name, detail in selection.details.items():
            assert np.shape(detail) in ((), (len(candidates),)), f"{name} must be a scalar or have shape [C]"
        prompt_ids = tuple(candidates.prompt_ids[i] for i in chosen)
        decision = Decision(
            candidates=candidates,
            selection=selection,
            rollout_n_P=self.budget.allocate(prompt_ids, rollouts_per_prompt=self.run.rollouts_per_prompt),
            progress=progress,
            temperature=self.temperature.temperature(self.base_temperature),
            step=step,
            call=len(self._decisions),
            rule=str(self._options["selection"]["name"]),
            recorded_C=None if self.pool is None else self._recorded(selection, len(candidates), step),
        )
        if self.pool is not None:
            self.pool.note_chosen(self.run.prompts.rows(prompt_ids), step=step)
        self._decisions.append(decision)
        return decision

    def _recorded(self, selection: Selection, num_candidates: int, step: int) -> IntArray | None:
        """The chosen candidates of a pool and, at random, 4 K others; None for all of them."""
        rest = np.delete(np.arange(num_candidates), selection.indices_P)
        if len(rest) <= (num_others := RECORDED_OTHERS * len(selection.indices_P)):
            return None
        generator = make_generator(self.identity.seed, f"audit.{step}.{len(self._decisions)}")
        others = generator.choice(rest, num_others, replace=False, shuffle=False)
        return np.sort(np.concatenate([selection.indices_P, others]))

    def weigh(self, rollouts: RolloutBatch, *, step: int) -> FloatArray:
        """Weights of the step's rollouts, shape [R]. NumericsError: an entropy is not finite."""
        _require_finite(rollouts.entropy_nats_R, rollouts.prompt_ids, "rollout entropy", step)
        weight_R = self.weighting.weigh(rollouts)
        assert weight_R.shape == (len(rollouts),) and np.isfinite(weight_R).all() and (weight_R >= 0).all()
        return weight_R

    def shape(self, rollouts: RolloutBatch) -> FloatArray:
        """Rewards for the advantages, shape [R]."""
        shaped_R = self.shaping.shape(self._judged(rollouts))
        assert shaped_R.shape == (len(rollouts),) and np.isfinite(shaped_R).all()
        return shaped_R

    def finish_step(
        self,
        rollouts: RolloutBatch,
        weight_R: FloatArray,
        *,
        step: int,
        shaped_R: FloatArray | None = None,
        discarded: Sequence[RolloutBatch] = (),
    ) -> dict[str, float]:
        """Show the outcome to the rules, count its cost, and return the step's metrics.

        A rollout is one generated response. It counts when its prompt is dispatched, so discarded ones count too.

        Args:
            rollouts: those that are trained on, with their weights and, if rewards are shaped, their shaped rewards.
            discarded: groups that were rolled out and then discarded.
        """
        rollouts, discarded = self._judged(rollouts), [self._judged(batch) for batch in discarded]
        self.remark = self._reward_scale.observe(concatenate_rollouts([*discarded, rollouts]))
        num_rollouts = sum(int(decision.rollout_n_P.sum()) for decision in self._decisions)
        self.rollouts_total += num_rollouts
        self.response_tokens_total += sum(int(batch.num_tokens_R.sum()) for batch in (rollouts, *discarded))
        metrics = selection_metrics(self._decisions) | rollout_metrics(rollouts, weight_R, shaped_R, discarded)
        metrics |= {
            "prepo/rollouts/sum": float(num_rollouts),
            "prepo/rollouts_total/max": float(self.rollouts_total),
            "prepo/response_tokens_total/max": float(self.response_tokens_total),
        }
        outcome = StepOutcome(trained=rollouts, discarded=tuple(discarded), step=step)
        for rule in self._rules.values():
            rule.observe(outcome)
            metrics.update(rule.metrics())
        if self.scores is not None:
            metrics |= self.scores.metrics()
        if self.pool is not None:
            self.pool.note_returned(outcome.prompts(self.run.prompts).rows_G, step=step)
        self._decisions.clear()
        return metrics

    def _judged(self, rollouts: RolloutBatch) -> RolloutBatch:
        """The rollouts with their correctness by this run's definition."""
        above, ends = self.identity.correct_above, self.identity.reward_range
        correct_R = correctness(rollouts.reward_R, rollouts.acc_R, correct_above=above, reward_range=ends)
        return replace(rollouts, correct_R=correct_R)

    def state_dict(self) -> dict[str, Any]:
        """State as JSON values and NumPy arrays; the trainer keeps ``step`` and verl's own state."""
        return {
            "identity": {name: value for name, value in vars(self.identity).items() if value is not None},
            "options": self._options,
            "totals": {"rollouts": self.rollouts_total, "response_tokens": self.response_tokens_total},
            "reward_scale": self._reward_scale.state_dict(),
            "rules": {group: rule.state_dict() for group, rule in self._rules.items()},
            **{name: part.state_dict() for name, part in self._kept.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state. StateError: it is of another run (:func:`require_same_run`), or does not fit."""
        require_same_run(state, identity=vars(self.identity), options=self._options)
        part = "totals"
        try:
            totals, rules = state["totals"], state["rules"]
            self.rollouts_total, self.response_tokens_total = int(totals["rollouts"]), int(totals["response_tokens"])
            for group, rule in self._rules.items():
                part = f"prepo.{group}"
                rule.load_state_dict(rules[group])
            part = "the rewards"
            if "reward_scale" in state:  # not before version 0.2
                self._reward_scale.load_state_dict(state["reward_scale"])
            for part, stateful in self._kept.items():
                stateful.load_state_dict(state[part])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise StateError(f"the saved state of {part} cannot be read: {type(error).__name__}: {error}") from error


def require_same_run(
    state: Mapping[str, Any], *, identity: Mapping[str, Any], options: Mapping[str, Mapping[str, Any]]
) -> None:
    """Refuse a saved state from which a resumed run could not make the same choices, with a StateError.

    Args:
        identity: fields of :class:`RunIdentity` (those that are known before the data are read).
        options: options of each rule group.
    """
    names = {group: (state["options"].get(group, {}).get("name"), now["name"]) for group, now in options.items()}
    other = {group: pair for group, pair in names.items() if pair[0] != pair[1]}
    then, here = (" ".join(f"prepo/{group}={pair[i]}" for group, pair in other.items()) for i in (0, 1))
    parts = [(f"prepo.{group}", state["options"].get(group, {}), now) for group, now in options.items()]
    for part, saved, now in [("run", state["identity"], identity), *parts] if not other else ():
        for key in sorted(now):
            # A resumed run has what it took from a warm start, so another folder changes nothing.
            same = (lambda value: value is None) if key == "warm_start" else (lambda value: value)
            if same(saved.get(key)) != same(now[key]) and not then:
                then, here = f"{part}.{key}={saved.get(key)!r}", repr(now[key])
    if then:
        raise StateError(
            f"the checkpoint was written with {then}, this run has {here}: a resumed run could not make the same "
            f"choices. Use the same setting, or start over in a new directory (trainer.experiment_name=<new name>)."
        )


def data_fingerprint(prompt_ids: Iterable[str]) -> str:
    """SHA-256 of a data set's prompt ids in order."""
    digest = hashlib.sha256()
    for prompt_id in prompt_ids:
        digest.update(json.dumps(prompt_id).encode() + b"\n")
    return digest.hexdigest()


def _require_finite(values: FloatArray | None, prompt_ids: Sequence[str], what: str, step: int) -> None:
    bad: Any = () if values is None else np.flatnonzero(~np.isfinite(values))
    if values is not None and len(bad):
        raise NumericsError(
            f"step {step}: the {what} of prompt {prompt_ids[bad[0]]!r} is {values[bad[0]]}, and {len(bad)} of "
            f"{len(values)} are not finite. The weights or the rollout server's numerics have broken down. Resume from "
            f"the last checkpoint with a smaller actor_rollout_ref.actor.optim.lr, or remove that prompt."
        )
