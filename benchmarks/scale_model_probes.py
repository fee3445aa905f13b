"""What the one driver process of a run costs: the data set and TransferQueue, measured here for ``scale_model``.

``python -m benchmarks.scale_model_probes [--prompts N …] [--rollouts N …]``. No model; a real TransferQueue on
loopback. Each size of the data set runs in a process of its own. The figures go to outputs/bench/scale_probes.json.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.scale import WatchPeak, in_a_process, resident_mb, seconds
from recipe.prepo.controller import data_fingerprint
from recipe.prepo.doctor import compose_config
from recipe.prepo.maths.prompt_index import PromptIndex
from recipe.prepo.rows import validate_files

OUT = Path("outputs/bench/scale_probes.json")
CHUNK = 50_000


def write_data(path: Path, num_prompts: int) -> None:
    """A parquet file of distinct short prompts, in the schema that ``data_prep`` writes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def rows(start: int, stop: int) -> pa.Table:
        return pa.table(
            {
                "data_source": ["probe"] * (stop - start),
                "prompt": [[{"role": "user", "content": f"What is {i} plus {i // 7}?"}] for i in range(start, stop)],
                "ability": ["math"] * (stop - start),
                "reward_model": [{"style": "rule", "ground_truth": str(i + i // 7)} for i in range(start, stop)],
                "extra_info": [
                    {"prompt_id": f"probe-{i:09d}", "split": "train", "index": i} for i in range(start, stop)
                ],
            }
        )

    first = rows(0, min(CHUNK, num_prompts))
    with pq.ParquetWriter(path, first.schema) as writer:
        writer.write_table(first)
        for start in range(CHUNK, num_prompts, CHUNK):
            writer.write_table(rows(start, min(start + CHUNK, num_prompts)))


def column_ids(dataframe: Any) -> list[str]:
    """The training set's prompt ids through rows of Python dictionaries, as the trainer reads them."""
    return [info["prompt_id"] for info in dataframe["extra_info"]]


def arrow_ids(dataframe: Any) -> Iterator[str]:
    """The same ids from the Arrow column, a chunk at a time."""
    import pyarrow.compute as pc

    for batch in dataframe.with_format("arrow").select_columns(["extra_info"]).iter(CHUNK):
        yield from pc.struct_field(batch["extra_info"], "prompt_id").to_pylist()


def measured(function: Any) -> tuple[dict[str, float], Any]:
    """Seconds and peak MiB above what was held before."""
    resting = resident_mb()
    with WatchPeak() as watch:
        spent, result = seconds(function)
    return {"s": spent, "peak_mb": watch.peak_mb - resting}, result


def measure_data(num_prompts: int, folder: str) -> dict[str, Any]:
    """verl's data set and sampler and this recipe's start-up work, over ``num_prompts`` prompts."""
    import datasets
    import torch
    from torchdata.stateful_dataloader.sampler import RandomSampler

    datasets.disable_progress_bars()
    path = Path(folder) / "train.parquet"
    write_data(path, num_prompts)
    result: dict[str, Any] = {"prompts": num_prompts, "parquet_mb": path.stat().st_size / 2**20}
    result["validate"], _ = measured(lambda: validate_files([path]))
    result["load"], data = measured(
        lambda: datasets.load_dataset("parquet", data_files=str(path), cache_dir=f"{folder}/cache")["train"]
    )
    result["arrow_cache_mb"] = sum(f.stat().st_size for f in Path(folder, "cache").rglob("*") if f.is_file()) / 2**20
    result["ids_by_rows"], ids = measured(lambda: column_ids(data))
    result["fingerprint"], fingerprint = measured(lambda: data_fingerprint(ids))
    result["index"], _ = measured(lambda: PromptIndex(ids))
    ids.clear()
    result["ids_by_arrow"], again = measured(lambda: data_fingerprint(arrow_ids(data)))
    assert again == fingerprint
    sampler = iter(RandomSampler(range(num_prompts), generator=torch.Generator()))
    state = sampler.state_dict() | {"yielded": num_prompts - 1}
    result["permutation"], _ = measured(lambda: iter(RandomSampler(range(num_prompts), generator=torch.Generator())))
    result["resume_sampler"], _ = measured(lambda: sampler.load_state_dict(state))
    return result


def measure_fetch(num_candidates: int, folder: str) -> dict[str, Any]:
    """One dispatch's prompts out of verl's data loader: as one batch, and one by one as its other modes fetch them."""
    from omegaconf import open_dict
    from torchdata.stateful_dataloader import StatefulDataLoader
    from transformers import AutoTokenizer
    from verl.trainer.ppo.utils import create_rl_dataset, create_rl_sampler
    from verl.utils import tensordict_utils as tu
    from verl.utils.dataset.rl_dataset import collate_fn

    path = Path(folder) / "train.parquet"
    write_data(path, max(2000, 4 * num_candidates))
    config = compose_config(["experiment=tiny_cpu"])
    with open_dict(config):
        config.data.cache_dir = folder
    tokenizer = AutoTokenizer.from_pretrained(config.actor_rollout_ref.model.path)
    make: Any = lambda: create_rl_dataset(str(path), config.data, tokenizer, None, is_train=True)  # noqa: E731
    config.data.filter_overlong_prompts = False
    plain_s, dataset = seconds(make)
    config.data.filter_overlong_prompts = True
    filtered_s, _ = seconds(make)

    def fetcher(batch_size: int) -> Any:
        loader = iter(
            StatefulDataLoader(
                dataset,
                batch_size=batch_size,
                num_workers=0,
                drop_last=True,
                collate_fn=collate_fn,
                sampler=create_rl_sampler(config.data, dataset),
            )
        )

        def fetch() -> Any:
            batch = next(loader)
            batch["uid"] = [str(uuid.uuid4()) for _ in range(batch_size)]
            return tu.get_tensordict(batch)

        return fetch

    whole, single = fetcher(num_candidates), fetcher(1)
    whole(), single()
    whole_s, _ = seconds(whole)
    single_s, chunks = seconds(lambda: [single() for _ in range(num_candidates)])
    concat_s, _ = seconds(lambda: tu.concat_tensordict(chunks))
    return {
        "candidates": num_candidates,
        "one_batch_s": whole_s,
        "one_by_one_s": single_s,
        "concatenate_s": concat_s,
        "filter_overlong_s_per_prompt": (filtered_s - plain_s) / len(dataset),
    }


def measure_transfer_queue(num_rollouts: Sequence[int], num_tokens: Sequence[int]) -> list[dict[str, Any]]:
    """Put, get, list and clear one fp32 column of entropies, a row a rollout, through a real queue on loopback."""
    import ray
    import transfer_queue as tq

    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False)
    config = compose_config(["experiment=tiny_cpu"]).transfer_queue
    config.enable = True
    tq.init(config)
    try:
        return [time_column(size, tokens) for tokens in num_tokens for size in num_rollouts]
    finally:
        tq.close()
        ray.shutdown()


def time_column(num_rollouts: int, num_tokens: int) -> dict[str, Any]:
    """One column of ``num_rollouts`` rows; the fastest of three gets and lists, the one put."""
    import torch
    import transfer_queue as tq
    from tensordict import TensorDict

    keys = [f"{uuid.uuid4()}_0_0" for _ in range(num_rollouts)]
    tags = [{"response_len": num_tokens, "status": "finished"} for _ in keys]
    column = torch.nested.as_nested_tensor([torch.rand(num_tokens) for _ in keys], layout=torch.jagged)
    fields = TensorDict({"entropy": column}, batch_size=num_rollouts)
    put_s, _ = seconds(lambda: tq.kv_batch_put(keys=keys, partition_id="x", fields=fields, tags=tags))
    gets = [seconds(lambda: tq.kv_batch_get(keys=keys, partition_id="x", select_fields=["entropy"])) for _ in range(3)]
    lists = [seconds(tq.kv_list) for _ in range(3)]
    tq.kv_clear(keys=keys, partition_id="x")
    return {
        "rollouts": num_rollouts,
        "tokens": num_tokens,
        "bytes": 4 * num_rollouts * num_tokens,
        "put_s": put_s,
        "get_s": min(spent for spent, _ in gets),
        "list_s": min(spent for spent, _ in lists),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--candidates", type=int, nargs="*", default=[80, 640])
    parser.add_argument("--rollouts", type=int, nargs="*", default=[128, 1024, 4096])
    parser.add_argument("--tokens", type=int, nargs="*", default=[16, 1024])
    arguments = parser.parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = "1"
    OUT.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict[str, Any]]] = {"data": [], "fetch": []}
    for name, measure, sizes in (
        ("data", measure_data, arguments.prompts),
        ("fetch", measure_fetch, arguments.candidates),
    ):
        for size in sizes:
            with tempfile.TemporaryDirectory(dir=OUT.parent) as folder:
                found[name].append(in_a_process(measure, size, folder))
            print(json.dumps(found[name][-1]), flush=True)
    if arguments.rollouts:
        found["transfer_queue"] = measure_transfer_queue(arguments.rollouts, arguments.tokens)
        for row in found["transfer_queue"]:
            print(json.dumps(row), flush=True)
    known = json.loads(OUT.read_text()) if OUT.exists() else {}
    OUT.write_text(json.dumps(known | {name: rows for name, rows in found.items() if rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
