"""bf16 against float64 on a randomly initialised model: prompt scores, entropies, weights. Part of ``gpu_check``."""

from __future__ import annotations

import math
import resource
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recipe.prepo.maths.entropy import sequence_entropy_nats
from recipe.prepo.maths.perplexity import mean_nll_nats, perplexity
from recipe.prepo.maths.rng import make_generator
from recipe.prepo.rules.selection.ppl_schedule import ascending_order, window_start
from recipe.prepo.rules.weighting.relative_entropy import relative_entropy_weights
from recipe.prepo.tools.stats import spearman

SEED = 0
# With the usual initialisation every token entropy of a random model is close to ln V. The final norm is scaled so that
# the logits have this standard deviation: entropies are then a few nats and differ from token to token (3.4 ± 1.1 at
# temperature 1 for V = 151,936), and the logits have a range like a trained model's.
LOGIT_STD = 5.0
TEMPERATURES = (0.7, 1.0, 1.3)
PROGRESS = (0.0, 0.5, 1.0)
CPU_REFERENCE_PROMPTS = 64
CHUNK_TOKENS = 600
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Size:
    """Shape of the model, and of a step: |B| prompts scored, K chosen, M rollouts each."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    vocab_size: int
    num_candidates: int
    num_selected: int
    rollouts_per_prompt: int
    prompt_tokens: int
    response_tokens: int


SIZES = {
    "math-1.5b": Size(1536, 28, 12, 2, 8960, 151936, 640, 128, 8, 150, 512),
    "tiny": Size(128, 2, 4, 2, 256, 2048, 40, 8, 2, 24, 16),
}


@dataclass(frozen=True)
class Scored:
    """Log-probabilities of prompt tokens with a left context, [C, T - 1]; per temperature the entropies, [C, T]."""

    log_probs_C_T: FloatArray
    entropy_nats_C_T: dict[float, FloatArray]


def random_prompts(rng: np.random.Generator, size: Size, num_prompts: int) -> NDArray[np.int64]:
    return rng.integers(size.vocab_size, size=(num_prompts, size.prompt_tokens))


def model_config(size: Size) -> Any:
    from transformers import Qwen2Config

    shape = {name: value for name, value in asdict(size).items() if name in vars(Qwen2Config())}
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    return Qwen2Config(
        **shape, tie_word_embeddings=True, rope_parameters=rope, architectures=["Qwen2ForCausalLM"], dtype="bfloat16"
    )


def random_model(size: Size, device: str) -> Any:
    """A seeded Qwen2 in bf16 whose final norm scales the logits to a standard deviation of ``LOGIT_STD``."""
    import torch
    from transformers import AutoModelForCausalLM

    config = model_config(size)
    torch.manual_seed(SEED)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    with torch.no_grad():
        model.model.norm.weight.fill_(LOGIT_STD / (config.initializer_range * math.sqrt(size.hidden_size)))
    return model.to(device)


def cast_parameters(model: Any, dtype: Any) -> None:
    """Unlike ``model.to(dtype)``, this does not round the rotary frequencies. Upwards it is exact."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def make_float64(model: Any) -> None:
    """Transformers computes norms and rotary angles in float32 whatever the parameters are; here they are float64."""
    import torch

    class Rotary(torch.nn.Module):
        def forward(self, hidden: Any, position_ids: Any) -> Any:
            half = head_dim // 2
            frequency = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=hidden.device) / half)
            angle = (position_ids[..., None].double() * frequency).repeat(1, 1, 2)
            return angle.cos(), angle.sin()

    def norm(old: Any) -> Any:
        new = torch.nn.RMSNorm(old.weight.numel(), eps=model.config.rms_norm_eps, device="meta")
        new.weight = old.weight
        return new

    cast_parameters(model, torch.float64)
    head_dim = model.config.hidden_size // model.config.num_attention_heads
    model.model.rotary_emb, model.model.norm = Rotary(), norm(model.model.norm)
    for layer in model.model.layers:
        layer.input_layernorm = norm(layer.input_layernorm)
        layer.post_attention_layernorm = norm(layer.post_attention_layernorm)


def score(model: Any, prompts_C_T: NDArray[np.int64], softmax_dtypes: dict[str, Any]) -> dict[str, Scored]:
    """One pass over the prompts in chunks; log-softmax and entropies of its logits in each of the dtypes."""
    import torch

    parts: dict[str, list[tuple[Any, Any]]] = {name: [] for name in softmax_dtypes}
    rows_per_chunk = max(1, CHUNK_TOKENS // prompts_C_T.shape[1])
    with torch.inference_mode():
        for rows in torch.as_tensor(prompts_C_T).split(rows_per_chunk):
            rows = rows.to(model.device)
            model_logits = model(input_ids=rows, use_cache=False).logits
            for name, dtype in softmax_dtypes.items():
                logits = model_logits.to(dtype)
                log_probs = logits[:, :-1].log_softmax(-1).gather(-1, rows[:, 1:, None])[..., 0]
                scaled = (logits / temperature for temperature in TEMPERATURES)
                # H = logsumexp(z) - sum(p z), as verl's entropy_from_logits has it.
                entropies = [z.logsumexp(-1) - (z.softmax(-1) * z).sum(-1) for z in scaled]
                parts[name].append((log_probs.double().cpu(), torch.stack(entropies).double().cpu()))
    return {
        name: Scored(
            torch.cat([log_probs for log_probs, _ in chunks]).numpy(),
            dict(zip(TEMPERATURES, torch.cat([e for _, e in chunks], dim=1).numpy(), strict=True)),
        )
        for name, chunks in parts.items()
    }


def figures_of(scored: Scored, lengths_R: NDArray[np.int64]) -> dict[str, FloatArray]:
    """What this project computes from them. Each prompt also serves as a rollout, cut to its own length."""
    nll_nats_C = np.array([mean_nll_nats(row) for row in scored.log_probs_C_T])
    figures = {"prompt_nll_nats": nll_nats_C, "prompt_ppl": perplexity(nll_nats_C)}
    for temperature, entropy_R_T in scored.entropy_nats_C_T.items():
        mask_R_T = np.arange(entropy_R_T.shape[1]) < lengths_R[:, None]
        entropy_R = sequence_entropy_nats(entropy_R_T, mask_R_T)
        figures[f"token_entropy_nats_T{temperature}"] = entropy_R_T
        figures[f"rollout_entropy_nats_T{temperature}"] = entropy_R
        figures[f"rollout_weight_T{temperature}"] = relative_entropy_weights(entropy_R)
    return figures


def num_chosen_changed(found_ppl_C: FloatArray, ppl_C: FloatArray, num_selected: int) -> dict[float, int]:
    """How many prompts of PREPO's window are other ones by these perplexities, at each of ``PROGRESS``."""
    ids, changed = [f"{i:06d}" for i in range(len(ppl_C))], {}
    for progress in PROGRESS:
        start = window_start(progress, len(ids), num_selected)
        chosen = [set(ascending_order(side, ids)[start : start + num_selected]) for side in (found_ppl_C, ppl_C)]
        changed[progress] = len(chosen[0] - chosen[1])
    return changed


def compare(found: dict[str, FloatArray], reference: dict[str, FloatArray], size: Size) -> dict[str, Any]:
    """Errors of each figure (relative for perplexities), and their effect on ranking and window."""
    result: dict[str, Any] = {}
    for name, values in found.items():
        error = values - reference[name]
        if name == "prompt_ppl":
            error = error / reference[name]
        rms, largest = float(np.sqrt((error**2).mean())), float(np.abs(error).max())
        result[name] = {"mean_error": float(error.mean()), "rms_error": rms, "max_abs_error": largest}
    result["spearman"] = spearman(found["prompt_ppl"], reference["prompt_ppl"])
    num_prompts = len(reference["prompt_ppl"])
    num_selected = num_prompts * size.num_selected // size.num_candidates
    changed = num_chosen_changed(found["prompt_ppl"], reference["prompt_ppl"], num_selected)
    result["num_chosen_changed"] = {str(progress): changed[progress] for progress in PROGRESS}
    return result | {"num_chosen": num_selected}


def measure_numerics(size: Size, device: str) -> dict[str, Any]:
    """bf16 and float32 against float64, all with the same weights, which are bf16 numbers."""
    import torch

    model = random_model(size, device)
    prompts = random_prompts(make_generator(SEED, "prompts"), size, size.num_candidates)
    lengths = make_generator(SEED, "lengths").integers(size.prompt_tokens // 8, size.prompt_tokens + 1, len(prompts))
    with torch.inference_mode():
        logit_std = float(model(torch.as_tensor(prompts[:4]).to(device)).logits.float().std(-1).mean())
    scored = score(model, prompts, {"bf16": torch.float32, "bf16_softmax": torch.bfloat16})
    cast_parameters(model, torch.float32)
    scored |= score(model, prompts, {"float32": torch.float32})
    logit_bytes = 6 * 8 * CHUNK_TOKENS * size.vocab_size
    if device == "cuda":
        available = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
        if 8 * model.num_parameters() + logit_bytes > available:
            model, prompts = model.cpu(), prompts[:CPU_REFERENCE_PROMPTS]
            torch.cuda.empty_cache()
    make_float64(model)
    reference = figures_of(score(model, prompts, {"float64": torch.float64})["float64"], lengths[: len(prompts)])
    statistics_of: dict[str, Any] = {"mean": np.mean, "std": np.std, "min": np.min, "max": np.max}
    compared = {}
    for name, found in scored.items():
        entropies = {temperature: rows[: len(prompts)] for temperature, rows in found.entropy_nats_C_T.items()}
        cut = Scored(found.log_probs_C_T[: len(prompts)], entropies)
        compared[name] = compare(figures_of(cut, lengths[: len(prompts)]), reference, size)
    return {
        "logit_std": logit_std,
        "num_prompts": len(prompts),
        "reference_device": model.device.type,
        "reference": {n: {s: float(f(v)) for s, f in statistics_of.items()} for n, v in reference.items()},
        "errors": compared,
        "peak_memory_gib": allocated_gib(device),
    }


def allocated_gib(device: str) -> float:
    """Peak memory: allocated by torch on the GPU since the last call, or resident on the CPU."""
    import torch

    if device == "cuda":
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return peak / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
