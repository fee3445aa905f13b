"""With the neutral rules this recipe is stock verl: the same batches, rewards and updates."""

from pathlib import Path

import pytest
from real_stack import ROOT, SMALL, Run, launch

from recipe.prepo.cpu import cpu_environment

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
NEUTRAL = ["prepo/selection=all", "prepo/weighting=none", "trainer.total_training_steps=2", "trainer.test_freq=-1"]


def run_stock(directory: Path, overrides: list[str]) -> Run:
    """Stock verl (its own entry point and its own "sync" trainer) on the same configuration."""
    environment = {"PREPO_ASSETS": str(ROOT / "assets"), "VERL_FILE_LOGGER_PATH": str(directory / "metrics.jsonl")}
    overrides = [*overrides, "trainer.v1.trainer_mode=sync", "trainer.logger=[file]"]
    module = f"verl.trainer.main_ppo --config-dir {ROOT / 'conf'} --config-name prepo"
    sockets = set(Path("/tmp/ray").glob("session_*/sockets/*"))
    run = launch(directory, overrides, module=module, extra_environment=cpu_environment() | environment)
    for socket in set(Path("/tmp/ray").glob("session_*/sockets/*")) - sockets:
        socket.unlink(missing_ok=True)  # stock verl leaves Ray's sockets; this recipe's entry point takes them away
    return run


def texts(run: Run, step: int) -> list[tuple]:
    lines = run.lines(f"rollouts/{step}.jsonl")
    return sorted((line["input"], line["output"], line["gts"], line["score"]) for line in lines)


def test_batches_rewards_advantages_and_updates_are_those_of_stock_verl(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folders = [tmp_path_factory.mktemp(name) for name in ("stock", "neutral")]
    stock, neutral = (
        start(folder, [*SMALL, *NEUTRAL, f"trainer.rollout_data_dir={folder / 'rollouts'}", "trainer.save_freq=2"])
        for start, folder in zip((run_stock, launch), folders, strict=True)
    )
    assert list(stock.steps) == [1, 2]
    for step, data in stock.steps.items():
        assert texts(neutral, step) == texts(stock, step) and len(texts(stock, step)) == 32
        kinds = ("actor/", "critic/", "response_length/", "prompt_length/")
        compared = [name for name in data if name.startswith(kinds) and "/perf/" not in name]
        assert len(compared) > 20
        for name in compared:
            # Rollouts finish in another order each time, and so sums round differently in the last digit.
            assert neutral.steps[step][name] == pytest.approx(data[name], rel=1e-5, abs=1e-8), (step, name)
