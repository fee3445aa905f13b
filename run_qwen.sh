#!/usr/bin/env bash
# Set up, then train:  bash run_qwen.sh experiment=<name> [key=value …]    (on Slurm: sbatch -N2 run_qwen.sh …)
#SBATCH --job-name=prepo --requeue --open-mode=append --signal=B:TERM@120
set -euo pipefail

# Under sbatch this file is a copy in Slurm's spool folder. The project is where the job was submitted.
if [[ -n "${SLURM_JOB_ID:-}" && -f "${SLURM_SUBMIT_DIR:-}/conf/prepo.yaml" ]]; then
    cd -- "$SLURM_SUBMIT_DIR"
else
    cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
fi

die() {
    printf '%s\n' "error: $1" "${@:2}" >&2
    exit 2
}

is_cpu() { grep -qx '# platform: cpu' "conf/experiment/$1.yaml"; }

usage() {
    echo "usage: bash run_qwen.sh experiment=<name> [method=<name>] [key=value …]"
    echo "Sets up what it needs, then trains. Every further argument is a Hydra override."
    echo "experiments:"
    local file name methods=""
    for file in conf/experiment/*.yaml; do
        name="$(basename -- "$file" .yaml)"
        if is_cpu "$name"; then echo "  $name (CPU)"; else echo "  $name (GPU)"; fi
    done
    for file in conf/method/*.yaml; do methods+=" $(basename -- "$file" .yaml)"; done
    echo "methods:$methods"
    echo "examples:"
    echo "  bash run_qwen.sh experiment=tiny_cpu"
    echo "  bash run_qwen.sh --multirun experiment=comparison method=random,prepo prepo.seed=0,1"
    echo "  sbatch --nodes=2 --gpus-per-node=8 run_qwen.sh experiment=prepo-qwen2.5-math-7b-1n8g cluster=separate"
}

experiments=() methods=()
for argument in "$@"; do
    # A sweep (--multirun) names several, with commas between them.
    case $argument in
        -h | --help) usage && exit 0 ;;
        experiment=*) IFS=, read -ra experiments <<<"${argument#experiment=}" ;;
        method=*) IFS=, read -ra methods <<<"${argument#method=}" ;;
    esac
done

for name in ${experiments[@]+"${experiments[@]}"}; do
    if [[ ! -f "conf/experiment/$name.yaml" ]]; then
        [[ ! -f "conf/method/$name.yaml" ]] || die "'$name' is a method. Use: bash run_qwen.sh experiment=comparison method=$name"
        die "there is no experiment '$name'." "$(usage)"
    fi
done
for name in ${methods[@]+"${methods[@]}"}; do
    [[ -f "conf/method/$name.yaml" ]] || die "there is no method '$name'." "$(usage)"
done
[[ ${#experiments[@]} -gt 0 ]] || die "no experiment was given." "$(usage)"

platform=cpu
for name in "${experiments[@]}"; do is_cpu "$name" || platform=gpu; done
for name in "${experiments[@]}"; do
    if [[ $platform == gpu ]] && is_cpu "$name"; then
        die "experiment=$name is for the CPU, another one of this sweep for GPUs. Run one after the other."
    fi
done

# In a Slurm job, scripts/slurm_run.py starts the nodes. Without Slurm's commands, as in some containers, the job must
# have a single node.
slurm=no
if [[ -n "${SLURM_JOB_ID:-}" && -z "${RAY_ADDRESS:-}" ]]; then
    if command -v srun >/dev/null && command -v scontrol >/dev/null; then
        slurm=yes
    elif [[ "${SLURM_JOB_NUM_NODES:-1}" != 1 ]]; then
        die "this Slurm job has $SLURM_JOB_NUM_NODES nodes, but srun and scontrol are not on PATH here."
    fi
fi
if [[ $platform == gpu && $slurm == no && -z "${RAY_ADDRESS:-}" ]] && ! bash scripts/setup_env.sh --has-gpu; then
    die "experiment=${experiments[0]} needs GPUs, and this machine shows none. To train on the CPU:" \
        "    bash run_qwen.sh experiment=tiny_cpu"
fi
PY="$(bash scripts/setup_env.sh --platform "$platform" --print-python)"
if [[ $slurm == yes ]]; then exec "$PY" scripts/slurm_run.py "$@"; fi
exec "$PY" -m recipe.prepo.main "$@"
