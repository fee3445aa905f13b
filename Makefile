# Every tool comes from the environment that scripts/setup_env.sh finds or makes.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup test unit lint format bench compare faults clean

ENV = py="$$(bash scripts/setup_env.sh --platform cpu --dev --print-python)";
# With their doctests. Importing these modules imports no verl, Ray or vLLM.
LIGHT = recipe/prepo data_prep --ignore=recipe/prepo/trainer --ignore=recipe/prepo/supervise \
	--ignore=recipe/prepo/cpu --ignore=recipe/prepo/modes.py --ignore=recipe/prepo/plugin.py --ignore=recipe/prepo/main.py

help:
	@echo "make setup | test | unit (seconds) | lint | format | bench | compare (an hour) | faults (hours) | clean"

setup:
	@bash scripts/setup_env.sh --platform cpu --dev

# One pytest at the end, so that its closing line counts every test: unit tests and doctests, contract, end to end.
test: lint
	@$(ENV) exec "$$py" -m pytest --doctest-modules tests/unit recipe/prepo data_prep tests/contract tests/e2e

unit:
	@$(ENV) exec "$$py" -m pytest --doctest-modules tests/unit $(LIGHT)

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
