"""``python -m recipe.prepo.main experiment=<name> key=value …``: validate, train through verl, summarise.

verl is imported only after the configuration is checked and the platform chosen.
"""

from __future__ import annotations

import glob
import io
import logging
import os
import signal
import sys
import tempfile
import traceback
import uuid
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf, open_dict

from recipe.prepo.config import PrepoConfig, read_config
from recipe.prepo.controller import require_same_run
from recipe.prepo.cpu import CPU_PLATFORM, cpu_environment
from recipe.prepo.cpu.fork_server import ForkServer, import_modules
from recipe.prepo.doctor import compose_config
from recipe.prepo.errors import EXIT_STOPPED, ConfigError, FaultError, PrepoError
from recipe.prepo.preflight import (
    DataFound,
    Findings,
    check_all,
    check_device,
    check_warm_start,
    joined_ray,
    set_paths,
)
from recipe.prepo.run.checkpoint import archive, latest_checkpoint, load_state
from recipe.prepo.run.console import progress_bar
from recipe.prepo.supervise.cleanup import Sweeper, ray_roots, session_folders
from recipe.prepo.supervise.signals import StopSignals
from recipe.prepo.supervise.start_lines import StartLines
from recipe.prepo.tools.summary import closing_summary, live_report
from recipe.prepo.trainer.workarounds import RUN_ID_ENV, SOCKET

RESUME = "trainer.resume_mode=auto"
GRADING_TIME_LIMIT_ENV = "PREPO_GRADING_TIME_LIMIT_S"  # read by recipe.prepo.reward


def choose_ray(config: DictConfig) -> None:
    """Join the named cluster, or start a Ray of the run's own on the loopback interface only.

    Without an address, Ray would join what some earlier ``ray start`` left behind. TransferQueue, vLLM and verl use the
    address of Ray's node: the machine's outer one unless Ray believes that it runs no cluster.
    """
    ray_init = config.ray_kwargs.ray_init
    if joined_ray(ray_init):
        for option in ("num_cpus", "num_gpus", "include_dashboard"):
            ray_init.pop(option, None)  # the cluster has its own
        return
    ray_init.address = "local"
    ray_init.setdefault("logging_level", "WARNING")
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    os.environ.setdefault("RAY_enable_metrics_collection", "0")  # whose servers would listen on all interfaces


def choose_platform(config: DictConfig) -> None:
    """Set the environment of this process and of every worker; must run before verl is imported."""
    environment = {RUN_ID_ENV: uuid.uuid4().hex[:12], GRADING_TIME_LIMIT_ENV: str(config.prepo.grading_time_limit_s)}
    if config.trainer.device == CPU_PLATFORM:
        environment |= cpu_environment(config.prepo.cpu_threads)
    os.environ.update(environment)
    ray_init = config.ray_kwargs.ray_init
    ray_init.runtime_env = OmegaConf.merge({"env_vars": environment}, ray_init.get("runtime_env") or {})


def fork_server(config: DictConfig) -> AbstractContextManager[Any]:
    """The process from which workers are forked: only on the CPU, and only with a Ray of the run's own."""
    ray_init = config.ray_kwargs.ray_init
    environment = {name: str(value) for name, value in ray_init.runtime_env.env_vars.items()}
    another_python = any(value for name, value in ray_init.runtime_env.items() if name != "env_vars")
    hash_seed = config.actor_rollout_ref.rollout.get("full_determinism")  # a running Python cannot change its hash seed
    on_cpu = config.trainer.device == CPU_PLATFORM and sys.platform == "linux"
    if not on_cpu or joined_ray(ray_init) or another_python or hash_seed:
        return nullcontext()
    os.environ.setdefault("RAY_worker_register_timeout_seconds", "600")  # a first import may take minutes
    server = ForkServer(run_folder(), {"VLLM_LOGGING_LEVEL": "WARN", **os.environ, **environment})
    with open_dict(config):
        ray_init.runtime_env.py_executable = server.worker_command
    return server


def run_folder() -> Path:
    """Folder for the run's sockets; the sweeper removes everything whose name begins with its name."""
    return Path(tempfile.gettempdir(), f"prepo-{os.environ[RUN_ID_ENV]}")


def make_paths_absolute(config: DictConfig) -> None:
    """Workers may run in other folders than the driver. Hub ids and remote paths stay as they are."""

    def absolute(path: Any) -> Any:
        return str(Path(path).absolute()) if isinstance(path, str) and Path(path).exists() else path

    trainer, model = config.trainer, config.actor_rollout_ref.model
    trainer.default_local_dir = str(Path(trainer.default_local_dir).absolute())
    trainer.resume_from_path = absolute(trainer.resume_from_path)
    for name in ("path", "tokenizer_path", "hf_config_path"):
        model[name] = absolute(model.get(name))
    if config.prepo.selection.get("warm_start"):
        config.prepo.selection.warm_start = absolute(config.prepo.selection.warm_start)
    config.reward.custom_reward_function.path = absolute(config.reward.custom_reward_function.path)
    for name in ("train_files", "val_files"):
        files = config.data[name]
        config.data[name] = absolute(files) if isinstance(files, str) else [absolute(file) for file in files]


def resume_step(trainer: DictConfig, prepo: PrepoConfig) -> int:
    """Step of the checkpoint that the run resumes from, 0 for none.

    Raises:
        ConfigError: ``trainer.resume_from_path`` names no checkpoint.
        StateError: the checkpoint is of another run, or damaged.
    """
    if trainer.resume_mode == "auto":
        name = f"global_step_{latest_checkpoint(Path(trainer.default_local_dir), repair=True)}"
        checkpoint = Path(trainer.default_local_dir, name)
    elif trainer.resume_mode == "resume_path":
        checkpoint = Path(trainer.resume_from_path or "")
    else:
        return 0
    step = checkpoint.name.removeprefix("global_step_")
    if not step.isdecimal():
        raise ConfigError(
            f"trainer.resume_from_path={trainer.resume_from_path} is not the folder of a checkpoint. Set it to one, "
            f"…/global_step_<N>; {RESUME} takes the run's latest."
        )
    if int(step) and checkpoint.exists():  # it may be on a file system that only the workers see
        require_same_run(load_state(checkpoint), identity=prepo.identity, options=prepo.rules)
    return int(step)


def archive_earlier(trainer: DictConfig, first_step: int) -> None:
    """Move checkpoints away that another course of the run left, so that none of them is taken for one of this run."""
    if trainer.resume_mode == "auto" or trainer.val_only:
        return
    run_dir = Path(trainer.default_local_dir)
    resumes_here = first_step > 0 and Path(trainer.resume_from_path).parent == run_dir
    folder = archive(run_dir, after=first_step if resumes_here else 0)
    if folder:
        print(f"earlier   checkpoints of an earlier course of this run are now in {folder}", flush=True)


@hydra.main(config_path="pkg://recipe.prepo.conf", config_name="prepo", version_base=None)
def run(config: DictConfig) -> None:
    with readable_errors():
        plain: Any = OmegaConf.to_container(config, resolve=True)
        prepo = read_config(plain)
        check_device(plain)
        data = check_all(plain, prepo)
        OmegaConf.resolve(config)  # the workers may lack the variables that the configuration interpolates
        with open_dict(config):
            make_paths_absolute(config)
            choose_ray(config)
            choose_platform(config)
        run_dir = Path(config.trainer.default_local_dir)
        first_step = resume_step(config.trainer, prepo)
        warm = [] if first_step else check_warm_start(plain, prepo, data)
        ray_init = config.ray_kwargs.ray_init
        roots = [] if joined_ray(ray_init) else ray_roots(ray_init.get("_temp_dir"))
        sweeper = Sweeper(roots, [f"{run_folder()}*", f"/tmp{SOCKET}{os.environ[RUN_ID_ENV]}*"])
        with sweeper, fork_server(config) as forks, ExitStack() as at_end, StartLines() as start_lines:
            at_end.callback(lambda: "ray" in sys.modules and sys.modules["ray"].shutdown())
            start_lines.now("Ray and the libraries" if forks else "the libraries")
            lines, total_steps = check_libraries(config, prepo, data, starts_ray=forks is not None)
            print(*lines, *warm, f"run       {run_dir}", sep="\n", flush=True)
            stopped = None
            if first_step >= total_steps and not config.trainer.val_only:
                print(
                    f"nothing to train: the checkpoint there is at step {first_step} of {total_steps}. For "
                    f"another run: trainer.experiment_name=<new name>; to start over: trainer.resume_mode=disable."
                )
            else:
                archive_earlier(config.trainer, first_step)
                live = live_report(run_dir, prepo.report_every, first_step=first_step)
                with progress_bar(run_dir, total_steps, first_step=first_step, remarks=new_remarks), live:
                    stopped = train(config, start_lines)
        # A batch system leaves a stopped run little time, and the figures of a long run may take minutes.
        next_method = "random" if prepo.rules["selection"]["name"] == "forecast" else "forecast"
        print(closing_summary(run_dir, draws=stopped is None, next_method=next_method))
        if stopped:
            sys.exit(_report_stop(*stopped, config.trainer.resume_mode, first_step, total_steps))


def check_libraries(config: DictConfig, prepo: PrepoConfig, data: DataFound, *, starts_ray: bool) -> Findings:
    """Import verl and make the checks that need it. With ``starts_ray``, Ray starts meanwhile."""
    # About engines that are not installed, a critic that no method has, Ray's token, the platform: nothing to change.
    for text in (".* engine is not available", "Disabled critic"):
        warnings.filterwarnings("ignore", message=text)
    for name in ("ray._private.authentication.authentication_token_setup", "verl.plugin.platform.platform_manager"):
        logging.getLogger(name).addFilter(lambda _record: False)
    with ThreadPoolExecutor(1) as beside:
        imported = beside.submit(import_modules, ["verl.trainer.main_ppo"])
        if starts_ray:
            import ray

            ray_init: Any = OmegaConf.to_container(config.ray_kwargs.ray_init, resolve=True)
            ray.init(**ray_init)
        imported.result()
    from recipe.prepo.verl_checks import check_with_verl

    return check_with_verl(config, prepo, data)


def train(config: DictConfig, start_lines: StartLines) -> tuple[int, str] | None:
    """Run verl's V1 task runner with this recipe's trainer; returns the last step and the signal that stopped it.

    Raises:
        ConfigError: another run is on the cluster.
        FaultError: a process of the run died, or a checkpoint could not be written.
    """
    import ray
    from verl.trainer.constants_ppo import get_ppo_ray_runtime_env
    from verl.trainer.main_ppo import TaskRunnerV1, run_ppo

    import recipe.prepo.modes  # noqa: F401  (a broken hook shows its own traceback here)
    from recipe.prepo.supervise import messages

    try:
        with StopSignals(messages.request_stop) as signals, ExitStack() as quiet:
            task_runner = TaskRunnerV1
            if ray.is_initialized():  # without what verl gives to a Ray that it starts
                environment = get_ppo_ray_runtime_env(config)["env_vars"]
                environment |= {"TRANSFER_QUEUE_ENABLE": "1"} if config.transfer_queue.enable else {}
                task_runner = TaskRunnerV1.options(runtime_env={"env_vars": environment})
            else:
                start_lines.now("Ray")
            quiet.enter_context(redirect_stdout(io.StringIO()))  # verl prints dictionaries until Ray has started

            def before_training() -> None:
                quiet.close()
                signals.install()
                messages.require_lone_run()
                start_lines.now("the trainer")
                start_lines.follow_actors()

            run_ppo(config, task_runner_class=messages.CallFirst(task_runner, before_training))
        if failed := messages.get(messages.FAILED):
            print(f"warning: in all, {failed.rstrip('.')}. They were left out.", file=sys.stderr)
        stopped_after = messages.get(messages.STOPPED)
        return (int(stopped_after), signals.requested_by) if stopped_after else None
    except Exception as error:
        fault = messages.fault_behind(error)
        pid = messages.failed_process(fault or str(error))
        if fault:
            raise FaultError(f"{fault} Its log: {worker_log(config, pid)}" if pid else fault) from error
        if isinstance(error, PrepoError):
            raise
        traceback.print_exception(error)
        raise FaultError(f"{messages.describe(error)}. Its log: {worker_log(config, pid)}") from error
    finally:
        if ray.is_initialized():
            for remark in new_remarks():
                print(f"note: {remark}")
            messages.clear()


def new_remarks() -> list[str]:
    if "ray" not in sys.modules:
        return []
    from recipe.prepo.supervise import messages

    return messages.new_remarks()


def _report_stop(step: int, signal_name: str, resume_mode: str, first_step: int, total_steps: int) -> int:
    """Print how to resume a run that a signal stopped, and return its exit status."""
    when, how = f"after step {step} of {total_steps}", "the same command resumes from it"
    # Where the same command would get no further, EXIT_STOPPED would make a batch system start it for ever.
    status = 128 + signal.Signals[signal_name]
    if step <= first_step:
        when, how = "before the first step was done", "the same command starts there again"
    elif resume_mode != "auto":
        how = f"{RESUME} resumes from it"
    else:
        status = EXIT_STOPPED
    print(f"stopped        {when} ({signal_name}); {how}")
    return status


def ray_logs(config: DictConfig) -> str:
    """Where the workers of this run write their logs; for a message."""
    roots = ray_roots(config.ray_kwargs.ray_init.get("_temp_dir"))
    found = [name for pattern in session_folders(roots) for name in glob.glob(pattern)]
    newest = max(found, key=os.path.basename, default="/tmp/ray/session_latest")
    return os.environ.get("PREPO_RAY_LOGS") or f"{newest}/logs"


def worker_log(config: DictConfig, pid: str) -> str:
    """The log of the worker with this process id; where it is not known, the folder of all logs."""
    folder = ray_logs(config)
    return next(iter(glob.glob(f"{folder}/worker-*-{pid}.err") if pid else ()), folder)


@contextmanager
def readable_errors() -> Iterator[None]:
    """Print an error meant for users without a traceback, and exit with its status."""
    try:
        yield
    except PrepoError as error:
        # Ray re-raises a worker's error as a subclass whose text is the remote traceback; its cause is the error.
        print(f"error: {getattr(error, 'cause', error)}", file=sys.stderr)
        sys.exit(error.exit_status)


def main() -> None:
    with readable_errors():
        set_paths()
        options = [argument for argument in sys.argv[1:] if argument.startswith("-")]
        if all(option.startswith(("--config-path", "--config-name", "-cp", "-cn")) for option in options):
            compose_config(sys.argv[1:])  # Hydra's own errors suggest nothing
    run()


if __name__ == "__main__":
    main()
