"""One run: the recipe's controller, with all its decisions, around a small policy."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.mini_math import oracle, settings
from benchmarks.mini_math.collect import Group, PromptStream, StepGroups, collect_step, rollout_batch
from benchmarks.mini_math.evaluation import Evaluator
from benchmarks.mini_math.grade import count_correct, grade
from benchmarks.mini_math.methods import Method
from benchmarks.mini_math.numbers import GROUP_SHARES
from benchmarks.mini_math.options import Options
from benchmarks.mini_math.policy import concatenated, generate, prompt_scores, torch_generator
from benchmarks.mini_math.settings import load_model
from benchmarks.mini_math.update import group_advantages, update_policy
from data_prep.mini_math.passrate import encode_prompts
from recipe.prepo.candidates import Pool
from recipe.prepo.controller import Controller, RunIdentity, data_fingerprint
from recipe.prepo.maths.prompt_index import PromptIndex
from recipe.prepo.maths.rng import make_generator
from recipe.prepo.run.audit import rollout_lines, selection_line
from recipe.prepo.run.files import write_atomically
from recipe.prepo.run.jsonl import StepLog
from recipe.prepo.types import Candidates, Decision, FloatArray, RolloutBatch, RunFacts

# For AdamW. verl's defaults are (0.9, 0.999) and 0.01; that second moment is too slow for 80 steps.
BETAS, WEIGHT_DECAY = (0.9, 0.95), 0.0


class Run:
    """State of one run.

    Args:
        method: rules and constants from ``conf/``.
        base: folder of the model that the run starts from.
        audit_dir: where to write choices and rollouts, in the trainers' format; or None.
    """

    def __init__(
        self,
        method: Method,
        options: Options,
        seed: int,
        *,
        base: Path,
        pool: settings.Pool,
        audit_dir: Path | None = None,
    ) -> None:
        self.method, self.options, self.seed, self.pool = method, options, seed, pool
        self.model, self.tokenizer = load_model(base)
        self.eos_id = int(self.tokenizer.eos_token_id)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=options.learning_rate, betas=BETAS, weight_decay=WEIGHT_DECAY
        )
        self.answers = {prompt.prompt_id: prompt.answer for prompt in pool.prompts}
        token_ids = encode_prompts(self.tokenizer, [prompt.question for prompt in pool.prompts])
        self.tokens = dict(zip(self.answers, token_ids, strict=True))
        self.evaluator = Evaluator(options, self.tokenizer, seed=seed)
        self.controller = make_controller(method, options, seed, pool, vocab_size=self.model.config.vocab_size)
        if isinstance(self.controller.selection, oracle.OracleSelection):
            self.controller.selection.pass_rates = self._pass_rates
        self.stream = PromptStream(list(self.answers), seed=seed)
        self._sampling = torch_generator(seed, "mini_math.sampling")
        self._oracle = torch_generator(seed, "mini_math.oracle")
        self._shuffle = make_generator(seed, "mini_math.mini_batches")
        self._logs = None
        if audit_dir is not None:
            self._logs = [_audit_log(audit_dir, name) for name in ("selection", "rollouts")]
            write_atomically(audit_dir / "config.yaml", yaml.safe_dump({"prepo": method.rules}))
        self.seconds = self.scoring_seconds = 0.0
        self.scored_tokens = 0
        self.curve: list[dict[str, Any]] = []
        self.history: list[dict[str, float]] = []

    def run(self) -> dict[str, Any]:
        """Train until the rollouts are used up; returns the run's entry of results.json.

        Every method is evaluated at the same numbers of rollouts, at the end of the step that reaches them.
        """
        started = time.process_time()
        self._evaluate(0)
        rollouts_of_step = self.options.num_selected * self.options.rollouts_per_prompt
        waiting = [*range(self.options.eval_every, self.options.steps, self.options.eval_every), self.options.steps]
        waiting = [steps * rollouts_of_step for steps in waiting]
        step = 0
        while waiting:
            step += 1
            before = time.process_time()
            self.history.append(self._step(step))
            self.seconds += time.process_time() - before
            reached = sum(rollouts <= self.controller.rollouts_total for rollouts in waiting)
            if reached:
                self._evaluate(step)
                self.curve += [dict(self.curve[-1]) for _ in range(reached - 1)]  # all curves have as many points
                waiting = waiting[reached:]
        for log in self._logs or ():
            log.close()
        return {
            "row": self.method.name,
            "seed": self.seed,
            "task": self.options.task,
            "model": self.options.model,
            "setting": self.options.setting,
            "curve": self.curve,
            "train": {name: [step[name] for step in self.history] for name in self.history[0]},
            "seconds": self.seconds,
            "seconds_with_evaluation": time.process_time() - started,
            "scoring": {"seconds": self.scoring_seconds, "tokens": self.scored_tokens},
        }

    # ---- a step -----------------------------------------------------------------------------------------------------

    def _step(self, step: int) -> dict[str, float]:
        controller = self.controller
        groups = collect_step(
            controller,
            lambda num_prompts: self._choose(step, num_prompts),
            self._roll_out,
            filters_groups=self.method.filters_groups,
        )
        trained = rollout_batch(groups.trained)
        weight_R = controller.weigh(trained, step=step)
        shaped_R = None if controller.shaping.is_identity else controller.shape(trained)
        advantage_R = group_advantages(trained.reward_R if shaped_R is None else shaped_R, trained.group_R)
        weighted_R = advantage_R if controller.weighting.is_identity else advantage_R * weight_R
        temperature_R = np.array([group.temperature for group in groups.trained])[trained.group_R]
        metrics = controller.finish_step(
            trained,
            weight_R,
            step=step,
            shaped_R=shaped_R,
            discarded=[rollout_batch(groups.discarded, with_entropies=False)] if groups.discarded else [],
        )
        update = self._update(groups.trained, trained, weighted_R, temperature_R)
        self._audit(groups, trained, step, weight_R, advantage_R, weighted_R, temperature_R, shaped_R)
        return {
            "step": float(step),
            "rollouts": float(controller.rollouts_total),
            "groups": metrics["prepo/selected/sum"],
            **{name: metrics[f"prepo/{name}/mean"] for name in GROUP_SHARES},
            "train_entropy_nats": metrics["prepo/token_entropy_nats/mean"],
            "temperature": metrics["prepo/temperature/mean"],
            "reward": float(trained.reward_R.mean()),
            "response_tokens": float(trained.num_tokens_R.mean()),
            **update,
        }

    def _choose(self, step: int, num_prompts: int) -> Decision:
        controller, prepo = self.controller, self.method.prepo
        if prepo.skips_prompts:
            return controller.select_from_stream(self.stream.draw, num_selected=num_prompts, step=step)
        if controller.pool is not None:
            _, ids = controller.pool.draw(num_prompts)
        else:
            draw = self.stream.draw if self.method.filters_groups else self.stream.draw_batch
            ids = draw(controller.num_candidates_for(num_prompts))
        candidates = Candidates(ids)
        if prepo.score_prompts:
            candidates, _ = controller.with_scores(
                ids,
                num_selected=num_prompts,
                step=step,
                score=lambda places: self._score(tuple(ids[i] for i in places.tolist())),
            )
        return controller.select(candidates, num_selected=num_prompts, step=step)

    def _score(self, prompt_ids: tuple[str, ...]) -> Candidates:
        started = time.process_time()
        tokens = [self.tokens[prompt_id] for prompt_id in prompt_ids]
        num_tokens_C = np.array([len(prompt) - 1 for prompt in tokens], dtype=np.int64)
        nll_nats_C, features_C = prompt_scores(self.model, tokens)
        self.scoring_seconds += time.process_time() - started
        self.scored_tokens += int(num_tokens_C.sum())
        return Candidates(prompt_ids, nll_nats_C, num_tokens_C, features_C)

    def _roll_out(self, decision: Decision) -> list[Group]:
        ids = [decision.candidates.prompt_ids[i] for i in decision.selection.indices_P.tolist()]
        sizes = decision.rollout_n_P.tolist()
        responses = generate(
            self.model,
            [self.tokens[prompt_id] for prompt_id in ids],
            sizes,
            temperature=decision.temperature,
            max_tokens=self.method.max_response_tokens,
            eos_id=self.eos_id,
            generator=self._sampling,
        )
        answers_R = [self.answers[prompt_id] for prompt_id, size in zip(ids, sizes, strict=True) for _ in range(size)]
        reward_R = grade(self.tokenizer, responses, answers_R)
        groups, start = [], 0
        for prompt_id, size in zip(ids, sizes, strict=True):
            part, rewards = responses.rows(start, start + size), reward_R[start : start + size]
            groups.append(Group(prompt_id, self.tokens[prompt_id], decision.temperature, part, rewards))
            start += size
        return groups

    def _update(
        self, groups: Sequence[Group], trained: RolloutBatch, advantage_R: FloatArray, temperature_R: FloatArray
    ) -> dict[str, float]:
        shuffled = self._shuffle.permutation(len(trained))
        return update_policy(
            self.model,
            self.optimizer,
            [groups[g].prompt_tokens for g in trained.group_R.tolist()],
            concatenated([group.responses for group in groups]),
            advantage_R,
            temperature_R,
            np.array_split(shuffled, self.options.mini_batches),
            clip_ratio=self.method.clip_ratio,
            clip_ratio_c=self.method.clip_ratio_c,
            max_grad_norm=self.method.max_grad_norm,
            loss_scale_tokens=self.method.loss_scale_tokens,
        )

    def _audit(
        self,
        groups: StepGroups,
        trained: RolloutBatch,
        step: int,
        weight_R: FloatArray,
        advantage_R: FloatArray,
        weighted_R: FloatArray,
        temperature_R: FloatArray,
        shaped_R: FloatArray | None,
    ) -> None:
        if self._logs is None:
            return
        selection_log, rollouts_log = self._logs
        selection_log.append([selection_line(decision) for decision in groups.decisions])
        rollouts_log.append(
            rollout_lines(
                trained,
                step=step,
                rollout_R=np.concatenate([np.arange(len(group.reward_R)) for group in groups.trained]),
                weight_R=weight_R,
                advantage_R=advantage_R,
                advantage_weighted_R=weighted_R,
                base_temperature=self.controller.base_temperature,
                temperature_R=temperature_R,
                shaped_R=shaped_R,
            )
        )

    def _pass_rates(self, prompt_ids: tuple[str, ...]) -> FloatArray:
        num_samples = self.options.oracle_samples
        correct = count_correct(
            self.model,
            self.tokenizer,
            [self.tokens[prompt_id] for prompt_id in prompt_ids],
            [self.answers[prompt_id] for prompt_id in prompt_ids],
            num_samples=num_samples,
            generator=self._oracle,
        )
        return correct / num_samples

    # ---- evaluation -------------------------------------------------------------------------------------------------

    def _evaluate(self, step: int) -> None:
        """Append a point of the curve.

        The shares are over all groups since the last point. At step 0 there are none, and the shares are those that
        groups of M rollouts of the pool's prompts are expected to have.
        """
        since = self.history[int(self.curve[-1]["step"]) if self.curve else 0 :]
        groups = [entry["groups"] for entry in since]
        shares = {name: float(np.average([e[name] for e in since], weights=groups)) for name in GROUP_SHARES if since}
        at_start = {
            "zero_advantage_frac": 1.0 - self.pool.live_frac,
            "all_correct_frac": self.pool.all_correct_frac,
            "all_wrong_frac": self.pool.all_wrong_frac,
        }
        self.curve.append(
            {
                "step": step,
                "rollouts": self.controller.rollouts_total,
                "tokens": self.controller.response_tokens_total,
                **self.evaluator.measure(self.model, step),
                **(shares or at_start),
                "train_entropy_nats": since[-1]["train_entropy_nats"] if since else None,
                "temperature": since[-1]["temperature"] if since else self.controller.base_temperature,
                "seconds": self.seconds,
            }
        )


def make_controller(method: Method, options: Options, seed: int, pool: settings.Pool, *, vocab_size: int) -> Controller:
    """The controller as the trainers build it."""
    prepo = method.prepo
    prompt_ids = [prompt.prompt_id for prompt in pool.prompts]
    with oracle.known_to_the_registry():
        return Controller(
            method.rules,
            identity=RunIdentity(data_sha256=data_fingerprint(prompt_ids), **prepo.identity | {"seed": seed}),
            run=RunFacts(
                prompts=PromptIndex(prompt_ids),
                vocab_size=vocab_size,
                rollouts_per_prompt=prepo.rollouts_per_prompt,
                total_steps=options.steps,
                steps_per_epoch=prepo.steps_per_epoch(len(prompt_ids)),
            ),
            base_temperature=prepo.temperature,
            pool=Pool(prompt_ids, shuffle_seed=seed) if prepo.num_candidates is None else None,
        )


def _audit_log(folder: Path, name: str) -> StepLog:
    return StepLog(folder / "audit" / f"{name}.jsonl", resume_step=0)
