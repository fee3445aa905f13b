"""Composes the rules of a run. Any trainer can drive it; it knows nothing of verl, Ray or torch.

A step calls ``select`` (once or more), generates the rollouts, then calls ``weigh``, ``shape`` and ``finish_step``.
State changes only in these calls, all of which happen before the step's checkpoint is written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from recipe.prepo.errors import NumericsError, StateError
from recipe.prepo.maths.correctness import correctness
from recipe.prepo.metrics import rollout_metrics, selection_metrics
from recipe.prepo.reward_scale import RewardScale
from recipe.prepo.rules.base import (
    BudgetRule,
    Rule,
    SelectionRule,
    ShapingRule,
    SkippingRule,
    TemperatureRule,
    WeightingRule,
)
from recipe.prepo.rules.registry import build_rule
from recipe.prepo.types import (
    Candidates,
    Decision,
    FloatArray,
    Refill,
    RolloutBatch,
    RunFacts,
    Selection,
    StepOutcome,
    concatenate_rollouts,
)


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
    num_candidates: int
    data_sha256: str
    correct_above: float | None = None
    reward_range: list[float] | None = None


class Controller:
    """Chooses prompts, weighs rollouts, counts their cost, and reports all of it.

    Args:
        rules: options of each rule group, with the rule's ``name``.
        base_temperature: the configured sampling temperature.

    Raises:
        ConfigError: an unknown rule or option.
    """

    def __init__(
        self, rules: Mapping[str, Mapping[str, Any]], *, identity: RunIdentity, run: RunFacts, base_temperature: float
    ) -> None:
        self.identity = identity
        self.run = run = replace(run, grades_correctness=identity.reward_range is not None)
        self.base_temperature = base_temperature
        self._options = {group: dict(options) for group, options in rules.items()}
        self._rules: dict[str, Rule] = {}
        for group, options in rules.items():
            self._rules[group] = build_rule(group, options, seed=identity.seed)
            self._rules[group].bind(run)
        self.selection = cast(SelectionRule, self._rules["selection"])
        self.weighting = cast(WeightingRule, self._rules["weighting"])
        self.budget = cast(BudgetRule, self._rules["budget"])
        self.temperature = cast(TemperatureRule, self._rules["temperature"])
        self.shaping = cast(ShapingRule, self._rules["shaping"])
        self.rollouts_total = 0
        self.response_tokens_total = 0
        self.remark = ""
        """What the user should know about the rewards of the last step; most often empty."""
        self._reward_scale = RewardScale(
            correct_above=identity.correct_above,
            reward_range=identity.reward_range,
            is_learned=any(rule.reads_correctness for rule in self._rules.values()),
        )
        self._decisions: list[Decision] = []

    def num_candidates_for(self, num_selected: int) -> int:
        """Candidates to draw for a choice of ``num_selected`` prompts, in the ratio |B| / K of the whole batch."""
        if not self.selection.uses_candidates:
            return num_selected
        return max(num_selected, round(num_selected * self.identity.num_candidates / self.identity.num_selected))

    @property
    def first_round(self) -> int:
        """Prompts that a step asks for first: K, or more if groups are discarded and refilled."""
        return self.selection.first_round(self.identity.num_selected)

    def next_round(self, num_missing: int, *, zero_variance_frac: float, refills: tuple[Refill, ...]) -> Refill | None:
        """The next round of a step that lacks ``num_missing`` groups; see :class:`SkippingRule`."""
        assert isinstance(self.selection, SkippingRule)
        num_selected = self.identity.num_selected
        return self.selection.next_round(
            num_missing, zero_variance_frac=zero_variance_frac, num_selected=num_selected, refills=refills
        )

    def select(self, candidates: Candidates, *, num_selected: int, step: int) -> Decision:
        """Choose prompts among these candidates, their group sizes and the step's temperature.

        Raises:
            NumericsError: the perplexity of a candidate is not finite; names the prompt.
        """
        if candidates.ppl_C is not None:
            _require_finite(candidates.ppl_C, candidates.prompt_ids, "prompt perplexity", step)
        progress = training_progress(step, self.run.total_steps)
        selection = self.selection.select(candidates, num_selected=num_selected, progress=progress)
        assert len(selection.indices_P) == num_selected
        return self._decide(candidates, selection, progress=progress, step=step)

    def select_from_stream(self, draw: Callable[[int], Sequence[str]], *, num_selected: int, step: int) -> Decision:
        """For rules that skip prompts: draw from the data until ``num_selected`` different prompts are kept.

        Args:
            draw: returns the ids of that many further prompts of the data.
        """
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
        )
        self._decisions.append(decision)
        return decision

    def weigh(self, rollouts: RolloutBatch, *, step: int) -> FloatArray:
        """Weights of the step's rollouts, shape [R].

        Raises:
            NumericsError: the entropy of a rollout is not finite; names the prompt.
        """
        if rollouts.entropy_nats_R is not None:
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
            rollouts: the rollouts that are trained on, with their weights ``weight_R`` and, if rewards are shaped,
                their shaped rewards ``shaped_R``.
            discarded: groups that were rolled out and then discarded.
        """
        rollouts, discarded = self._judged(rollouts), [self._judged(batch) for batch in discarded]
        self.remark = self._reward_scale.observe(concatenate_rollouts([*discarded, rollouts]))
        num_rollouts = sum(int(decision.rollout_n_P.sum()) for decision in self._decisions)
        self.rollouts_total += num_rollouts
        self.response_tokens_total += sum(int(batch.num_tokens_R.sum()) for batch in (rollouts, *discarded))
        metrics = selection_metrics(self._decisions) | rollout_metrics(rollouts, weight_R, shaped_R, discarded)
        metrics["prepo/rollouts/sum"] = float(num_rollouts)
        metrics["prepo/rollouts_total/max"] = float(self.rollouts_total)
        metrics["prepo/response_tokens_total/max"] = float(self.response_tokens_total)
        outcome = StepOutcome(trained=rollouts, discarded=tuple(discarded), step=step)
        for rule in self._rules.values():
            rule.observe(outcome)
            metrics.update(rule.metrics())
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
            "identity": vars(self.identity),
            "options": self._options,
            "totals": {"rollouts": self.rollouts_total, "response_tokens": self.response_tokens_total},
            "reward_scale": self._reward_scale.state_dict(),
            "rules": {group: rule.state_dict() for group, rule in self._rules.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state.

        Raises:
            StateError: the state is from another data set, size, seed or rule, or its content does not fit.
        """
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
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise StateError(f"the saved state of {part} cannot be read: {type(error).__name__}: {error}") from error


def require_same_run(
    state: Mapping[str, Any], *, identity: Mapping[str, Any], options: Mapping[str, Mapping[str, Any]]
) -> None:
    """Refuse a saved state from which a resumed run could not make the same choices.

    ``identity`` has fields of :class:`RunIdentity` (those that are known before the data are read), ``options`` the
    options of each rule group.

    Raises:
        StateError: names the rules where they differ, else the first difference.
    """
    same = (
        "a resumed run could not make the same choices. Use the same setting, or start over in a new directory "
        "(trainer.experiment_name=<new name>)."
    )
    names = {group: (state["options"].get(group, {}).get("name"), now["name"]) for group, now in options.items()}
    other = {group: pair for group, pair in names.items() if pair[0] != pair[1]}
    if other:
        then, here = (" ".join(f"prepo/{group}={pair[i]}" for group, pair in other.items()) for i in (0, 1))
        raise StateError(f"the checkpoint was written with {then}, this run has {here}: {same}")
    parts = [(f"prepo.{group}", state["options"].get(group, {}), now) for group, now in options.items()]
    for part, saved, now in [("run", state["identity"], identity), *parts]:
        for key in sorted(now):
            if saved.get(key) != now[key]:
                raise StateError(
                    f"the checkpoint was written with {part}.{key}={saved.get(key)!r}, this run has {now[key]!r}: "
                    f"{same}"
                )


def data_fingerprint(prompt_ids: Iterable[str]) -> str:
    """SHA-256 of a data set's prompt ids in order."""
    digest = hashlib.sha256()
    for prompt_id in prompt_ids:
        digest.update(json.dumps(prompt_id).encode() + b"\n")
    return digest.hexdigest()


def _require_finite(values: FloatArray, prompt_ids: Sequence[str], what: str, step: int) -> None:
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        first = int(bad[0])
        raise NumericsError(
            f"step {step}: the {what} of prompt {prompt_ids[first]!r} is {values[first]} ({bad.size} of {len(values)} "
            f"values are not finite). The weights or the numerics of the rollout server have broken down, so the step "
            f"stops before the update. Resume from the last checkpoint with a smaller "
            f"actor_rollout_ref.actor.optim.lr, or remove that prompt from data.train_files."
        )
