"""The data sets that ``python -m data_prep`` knows, by name."""

from __future__ import annotations

from data_prep import contests, dapo_math, gsm8k, hendrycks_math, olympiadbench
from data_prep.spec import DatasetSpec

DATASETS: dict[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        gsm8k.SPEC,
        hendrycks_math.SPEC,
        dapo_math.SPEC,
        contests.MATH500,
        contests.AIME24,
        contests.AIME25,
        contests.AMC23,
        olympiadbench.SPEC,
    )
}
