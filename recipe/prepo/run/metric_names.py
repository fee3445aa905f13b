"""Names of the logged metrics that the console, the summary and the report read."""

from __future__ import annotations

import re

REWARD = "critic/score/mean"
ZERO_ADVANTAGE = "prepo/zero_advantage_frac/mean"
ROLLOUTS = "prepo/rollouts_total/max"
TOKENS = "prepo/response_tokens_total/max"
STEP_SECONDS = "timing_s/step"
# verl measures these outside of the step's own time.
OUTSIDE_STEP = ("timing_s/testing", "timing_s/save_checkpoint")


def held_out_set(metric: str) -> str | None:
    """The set and statistic of a held-out mean score; None for any other metric.

    verl logs these scores as ``val-core/<data source>/<acc|reward>/mean@<n>``.

    >>> held_out_set("val-core/openai/gsm8k/acc/mean@4")
    'openai/gsm8k/acc/mean@4'
    >>> held_out_set("val-core/openai/gsm8k/acc/best@4/mean")
    """
    match = re.fullmatch(r"val-core/(.+/(?:acc|reward)/mean@\d+)", metric, re.DOTALL)
    return match.group(1) if match else None
