#!/usr/bin/env bash
# Training on every GPU of one machine.
#
#   ./launch/gpu.sh bmshj2018_hyperprior:4 runs/hyperprior-4 --config.data.source=PHOTOS
#
# Run it again after an interruption: it goes on from the last checkpoint. CUDA_VISIBLE_DEVICES chooses GPUs.
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
if [ $# -lt 2 ]; then
  echo "usage: $0 CONFIG[:ARGUMENT] WORKDIR [--config.key=value ...]" >&2
  exit 2
fi
prepare "train"
if ! "$VENV/bin/python" -c 'import jax; jax.devices("gpu")' 2>/dev/null; then
  "$VENV/bin/python" -m pip install --quiet -c "$ROOT/launch/constraints.txt" "jax[cuda${CUDA:-13}]"
fi
activate
cd "$ROOT"
CONFIG="$1" WORKDIR="$2"
shift 2
JAX_PLATFORMS="${JAX_PLATFORMS:-cuda}" exec mlic train --config "$CONFIG" --workdir "$WORKDIR" "$@"
