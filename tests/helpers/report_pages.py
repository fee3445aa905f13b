"""Synthetic run directories that follow the run directory's contract, and a reader of the report's page."""

import base64
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import yaml


class Page(HTMLParser):
    """Tables by id as lists of rows, figures (drawn or not) by id, all text that is shown, and every tag."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.figures: dict[str, str] = {}
        self.images: dict[str, bytes] = {}
        self.tags: set[str] = set()
        self.alts: dict[str, str] = {}
        self.text = ""
        self._table = self._figure = ""
        self._in_cell = self._in_style = False
        self.html = html
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.add(tag)
        if tag == "table":
            self._table = values["id"] or ""
            self.tables[self._table] = []
        elif tag == "tr":
            self.tables[self._table].append([])
        elif tag in ("td", "th"):
            self.tables[self._table][-1].append("")
            self._in_cell = True
        elif tag in ("figure", "li") and "id" in values:
            self._figure = values["id"] or ""
            self.figures[self._figure] = ""
        elif tag == "img":
            source = values["src"] or ""
            assert source.startswith("data:image/png;base64,")
            self.images[self._figure] = base64.b64decode(source.split(",", 1)[1])
            self.alts[self._figure] = values["alt"] or ""
        self._in_style = tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False
        elif tag in ("figure", "li"):
            self._figure = ""
        elif tag in ("style", "script"):
            self._in_style = False

    def handle_data(self, data: str) -> None:
        if self._in_style:
            return
        self.text += data
        if self._in_cell:
            self.tables[self._table][-1][-1] += data
        if self._figure:
            self.figures[self._figure] += data

    def cells(self, table: str) -> dict[str, list[str]]:
        """A table's values by name: its columns where each line is a method, else its rows."""
        rows = self.tables[table]
        return {name: list(values) for name, *values in (zip(*rows, strict=True) if rows[0][0] == "method" else rows)}


def write_lines(path: Path, records: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def make_run(
    root: Path, *, steps: int = 6, planned: int = 6, seed: int = 0, rule: str = "ppl_schedule",
    sets: tuple[str, ...] = ("openai/gsm8k",), lift: float = 0.05, seconds: float = 9.0,
) -> Path:  # fmt: skip
    """A run directory that follows the contract: 16 rollouts a step, and accuracy rises by `lift` a step."""
    generator = np.random.default_rng(seed)
    config = {
        "prepo": {"seed": seed, "selection": {"name": rule}, "weighting": {"name": "relative_entropy"},
                  "budget": {"name": "fixed"}, "temperature": {"name": "constant"}, "shaping": {"name": "none"}},
        "actor_rollout_ref": {"model": {"path": "some/model"}},
        "data": {"train_files": ["train.parquet"], "val_files": ["test.parquet"]},
        "trainer": {"total_training_steps": planned, "v1": {"trainer_mode": "prepo_sync"}},
    }  # fmt: skip
    root.mkdir(parents=True)
    (root / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    names = [f"val-core/{source}/acc/mean@2" for source in sets]
    metrics: list[dict] = [{"step": 0, "data": dict.fromkeys(names, 0.25)}]
    for step in range(1, steps + 1):
        progress = (step - 1) / max(planned - 1, 1)
        data = {
            "prepo/rollouts_total/max": step * 16,
            "prepo/response_tokens_total/max": step * 320,
            "critic/score/mean": 0.3 + 0.4 * progress + 0.05 * generator.normal(),
            "prepo/temperature/mean": 1.0 + 0.01 * step,
            "prepo/zero_advantage_frac/mean": 0.5 - 0.002 * step,
            "prepo/all_correct_frac/mean": 0.2 + 0.1 * generator.random(),
            "prepo/all_wrong_frac/mean": 0.1 + 0.05 * generator.random(),
            "prepo/entropy_nats/mean": 1.2 - 0.6 * progress + 0.05 * generator.random(),
            "prepo/ppl_candidates/min": 1.5, "prepo/ppl_candidates/mean": 6.0, "prepo/ppl_candidates/max": 40.0,
            "prepo/ppl_selected/min": 2.0 + 5 * progress, "prepo/ppl_selected/max": 4.0 + 9 * progress,
            "prepo/weight/min": 0.5 - 0.01 * step, "prepo/weight/mean": 1.0, "prepo/weight/max": 1.5 + 0.1 * step,
            "timing_s/prompt_scoring": 0.5, "timing_s/gen": 4.0, "timing_s/old_log_prob": 1.0, "timing_s/adv": 0.1,
            "timing_s/update_actor": 2.0, "timing_s/update_weights": 0.4, "timing_s/step": seconds,
        }  # fmt: skip
        if step % max(1, planned // 6) == 0:
            data |= dict.fromkeys(names, 0.25 + lift * step)
            data |= {"timing_s/testing": 3.0, "timing_s/save_checkpoint": 0.7}
        metrics.append({"step": step, "data": data})
    write_lines(root / "metrics.jsonl", metrics)
    return root
