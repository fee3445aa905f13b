"""Loaded by verl in every process (``VERL_USE_EXTERNAL_MODULES``): prompts get 0.7 or 1.4 times the rule's."""

from __future__ import annotations

from typing import Any

from recipe.prepo.import_hooks import after_import

TEMPERATURES = (0.7, 1.4)  # where the rule says 1.0


def alternate(columns: Any) -> None:
    stock = columns.set_temperature

    def set_temperature(batch: Any, temperature: float) -> None:
        stock(batch, temperature)
        for i in range(len(batch)):
            batch[columns.TEMPERATURE][i] *= TEMPERATURES[i % 2]

    columns.set_temperature = set_temperature


after_import("recipe.prepo.trainer.columns", alternate)
