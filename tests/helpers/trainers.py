"""A trainer without Ray and without a model, for tests of its hooks."""

from pathlib import Path

from verl.trainer.ppo.v1 import PPOTrainerSync
from verl.utils import hf_tokenizer

from recipe.prepo.doctor import compose_config
from recipe.prepo.run.logs import RunLogs

OVERRIDES = [
    "experiment=tiny_cpu",
    "data.train_batch_size=8",
    "actor_rollout_ref.actor.ppo_mini_batch_size=8",
    "data.filter_overlong_prompts=false",
    "data.train_max_samples=3000",
]


def make_trainer(trainer_class: type, run_dir: Path, *overrides: str) -> PPOTrainerSync:
    """A trainer up to its dataloader: no Ray, no model. Candidates are not scored."""
    config = compose_config([*OVERRIDES, *overrides, f"trainer.default_local_dir={run_dir}"])
    trainer = trainer_class(config)
    trainer.tokenizer = hf_tokenizer(config.actor_rollout_ref.model.path)
    trainer.processor = None
    trainer._init_dataloader()
    trainer.global_steps = 1
    trainer._logs = RunLogs(run_dir, resume_step=0, audit=True)
    return trainer
