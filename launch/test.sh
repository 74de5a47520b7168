#!/usr/bin/env bash
# Style and tests, from a clean checkout. Arguments go to pytest, as in: ./launch/test.sh --slow tests/training/test_train.py
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare "test"
activate
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
cd "$ROOT"
ruff check .
ruff format --check .
python -m pytest -n "${WORKERS:-2}" "$@"
