"""Entry point of the group ``verl.plugins``: verl imports it in every process, at ``import verl``.

It registers this recipe's trainer modes once verl's V1 trainers are imported. Where the CPU platform is chosen, it
also registers the platform and its workarounds.
"""

from __future__ import annotations

import logging
from types import ModuleType

from recipe.prepo.cpu import is_cpu_platform
from recipe.prepo.import_hooks import after_import
from recipe.prepo.trainer.workarounds import log_without_flush, name_weight_sockets_by_run


def _register_trainers(_v1: ModuleType) -> None:
    import recipe.prepo.modes  # noqa: F401


def _register_gloo_weights(_base: ModuleType) -> None:
    import recipe.prepo.cpu.gloo_weights  # noqa: F401


def load() -> None:
    """Hook this recipe into verl. Stock verl behaves as before, except on the CPU platform."""
    after_import("verl.trainer.ppo.v1", _register_trainers)
    after_import("verl.trainer.ppo.v1.trainer_separate_async", log_without_flush)
    for module in ("vllm_rollout", "utils"):
        after_import(f"verl.workers.rollout.vllm_rollout.{module}", name_weight_sockets_by_run)
    if is_cpu_platform():
        import recipe.prepo.cpu.platform  # noqa: F401
        from recipe.prepo.cpu import workarounds

        workarounds.apply()
        after_import("verl.checkpoint_engine.base", _register_gloo_weights)


try:
    load()
except Exception:
    # verl 0.9.1 logs a failing plugin at DEBUG only, and goes on.
    logging.getLogger(__name__).exception("the verl plugin of recipe.prepo failed to load")
    raise
