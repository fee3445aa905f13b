#!/usr/bin/env bash
# Set up, then train:  bash run_qwen.sh experiment=<name> [key=value …]    (on Slurm: sbatch -N2 run_qwen.sh …)
#SBATCH --job-name=prepo --requeue --open-mode=append --signal=B:TERM@120
set -euo pipefail

# Under sbatch this file is a copy in Slurm's spool: the project is where the job was submitted.
if [[ -n "${SLURM_JOB_ID:-}" && -f "${SLURM_SUBMIT_DIR:-}/conf/prepo.yaml" ]]; then
    cd -- "$SLURM_SUBMIT_DIR"
else
    cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
fi

is_cpu() { grep -qx '# platform: cpu' "conf/experiment/$1.yaml"; }
experiments=()
for argument in "$@"; do
    # A sweep (--multirun) names several, with commas between them.
    if [[ "$argument" == experiment=* ]]; then IFS=, read -ra experiments <<<"${argument#experiment=}"; fi
done

unknown=""
for name in ${experiments[@]+"${experiments[@]}"}; do
    [[ -f "conf/experiment/$name.yaml" ]] || unknown="$name"
done
if [[ ${#experiments[@]} -eq 0 || -n "$unknown" ]]; then
    [[ -z "$unknown" ]] || echo "error: there is no experiment «$unknown»." >&2
    echo "usage: bash run_qwen.sh experiment=<name> [key=value …], where <name> is one of:" >&2
    for file in conf/experiment/*.yaml; do
        file="$(basename -- "$file" .yaml)"
        if is_cpu "$file"; then echo "  $file (CPU)" >&2; else echo "  $file (GPU)" >&2; fi
    done
    exit 2
fi

platform=cpu
for name in "${experiments[@]}"; do is_cpu "$name" || platform=gpu; done
for name in "${experiments[@]}"; do
    if [[ $platform == gpu ]] && is_cpu "$name"; then
        echo "error: experiment=$name is for the CPU, another one of this sweep for GPUs; run them one after the other." >&2
        exit 2
    fi
done
# In a Slurm job the nodes are Slurm's business; without its commands (in some containers) this is a lone machine.
slurm=no
if [[ -n "${SLURM_JOB_ID:-}" && -z "${RAY_ADDRESS:-}" ]]; then
    if command -v srun >/dev/null && command -v scontrol >/dev/null; then
        slurm=yes
    elif [[ "${SLURM_JOB_NUM_NODES:-1}" != 1 ]]; then
        echo "error: this Slurm job has $SLURM_JOB_NUM_NODES nodes, but srun and scontrol are not on PATH here." >&2
        exit 2
    fi
fi
if [[ $platform == gpu && $slurm == no && -z "${RAY_ADDRESS:-}" ]] && ! bash scripts/setup_env.sh --has-gpu; then
    echo "error: experiment=${experiments[0]} needs GPUs, and this machine shows none. To train on the CPU:" >&2
    echo "    bash run_qwen.sh experiment=tiny_cpu" >&2
    exit 2
fi
PY="$(bash scripts/setup_env.sh --platform "$platform" --print-python)"
if [[ $slurm == yes ]]; then exec "$PY" scripts/slurm_run.py "$@"; fi
exec "$PY" -m recipe.prepo.main "$@"
