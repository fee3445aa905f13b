"""Entry point of the group ``verl.plugins``: verl imports it in every process, at ``import verl``.

It registers this recipe's trainer modes once verl's V1 trainers are imported. Stock verl behaves as before, except on
the CPU platform, where it also registers the platform and its workarounds.
"""

from __future__ import annotations

import importlib
import logging

from recipe.prepo.cpu import is_cpu_platform
from recipe.prepo.import_hooks import after_import
from recipe.prepo.trainer.workarounds import log_without_flush, name_weight_sockets_by_run

try:
    after_import("verl.trainer.ppo.v1", lambda _module: importlib.import_module("recipe.prepo.modes"))
    after_import("verl.trainer.ppo.v1.trainer_separate_async", log_without_flush)
    for name in ("vllm_rollout", "utils"):
        after_import(f"verl.workers.rollout.vllm_rollout.{name}", name_weight_sockets_by_run)
    if is_cpu_platform():
        import recipe.prepo.cpu.platform
        import recipe.prepo.cpu.workarounds

        recipe.prepo.cpu.workarounds.apply()
except Exception:
    # verl 0.9.1 logs a failing plugin at DEBUG only, and goes on.
    logging.getLogger(__name__).exception("the verl plugin of recipe.prepo failed to load")
    raise
