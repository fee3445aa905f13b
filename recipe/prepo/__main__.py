"""``prepo <command> …``, also ``python -m recipe.prepo``: one door to the commands. Imports only the one that runs."""

from __future__ import annotations

import difflib
import importlib
import sys
from importlib.resources import files

COMMANDS = {
    "train": ("recipe.prepo.main", "train: prepo train experiment=tiny_cpu"),
    "doctor": ("recipe.prepo.doctor", "would this run start? Same arguments as train; without Ray or a GPU"),
    "data": ("data_prep.__main__", "make data files for verl from a public data set, or from your own rows"),
    "methods": ("recipe.prepo.tools.methods", "list the methods with their rules"),
    "report": ("recipe.prepo.report", "draw the report of a run, or compare several"),
    "evaluate": ("recipe.prepo.evaluate", "accuracy of a model on sets of questions, with intervals"),
    "analyze": ("recipe.prepo.analyze", "before training: does perplexity go with difficulty on your data?"),
    "completion": ("", 'completion for the shell: eval "$(prepo completion bash)"'),
}
# Hydra's own --help would print the whole configuration.
TRAIN_HELP = """\
usage: prepo {command} experiment=<name> [method=<name>] [key=value …]

Every argument is a Hydra override of conf/. Without an experiment, all defaults are verl's. Often used:
  method=mopps_ppl                           rules of one method (prepo methods lists them)
  actor_rollout_ref.model.path=org/model     model folder or hub id
  data.train_files=… data.val_files=…        data files (prepo data own makes them)
  reward.custom_reward_function.path=F.py reward.custom_reward_function.name=NAME
  data.train_batch_size=128                  prompts a step
  actor_rollout_ref.rollout.n=8              rollouts of each prompt
  trainer.total_training_steps=100 trainer.test_freq=20 trainer.save_freq=20
  trainer.nnodes=1 trainer.n_gpus_per_node=8 prepo.seed=0 trainer.experiment_name=mine
  --multirun method=random,prepo prepo.seed=0,1 (one run after the other)
  --cfg job                                  print the configuration, and do nothing

experiments: {experiments}
methods:     {methods}
The exit status is 0, 2 after bad input, 75 when a signal stopped the run: the same command resumes it.
"""
COMPLETION = """\
_prepo() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}} key="" words=""
    [[ $before != "=" ]] || key=${{COMP_WORDS[COMP_CWORD - 2]}}
    [[ $word != "=" ]] || word="" key=$before
    case $COMP_CWORD:${{COMP_WORDS[1]}}:$key in
        1:*) words="{commands}" ;;
        *:experiment) words="{experiments}" ;;
        *:method) words="{methods}" ;;
        *:train: | *:doctor:) words="experiment= method=" && compopt -o nospace ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _prepo prepo
"""


def main() -> int | None:
    """Run the command that ``sys.argv`` names; returns its exit status."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help", "help"):
        lines = [f"  {command:12}{about}" for command, (_, about) in COMMANDS.items()]
        print("usage: prepo <command> …\n", *lines, "\nprepo <command> --help says more.", sep="\n")
        return 0
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"Did you mean {close[0]}?" if close else "prepo --help lists them."
        print(f"error: prepo has no command {name!r}. {hint}", file=sys.stderr)
        return 2
    names = {group: " ".join(known_names(group[:-1])) for group in ("experiments", "methods")}
    if name == "completion":
        if rest[:1] != ["bash"]:
            print("usage: prepo completion bash   (in zsh: autoload -U bashcompinit && bashcompinit first)")
            return 0 if set(rest) & {"-h", "--help"} else 2
        print(COMPLETION.format(commands=" ".join(COMMANDS), **names), end="")
        return 0
    if name in ("train", "doctor") and set(rest) & {"-h", "--help"}:
        print(TRAIN_HELP.format(command=name, **names), end="")
        return 0
    sys.argv = [f"prepo {name}", *rest]
    status: int | None = importlib.import_module(COMMANDS[name][0]).main()
    return status


def known_names(group: str) -> list[str]:
    """Names of the files in ``conf/<group>``."""
    folder = files("recipe.prepo.conf").joinpath(group)
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


if __name__ == "__main__":
    sys.exit(main())
