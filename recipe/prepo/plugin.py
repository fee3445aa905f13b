"""Entry point of the group ``verl.plugins``: verl imports it in every process, at ``import verl``.

It registers this recipe's trainer modes once verl's V1 trainers are imported. Stock verl behaves as before, except on
the CPU platform, where it also registers the platform and its workarounds.
"""

from __future__ import annotations

import importlib
import logging

from wrapt import register_post_import_hook

from recipe.prepo.cpu import is_cpu_platform
from recipe.prepo.trainer.workarounds import log_without_flush, name_weight_sockets_by_run

try:
    register_post_import_hook(lambda _: importlib.import_module("recipe.prepo.modes"), "verl.trainer.ppo.v1")
    register_post_import_hook(log_without_flush, "verl.trainer.ppo.v1.trainer_separate_async")
    for name in ("vllm_rollout", "utils"):
        register_post_import_hook(name_weight_sockets_by_run, f"verl.workers.rollout.vllm_rollout.{name}")
    if is_cpu_platform():
        import recipe.prepo.cpu.platform
        import recipe.prepo.cpu.workarounds

        recipe.prepo.cpu.workarounds.apply()
except Exception:
    # verl 0.9.1 logs a failing plugin at DEBUG only, and goes on.
    logging.getLogger(__name__).exception("the verl plugin of recipe.prepo failed to load")
    raise
