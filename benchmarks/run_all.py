"""Every benchmark in turn, with its table under outputs/bench/: ``python -m benchmarks.run_all``."""

from __future__ import annotations

from benchmarks import overhead, pools, prefix_cache, scale, scoring


def main() -> None:
    for benchmark in (scale, scoring, prefix_cache, overhead, pools):
        print(f"== {benchmark.__name__}", flush=True)
        benchmark.main([])


if __name__ == "__main__":
    main()
