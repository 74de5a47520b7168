#!/usr/bin/env bash
# Training on every GPU of one machine.
#
#   ./launch/gpu.sh bmshj2018_hyperprior:4 runs/hyperprior-4 --config.data.source=PHOTOS
#
# Run it again after an interruption: it goes on from the last checkpoint. CUDA_VISIBLE_DEVICES chooses GPUs. Paths are
# those of the folder where it is typed.
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
need_config_and_workdir "$@"
prepare "train" cuda
activate
CONFIG="$1" WORKDIR="$2"
shift 2
JAX_PLATFORMS="${JAX_PLATFORMS:-cuda}" exec mlic train --config "$CONFIG" --workdir "$WORKDIR" "$@"
