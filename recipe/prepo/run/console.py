"""The progress display: follows ``metrics.jsonl`` from the driver, whichever processes do the work."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from recipe.prepo.run.jsonl import log_identity, read_lines
from recipe.prepo.run.metric_names import OUTSIDE_STEP, REWARD, ROLLOUTS, STEP_SECONDS, ZERO_ADVANTAGE, held_out_set

POLL_INTERVAL_S = 0.5
Numbers = Mapping[str, float | None]


def describe_step(numbers: Numbers) -> str:
    """One step in words.

    >>> describe_step({"critic/score/mean": 0.5, "prepo/selected/sum": 32.0, "prepo/candidates/sum": 160.0,
    ...                "prepo/zero_advantage_frac/mean": 0.125, "prepo/rollouts_total/max": 4096.0})
    'reward 0.500, 32 of 160 prompts chosen, no signal in 12% of groups, 4,096 rollouts so far'
    """
    texts = {
        REWARD: "reward {:.3f}",
        "prepo/selected/sum": f"{{:.0f}} of {numbers.get('prepo/candidates/sum') or 0:.0f} prompts chosen",
        ZERO_ADVANTAGE: "no signal in {:.0%} of groups",
        ROLLOUTS: "{:,.0f} rollouts so far",
        "prepo/failed_rollouts/sum": "{:.0f} failed",
        "prepo/discarded_rollouts/sum": "{:.0f} discarded",
        "prepo/reward_timeouts/sum": "{:.0f} rewards timed out",
    }
    for name in list(texts)[-3:]:
        if not numbers.get(name):
            del texts[name]
    if numbers.get("prepo/selected/sum") == numbers.get("prepo/candidates/sum"):
        del texts["prepo/selected/sum"]
    texts |= dict.fromkeys(filter(held_out_set, numbers), "held-out {:.3f}")
    return ", ".join(text.format(value) for name, text in texts.items() if (value := numbers.get(name)) is not None)


@contextmanager
def follow_steps(run_dir: Path, report: Callable[[int, Numbers], None], *, first_step: int = 0) -> Iterator[None]:
    """Call ``report(step, metrics)`` in a thread for each step after ``first_step`` that is logged while the body runs.

    Every run, also a resumed one, begins with a new file. Without its file system, nothing happens.
    """
    path, done = run_dir / "metrics.jsonl", threading.Event()
    old_file, old_size = log_identity(path), 0
    last_step = first_step or -1  # the validation before a first step is step 0

    def read_new() -> None:
        nonlocal old_size, last_step
        with contextlib.suppress(FileNotFoundError):  # it is not there yet, or is being replaced
            size = path.stat().st_size
            if size == old_size or log_identity(path) == old_file:
                return
            old_size = size
            for line in read_lines(path):
                if line["step"] > last_step:
                    last_step = line["step"]
                    report(last_step, line["data"])

    def poll() -> None:
        while not done.wait(POLL_INTERVAL_S):
            read_new()

    thread = threading.Thread(target=poll, daemon=True, name="prepo-follow-steps")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        read_new()


@contextmanager
def progress_bar(
    run_dir: Path, total_steps: int, *, first_step: int = 0, remarks: Callable[[], Iterable[str]] = tuple
) -> Iterator[None]:
    """Show the progress of the run in ``run_dir`` while the body runs; a resumed run continues from ``first_step``.

    A bar on a terminal; elsewhere a line per step, with the time left if all goes on at its mean pace. ``remarks``
    returns what else to print below a step.
    """
    took: list[float] = []

    def show(step: int, numbers: Numbers) -> None:
        text, seconds = describe_step(numbers), numbers.get(STEP_SECONDS)
        if bar.disable:
            if seconds is not None:
                took.append(seconds + sum(numbers.get(name) or 0.0 for name in OUTSIDE_STEP))
                left = sum(took) / len(took) * max(0, total_steps - step)
                text += f"{', ' if text else ''}{seconds:.1f} s/step, {tqdm.format_interval(left)} left"
            print(f"step {step}/{total_steps}: {text}", flush=True)
        else:
            bar.set_postfix_str(text, refresh=False)
            bar.update(max(0, step - bar.n))
        for remark in remarks():
            tqdm.write(f"note: {remark}")

    bar = tqdm(total=total_steps, initial=first_step, desc="training", unit="step", disable=not sys.stderr.isatty())
    with bar, follow_steps(run_dir, show, first_step=first_step):
        yield
