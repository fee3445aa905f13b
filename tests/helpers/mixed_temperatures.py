"""Loaded by verl in every process (``VERL_USE_EXTERNAL_MODULES``): prompts get 0.7 or 1.4 times the rule's."""

from typing import Any

from wrapt import register_post_import_hook

TEMPERATURES = (0.7, 1.4)  # where the rule says 1.0


def alternate(columns: Any) -> None:
    stock = columns.set_temperature

    def set_temperature(batch: Any, temperature: float) -> None:
        stock(batch, temperature)
        for i in range(len(batch)):
            batch[columns.TEMPERATURE][i] *= TEMPERATURES[i % 2]

    columns.set_temperature = set_temperature


register_post_import_hook(alternate, "recipe.prepo.trainer.columns")
