"""A run without a model: drives the controller as the trainers do, and draws rewards by each prompt's pass rate."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from recipe.prepo.candidates import Pool
from recipe.prepo.controller import Controller, RunIdentity, data_fingerprint
from recipe.prepo.maths.prompt_index import PromptIndex
from recipe.prepo.rules.base import SkippingRule
from recipe.prepo.rules.registry import REGISTRIES, build_rule
from recipe.prepo.run.audit import rollout_lines, selection_line
from recipe.prepo.types import Candidates, Decision, IntArray, RolloutBatch, RunFacts, StepOutcome

Groups = Sequence[tuple[str, list[float]]]  # prompt id and rewards of each group
CONF = Path(__file__).parents[2] / "conf" / "prepo"
NEUTRAL = {"selection": "uniform", "weighting": "none", "budget": "fixed", "temperature": "constant", "shaping": "none"}
# Options that fit the small run, for every rule that has them.
SMALL = {"lowest": 2, "highest": 6, "epoch_steps": 3, "easiest_share": 0.5, "min_round": 1, "near_groups": 6}


def rule_options(group: str, name: str, **changes: Any) -> dict[str, Any]:
    """The rule's options from its yaml, changed for a small run and by ``changes``."""
    shipped = yaml.safe_load((CONF / group / f"{name}.yaml").read_text(encoding="utf-8"))
    return {**shipped, **{key: value for key, value in SMALL.items() if key in shipped}, **changes}


def all_options(**names: str) -> dict[str, dict[str, Any]]:
    """Options of every group: of the named rules, and of neutral ones for the rest."""
    return {group: rule_options(group, name) for group, name in {**NEUTRAL, **names}.items()}


def run_facts(prompt_ids: Sequence[str], **changes: Any) -> RunFacts:
    facts = {"vocab_size": 300, "rollouts_per_prompt": 4, "total_steps": 40, "steps_per_epoch": 3}
    return RunFacts(prompts=PromptIndex(prompt_ids), **{**facts, **changes})


def make_rule(
    group: str, name: str, prompt_ids: Sequence[str], *, seed: int = 0, facts: Any = None, **options: Any
) -> Any:
    """A rule that knows its run: its options from its yaml, the run's facts as in ``run_facts``, with these changes."""
    rule = build_rule(group, rule_options(group, name, **options), seed=seed)
    rule.bind(run_facts(prompt_ids, **(facts or {})))
    return rule


def step_outcome(trained: Groups, *discarded: Groups, step: int = 1) -> StepOutcome:
    """A step that trained on these groups, after rounds of discarded ones."""
    dropped = tuple(rollout_batch(groups, step, entropies=False) for groups in discarded)
    return StepOutcome(trained=rollout_batch(trained, step), discarded=dropped, step=step)


def batch_of(ids: Sequence[str], rewards: Sequence[float], *, group: Any = None, tokens: Any = 10, entropy: Any = None):
    """Rollouts of these prompts; each argument is one number for all, or one for each. By default one group."""
    size = len(ids)
    return RolloutBatch(
        prompt_ids=list(ids),
        group_R=np.zeros(size, dtype=np.int64) if group is None else np.asarray(group),
        reward_R=np.array(rewards, dtype=np.float64),
        num_tokens_R=np.broadcast_to(np.array(tokens, dtype=np.int64), size),
        entropy_nats_R=None if entropy is None else np.broadcast_to(np.array(entropy, dtype=np.float64), size),
    )


def make_controller(
    options: Mapping[str, Mapping[str, Any]],
    prompt_ids: Sequence[str],
    *,
    seed: int = 0,
    pooled: bool = False,
    **own: Any,
) -> Controller:
    """A controller of a small run; ``pooled``: it chooses from all prompts and keeps their scores.

    ``own`` are fields of its identity.
    """
    kept: dict[str, Any] = {"score_ratio": 2.0, "rescore_after": 3, "model": "tiny"} if pooled else {}
    sizes = {"num_selected": 4, "num_candidates": None if pooled else 20, "data_sha256": data_fingerprint(prompt_ids)}
    return Controller(
        options,
        identity=RunIdentity(seed=seed, **{**sizes, **kept, **own}),
        run=run_facts(prompt_ids),
        base_temperature=1.0,
        pool=Pool(prompt_ids, shuffle_seed=seed) if pooled else None,
    )


def _draw(*key: Any) -> float:
    """A number in [0, 1) that depends only on the key."""
    return zlib.crc32(repr(key).encode()) / 2**32


class SimulatedRun:
    """Steps of one controller over a training set of 60 prompts, drawn in turn."""

    def __init__(self, options: Mapping[str, Mapping[str, Any]], *, seed: int = 0, **own: Any) -> None:
        self.prompt_ids = [f"é{i}" for i in range(60)]
        self.controller = make_controller(options, self.prompt_ids, seed=seed, **own)
        self.position = 0
        self.audit: dict[str, list[dict[str, Any]]] = {"selection": [], "rollouts": []}

    def draw(self, num_prompts: int) -> tuple[str, ...]:
        places = range(self.position, self.position + num_prompts)
        self.position += num_prompts
        return tuple(self.prompt_ids[i % len(self.prompt_ids)] for i in places)

    def choose(self, step: int, num_prompts: int) -> Decision:
        decision = self._choose(step, num_prompts)
        self.audit["selection"].append(selection_line(decision))
        return decision

    def _choose(self, step: int, num_prompts: int) -> Decision:
        controller = self.controller
        if isinstance(controller.selection, SkippingRule):
            return controller.select_from_stream(self.draw, num_selected=num_prompts, step=step)
        if controller.pool is None:
            ids = self.draw(controller.num_candidates_for(num_prompts))
        else:
            _, ids = controller.pool.draw(num_prompts)

        def score(places: IntArray) -> Candidates:
            scored = tuple(ids[i] for i in places.tolist())
            nll_nats = np.array([0.5 + _draw("ppl", prompt_id) for prompt_id in scored])
            # Where scores are kept, it matters when a prompt was scored.
            nll_nats += 0.0 if controller.scores is None else 0.01 * step
            return Candidates(scored, nll_nats, np.full(len(scored), 9))

        candidates, _ = controller.with_scores(ids, num_selected=num_prompts, step=step, score=score)
        return controller.select(candidates, num_selected=num_prompts, step=step)

    def roll_out(self, decision: Decision) -> Iterator[tuple[str, list[float]]]:
        """Rewards of each chosen prompt's group. A third of the prompts is always correct, a third never."""
        for i, size in zip(decision.selection.indices_P, decision.rollout_n_P, strict=True):
            prompt_id = decision.candidates.prompt_ids[i]
            pass_rate = 3.0 * _draw("pass", prompt_id) - 1.0
            key = (prompt_id, decision.step, decision.call)
            yield prompt_id, [float(_draw("reward", *key, j) < pass_rate) for j in range(size)]

    def step(self, step: int) -> dict[str, Any]:
        """Run one step; returns everything that was decided and reported in it."""
        controller, num_selected = self.controller, self.controller.identity.num_selected
        decisions = [self.choose(step, controller.first_round)]
        groups = list(self.roll_out(decisions[-1]))
        discarded: list[tuple[str, list[float]]] = []
        if isinstance(controller.selection, SkippingRule):
            refills: tuple = ()
            fresh, ready = groups, []
            while True:
                flat = [group for group in fresh if len(set(group[1])) == 1]
                discarded += flat
                ready += [group for group in fresh if len(set(group[1])) > 1]
                if len(ready) >= num_selected:
                    break
                refill = controller.next_round(
                    num_selected - len(ready), zero_variance_frac=len(flat) / len(fresh), refills=refills
                )
                if refill is None:
                    break
                refills += (refill,)
                decisions.append(self.choose(step, refill.num_prompts))
                fresh = list(self.roll_out(decisions[-1]))
            groups, surplus = ready[:num_selected], ready[num_selected:]
            discarded += surplus
        trained = rollout_batch(groups, step)
        weight_R = controller.weigh(trained, step=step)
        advantage_R = trained.reward_R - 0.5
        self.audit["rollouts"] += rollout_lines(
            trained,
            step=step,
            rollout_R=trained.group_R,
            weight_R=weight_R,
            advantage_R=advantage_R,
            advantage_weighted_R=advantage_R * weight_R,
            base_temperature=1.0,
        )
        shaped_R = None if controller.shaping.is_identity else controller.shape(trained)
        metrics = controller.finish_step(
            trained,
            weight_R,
            step=step,
            shaped_R=shaped_R,
            discarded=[rollout_batch(discarded, step, entropies=False)] if discarded else [],
        )
        return {
            "chosen": [[d.candidates.prompt_ids[i] for i in d.selection.indices_P] for d in decisions],
            "skipped": [d.selection.skip_reasons for d in decisions],
            "rollout_n": [d.rollout_n_P.tolist() for d in decisions],
            "temperature": [d.temperature for d in decisions],
            "weights": weight_R.tolist(),
            "shaped": None if shaped_R is None else shaped_R.tolist(),
            "metrics": metrics,
        }


def rollout_batch(groups: Groups, step: int, *, entropies: bool = True) -> RolloutBatch:
    """Rollouts of these groups, with lengths and entropies that depend only on the prompt and the step."""
    ids = [prompt_id for prompt_id, rewards in groups for _ in rewards]
    return RolloutBatch(
        prompt_ids=ids,
        group_R=np.array([g for g, (_, rewards) in enumerate(groups) for _ in rewards], dtype=np.int64),
        reward_R=np.array([reward for _, rewards in groups for reward in rewards]),
        num_tokens_R=np.array([3 + int(20 * _draw("tokens", p, step, i)) for i, p in enumerate(ids)], dtype=np.int64),
        entropy_nats_R=np.array([0.2 + _draw("entropy", p, step, i) for i, p in enumerate(ids)]) if entropies else None,
    )


def every_combination() -> list[dict[str, str]]:
    """One rule of each group, in every combination."""
    combinations: list[dict[str, str]] = [{}]
    for group, registry in REGISTRIES.items():
        combinations = [{**names, group: name} for names in combinations for name in registry]
    return combinations


def rules_in_pairs() -> list[dict[str, str]]:
    """Few combinations in which each rule meets each rule of every other group."""
    first, *others = REGISTRIES
    found = []
    for i, name in enumerate(REGISTRIES[first]):
        for turn in (0, 1):
            rules = {group: list(REGISTRIES[group]) for group in others}
            picks = ((0, 0, 0, 0), (0, 0, 1, 1), (0, 1, 0, 1), (0, 1, 1, 0))[i % 4]
            found.append({first: name} | {g: rules[g][pick ^ turn] for g, pick in zip(others, picks, strict=True)})
    return found
