"""What only verl's own code can tell before a run: its configuration classes, tokenizer, prompt lengths and reward.

Importing verl takes seconds, so :mod:`recipe.prepo.preflight` comes first. Needs no GPU and no Ray.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from recipe.prepo.config import Need, PrepoConfig, check, check_data_size, most_similar, value_at
from recipe.prepo.errors import ConfigError, RewardError
from recipe.prepo.preflight import (
    ACTOR,
    MODEL,
    NOT_ESTIMATED,
    PLUS,
    ROLLOUT,
    VERL_VERSION,
    DataFound,
    Findings,
    findings,
    runs_here,
)
from recipe.prepo.reward.own import grade_rows
from recipe.prepo.rows import first_rows, read_prompts, rows_within_limit

GRADED_ROWS = 3
WITHOUT_WEIGHTS = ["*.json", "*.jinja", "*.model", "*.py", "*.txt"]
HUB_TIMEOUT_S = 5
FLASH = "flash_attention_2"
MAX_LORA_RANK = 512  # of vLLM
PLAIN_TEMPLATE = "\"{% for m in messages %}{{ m['content'] }}\\n{% endfor %}\""
# Names that verl 0.9.1 compares in its code and keeps in no registry.
LOSS_AGG_MODES = ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")
KL_PENALTIES = ("kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3")
RESUME_MODES = ("auto", "disable", "resume_path")


def check_with_verl(config: DictConfig, prepo: PrepoConfig, data: DataFound) -> Findings:
    """Every check that imports verl; ``data`` is what ``preflight.check_all`` found. Raises the first error."""
    plain: Any = OmegaConf.to_container(config, resolve=True)
    with _quiet():
        model = load_model(config)  # imports the user's model.external_lib, which may register names
        check(plain, _names(plain, data.agent_loops))
        check_verl(config)
        notes = [f"note      the hub cannot be reached: {MODEL}, its context and the prompts' lengths not checked"]
        if model is not None:
            check(plain, _model_needs(plain, model))
            data, notes = fit_prompts(plain, prepo, data, model.tokenizer)
        notes.append(grade(plain, data))
    lines, total_steps = findings(plain, prepo, data)
    return Findings((*lines, *filter(None, notes)), total_steps)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """verl and the reward print and warn while they are tried."""
    level = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.ExitStack() as at_end:
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        at_end.callback(logging.disable, level)
        yield


def check_verl(config: DictConfig) -> None:
    """Call verl's ``validate_config``, and build the configuration objects that its workers build."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    config = copy.deepcopy(config)
    model = config.actor_rollout_ref.model
    with open_dict(config):
        model.lora_rank = 0  # verl would import vLLM to compare it
        if model.get("lora"):
            model.lora.rank = 0
    try:
        validate_config(config, need_reference_policy(config), need_critic(config))
        for part in (config.actor_rollout_ref.rollout, config.algorithm, config.actor_rollout_ref.actor.optim):
            omega_conf_to_dataclass(part)
    except Exception as error:  # hydra wraps what verl's classes raise
        raise ConfigError(f"verl {VERL_VERSION} refuses this configuration: {_said(error)}") from error


def load_model(config: DictConfig) -> Any:
    """verl's description of the model, with its tokenizer; None if only the machines of the run can tell."""
    from huggingface_hub.errors import LocalEntryNotFoundError
    from verl.utils.config import omega_conf_to_dataclass

    section = copy.deepcopy(config.actor_rollout_ref.model)
    for key in ("path", "tokenizer_path", "hf_config_path"):
        name = section.get(key)
        if name and not Path(name).expanduser().is_dir():
            try:
                section[key] = _from_hub(name)
            except Exception as error:
                unreachable = isinstance(error, LocalEntryNotFoundError)
                if unreachable and not runs_here(config):
                    return None
                why = "is not in this machine's cache, and the hub cannot be reached" if unreachable else "is refused"
                raise ConfigError(
                    f"{MODEL}.{key}={name}: the hub id {why} ({_said(error)}). Correct it, log in with hf auth login "
                    f"if the model asks for it, or set a folder: {MODEL}.{key}=<folder> (hf download {name} "
                    f"--local-dir <folder>)."
                ) from error
    try:
        return omega_conf_to_dataclass(section)
    except Exception as error:
        raise ConfigError(f"{MODEL}.path={section.path}: verl cannot load it: {_said(error)}") from error


def _from_hub(hub_id: str) -> str:
    """Folder of the model in the hub's cache; downloads what is missing, except for the weights."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return str(snapshot_download(hub_id, local_files_only=True))
    except LocalEntryNotFoundError:
        return str(snapshot_download(hub_id, allow_patterns=WITHOUT_WEIGHTS, etag_timeout=HUB_TIMEOUT_S))


def _names(config: Mapping[str, Any], agent_loops: set[str]) -> Iterator[Need]:
    """Values, and names in the data's column ``agent_name``, that must be names which verl knows."""
    from verl.experimental.agent_loop import agent_loop
    from verl.experimental.reward_loop.reward_manager.registry import REWARD_MANAGER
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY

    known: dict[str, Any] = {
        "algorithm.adv_estimator": [name for name in ADV_ESTIMATOR_REGISTRY if name not in NOT_ESTIMATED],
        f"{ACTOR}.loss_agg_mode": LOSS_AGG_MODES,
        f"{ACTOR}.policy_loss.loss_mode": POLICY_LOSS_REGISTRY,
        f"{ACTOR}.kl_loss_type": [*KL_PENALTIES, *(f"{name}+" for name in KL_PENALTIES)],
        "algorithm.kl_penalty": KL_PENALTIES,
        "trainer.resume_mode": RESUME_MODES,
    }
    if not value_at(config, f"{ROLLOUT}.agent.agent_loop_config_path", None):
        path, loops = f"{ROLLOUT}.agent.default_agent_loop", agent_loop._agent_loop_registry
        known[path] = loops
        unknown = ", ".join(sorted(agent_loops - set(loops)))
        why = f"the data's column agent_name has {unknown}, and verl {VERL_VERSION} knows only {', '.join(loops)}"
        path = f"{ROLLOUT}.agent.agent_loop_config_path"
        yield Need(path, not unknown, why, "<a file that registers it>", "correct the column")
    if value_at(config, "reward.reward_manager.source", "register") == "register":
        known["reward.reward_manager.name"] = REWARD_MANAGER
    path = f"{MODEL}.lora_rank"
    yield Need(path, 0 <= int(value_at(config, path, 0)) <= MAX_LORA_RANK, "vLLM has no such adapters", 64)
    for path, names in known.items():
        value, names = value_at(config, path, None), list(names)
        wanted = most_similar(str(value), names) or names[0]
        yield Need(path, value in names, f"verl {VERL_VERSION} knows {', '.join(names)}", wanted)


def _model_needs(config: Mapping[str, Any], model: Any) -> Iterator[Need]:
    text = model.hf_config.get_text_config()
    prompt, response = (value_at(config, f"data.max_{part}_length") for part in ("prompt", "response"))
    path, context = f"{ROLLOUT}.max_model_len", getattr(text, "max_position_embeddings", None) or prompt + response
    limit = value_at(config, path, None) or context
    yield Need(path, limit <= context, f"the model's context has {context} tokens", context)
    ok = prompt + response <= limit
    why = (
        f"prompts of {prompt} and responses of {response} tokens do not fit into {limit} tokens ({path}, or the model)"
    )
    path, wanted = "data.max_response_length", limit - prompt
    if wanted < 1:
        path, wanted = "data.max_prompt_length", max(1, limit - response)
    yield Need(path, ok, why, wanted, "a model with a longer context")
    path, heads = f"{ROLLOUT}.tensor_model_parallel_size", text.num_attention_heads
    yield Need(path, heads % value_at(config, path) == 0, f"it must divide the model's {heads} attention heads", 1)
    path = f"{MODEL}.override_config.attn_implementation"
    ok = value_at(config, path, FLASH) != FLASH or not runs_here(config) or find_spec("flash_attn") is not None
    yield Need(path, ok, f"{FLASH}, verl's default, needs the package flash-attn", "sdpa", PLUS)
    path = f"{MODEL}.custom_chat_template"
    ok = getattr(model.get_processor(), "chat_template", None)
    why = "neither the tokenizer nor this option has a chat template"
    yield Need(path, ok, why, PLAIN_TEMPLATE, "a model with a template, such as an instruction-tuned one")


def fit_prompts(
    config: Mapping[str, Any], prepo: PrepoConfig, data: DataFound, tokenizer: Any
) -> tuple[DataFound, list[str]]:
    """Apply the chat template and count the prompts within ``data.max_prompt_length``, as verl filters them.

    Returns the data without the prompts that verl drops, and notes about them.
    """
    section, limit = config["data"], value_at(config, "data.max_prompt_length")
    options = {**value_at(config, "data.apply_chat_template_kwargs", {}), **_tools(config)}
    key = value_at(config, "data.prompt_key", "prompt")
    drawn = {"shuffle": section.get("shuffle", False), "seed": section.get("seed")}
    left: dict[str, int] = {}
    for name, files in (("train", data.train_files), ("val", data.val_files)):
        samples = value_at(config, f"data.{name}_max_samples", -1)
        prompts = read_prompts(files, prompt_key=key, max_samples=samples, **drawn)
        left[name] = rows_within_limit(prompts, tokenizer, options, limit)
    long = data.num_rows - left["train"]
    dropped = f"{long} of {data.num_rows} training prompts are longer than data.max_prompt_length={limit}"
    if not value_at(config, "data.filter_overlong_prompts", False):
        dropped = f"note      {dropped} and lose their beginning. To drop them: data.filter_overlong_prompts=True"
        return data, [dropped] if long else []
    check(config, [Need("data.max_prompt_length", left["val"], "no validation prompt is short enough", 2 * limit)])
    try:
        check_data_size(left["train"], prepo)
    except ConfigError as error:
        raise ConfigError(f"{dropped}. Raise it, because {error}" if long else str(error)) from error
    return data._replace(num_rows=left["train"]), [f"dropped   {dropped}"] if long else []


def _tools(config: Mapping[str, Any]) -> dict[str, Any]:
    """The schemas of the run's tools, as verl gives them to the chat template."""
    paths = {key: value_at(config, f"data.{key}", None) for key in ("tool_config_path", "function_tool_path")}
    given = ", ".join(f"{ROLLOUT}.multi_turn.{key}={path}" for key, path in paths.items() if path)
    if not given:
        return {}
    from verl.tools.tool_registry import load_all_tools

    try:
        tools = load_all_tools(**paths)
    except Exception as error:
        raise ConfigError(f"{given}: the tools do not load: {_said(error)}") from error
    return {"tools": [tool.tool_schema.model_dump(exclude_unset=True, exclude_none=True) for tool in tools]}


def grade(config: Mapping[str, Any], data: DataFound) -> str:
    """Call the reward function on the gold answers of three rows; returns a line with their scores."""
    function = dict(value_at(config, "reward.custom_reward_function", {}))
    is_own = bool(function.get("path"))
    if not is_own:
        if value_at(config, "reward.reward_model.enable", False):
            return ""
        function = {"path": "pkg://verl.utils.reward_score", "name": "default_compute_score"}
    rows = [*first_rows(data.train_files[0], GRADED_ROWS), *first_rows(data.val_files[0], 1)]
    try:
        scores = grade_rows(function, rows)
    except RewardError as error:
        if is_own:
            raise
        how = (
            "Set reward.custom_reward_function.path=<your file>, or pkg://recipe.prepo.reward for this recipe's grader."
        )
        raise ConfigError(f"{error} It is verl's own reward. {how}") from error
    shown = ", ".join(f"{score:g}" for score in scores[:GRADED_ROWS])
    return f"reward    {function['name']} of {function['path']} gives the first gold answers {shown}"


def _said(error: Exception) -> str:
    """The message of an error, or of what hydra wrapped in it, in one line."""
    return " ".join(str(error.__cause__ or error).split()) or type(error).__name__
