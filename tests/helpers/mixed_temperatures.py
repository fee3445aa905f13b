"""Loaded by verl in every process (``VERL_USE_EXTERNAL_MODULES``): prompts of one batch get 0.7 and 1.4 in turn."""

from __future__ import annotations

from typing import Any

from recipe.prepo.import_hooks import after_import

TEMPERATURES = (0.7, 1.4)


def alternate(fields: Any) -> None:
    import torch

    def set_temperature(batch: Any, _temperature: float) -> None:
        batch[fields.TEMPERATURE] = torch.tensor([TEMPERATURES[i % 2] for i in range(len(batch))])

    fields.set_temperature = set_temperature


after_import("recipe.prepo.trainer.columns", alternate)
