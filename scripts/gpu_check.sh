#!/usr/bin/env bash
# What one GPU shows of this recipe: a table on stdout, and outputs/bench/gpu_check.json. No network, no weights.
#
#   bash scripts/gpu_check.sh [--size math-1.5b|tiny] [--device cuda|cpu] [--rounds N] [--skip-stack] [--out DIR]
#
# bf16 against float64, the cost of scoring beside generating, and 20 steps of the real stack against stock verl.
# It runs in the environment that scripts/setup_env.sh finds for GPUs, else in any python with torch and transformers;
# what such a one lacks vLLM or verl for is "not measured". A machine without a GPU measures nothing: exit status 0.
# --device cpu --size tiny tries the check itself, in seconds.
set -euo pipefail

ROOT="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)"
cd -- "$ROOT"

say() { printf '[gpu_check] %s\n' "$*" >&2; }

device=cuda previous=""
for argument in "$@"; do
    case $argument in
        -h | --help) sed -n '2,/^set -e/{/^set -e/d; s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}" && exit 0 ;;
        --device=*) device="${argument#*=}" ;;
        *) [[ "$previous" != --device ]] || device="$argument" ;;
    esac
    previous="$argument"
done

plain_python() {
    local candidate
    for candidate in ${VIRTUAL_ENV:+"$VIRTUAL_ENV/bin/python"} python3 python; do
        if "$candidate" -c 'import importlib.util as u, sys
sys.exit(not all(map(u.find_spec, ("numpy", "torch", "transformers"))))' 2>/dev/null; then
            command -v -- "$candidate"
            return
        fi
    done
    say "error: neither the active environment nor python3 has numpy, torch and transformers. Activate one that has:"
    say "    python3.11 -m venv gpu-env && . gpu-env/bin/activate && pip install -e '${ROOT}[gpu]'"
    return 2
}

if [[ "$device" == cpu ]]; then
    PY="$(plain_python)"
elif ! bash scripts/setup_env.sh --has-gpu; then
    echo "GPU check: not measured, because this machine shows no GPU (--device cpu --size tiny tries the check itself)"
    exit 0
elif ! PY="$(bash scripts/setup_env.sh --platform gpu --print-python)"; then
    say "going on without vLLM's and verl's parts, with any python that has torch and transformers"
    PY="$(plain_python)"
fi
exec "$PY" -m benchmarks.gpu_check "$@"
