#!/usr/bin/env bash
# Makes an environment with CompressAI 1.2.8 on the CPU build of PyTorch (1.4 GB), for the benchmarks that compare with it.
# It cannot share ours: it needs numpy 1.
#
#     benchmarks/compressai_env.sh [FOLDER]     # default: .venv-compressai beside the checkout
#     PYTHON=python3.11 benchmarks/compressai_env.sh
#
# Prints the path of its Python at the end, which is what the benchmarks' --compressai takes.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
FOLDER="${1:-$ROOT/.venv-compressai}"

if [ ! -x "$FOLDER/bin/python" ]; then
  "${PYTHON:-python3.11}" -m venv "$FOLDER"
fi
pip() { "$FOLDER/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
# PyTorch first and pinned in both lines: left to itself, pip takes a later one with gigabytes of CUDA packages.
pip torch==2.13.0
pip torch==2.13.0 compressai==1.2.8
echo "$FOLDER/bin/python"
